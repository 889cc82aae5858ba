// Memory behind the plain structs of kernels.h: one plan for a call, one scratch for each thread.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "../lerp.h"
#include "kernels.h"

namespace fastcam {

// Hands out aligned, uninitialised arrays that live as long as it does.
class Arena {
 public:
  template <class T>
  T* array(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count > 0 ? count : 1) * sizeof(T) + 63) / 64 * 64;
    void* p = std::aligned_alloc(64, bytes);
    if (!p) throw std::bad_alloc();
    blocks_.emplace_back(p, &std::free);
    return static_cast<T*>(p);
  }

 private:
  std::vector<std::unique_ptr<void, void (*)(void*)>> blocks_;
};

template <class T>
struct PlanMemory : Plan<T> {
  PlanMemory(int64_t h, int64_t w, int64_t H, int64_t W, bool relu, bool bicubic) : Plan<T>{} {
    this->h = h, this->w = w, this->H = H, this->W = W;
    this->words = (W + 63) / 64, this->stride = 64 * this->words;
    this->relu = relu, this->bicubic = bicubic;
    if (h == 0 || w == 0) return;  // masks and finished maps have no coarse grid
    if (bicubic) {
      cubic_axis(w, W, this->stride, this->cx, this->cwx);
      cubic_axis(h, H, H, this->cy, this->cwy);
    } else {
      linear_axis(w, W, this->stride, this->x0, this->x1, this->wx0, this->wx1);
      linear_axis(h, H, H, this->y0, this->y1, this->wy0, this->wy1);
    }
  }

 private:
  Arena arena_;

  void linear_axis(int64_t in, int64_t out, int64_t padded, int32_t*& i0, int32_t*& i1, T*& w0, T*& w1) {
    i0 = arena_.array<int32_t>(padded), i1 = arena_.array<int32_t>(padded);
    w0 = arena_.array<T>(padded), w1 = arena_.array<T>(padded);
    for (int64_t i = 0; i < padded; ++i) {
      const Linear<T> tap = linear<T>(i < out ? i : out - 1, in, out);
      i0[i] = tap.i0, i1[i] = tap.i1, w0[i] = tap.w0, w1[i] = tap.w1;
    }
  }

  void cubic_axis(int64_t in, int64_t out, int64_t padded, int32_t*& first, float*& weights) {
    first = arena_.array<int32_t>(padded), weights = arena_.array<float>(4 * padded);
    for (int64_t i = 0; i < padded; ++i) {
      const Cubic tap = cubic(i < out ? i : out - 1, in, out);
      first[i] = tap.i;
      for (int k = 0; k < 4; ++k) weights[4 * i + k] = tap.w[k];
    }
  }
};

template <class T>
struct ScratchMemory : Scratch<T> {
  // with_masks: room for masks and components too, not only for values.
  ScratchMemory(const Plan<T>& plan, bool with_masks) : Scratch<T>{} {
    if (plan.h > 0) {
      this->coarse = arena_.array<T>(plan.h * plan.w);
      if (plan.bicubic) {
        this->cubic_rows = arena_.array<double>(plan.h * plan.stride);
      } else {
        this->rows = arena_.array<T>(plan.h * plan.stride);
        this->high = arena_.array<T>(plan.h * plan.words);
        this->low = arena_.array<T>(plan.h * plan.words);
        this->row_high = arena_.array<T>(plan.h);
        this->row_low = arena_.array<T>(plan.h);
      }
      this->line = arena_.array<T>(plan.stride);
    }
    if (with_masks) {
      this->mask = arena_.array<uint64_t>(plan.H * plan.words);
      for (Run*& row : this->runs) row = arena_.array<Run>(plan.W / 2 + 1);
      this->components = arena_.array<Component>(plan.H * (plan.W / 2 + 1));
    }
  }

  Arena& arena() { return arena_; }

 private:
  Arena arena_;
};

struct LevelsMemory : Levels {
  LevelsMemory(int64_t H, int64_t W) : Levels{} {
    this->H = H, this->W = W, pitch = (W + 63) / 64 * 64 + 2;
    int64_t* next = offset;
    for (int64_t dy = -1; dy <= 1; ++dy)
      for (int64_t dx = -1; dx <= 1; ++dx)
        if (dy != 0 || dx != 0) *next++ = dy * pitch + dx;
    const int64_t bordered = pitch * (H + 2), most_blobs = ((H + 1) / 2) * ((W + 1) / 2);
    q = arena_.array<uint8_t>(bordered + 64), neighbours = arena_.array<uint8_t>(bordered);
    label = arena_.array<int32_t>(bordered), order = arena_.array<uint32_t>(H * W);
    blobs = arena_.array<Blob>(most_blobs), live = arena_.array<int32_t>(most_blobs);
  }

 private:
  Arena arena_;
};

}  // namespace fastcam
