// Memory behind the plain structs of kernels.h: one plan for a call, one scratch for each thread.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "../lerp.h"
#include "kernels.h"

namespace fastcam {

// Hands out aligned, uninitialised arrays that live as long as it does. A warm arena's memory stays with the thread
// for its next one, up to a limit: pages that are new to the process cost more than what most kernels do with them.
class Arena {
 public:
  explicit Arena(bool warm = false) : kept_(warm && !kept().taken ? &kept() : nullptr) {
    if (kept_) kept_->taken = true;
  }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  ~Arena() {
    if (!kept_) return;
    kept_->taken = false;
    const size_t wanted = used_ + outside_;
    if (outside_ == 0 || wanted > kMostKept) return;
    kept_->memory.reset(static_cast<char*>(std::aligned_alloc(64, wanted)));
    kept_->size = kept_->memory ? wanted : 0;
  }

  template <class T>
  T* array(int64_t count) {
    const size_t bytes = (static_cast<size_t>(count > 0 ? count : 1) * sizeof(T) + 63) / 64 * 64;
    if (kept_ && used_ + bytes <= kept_->size) {
      used_ += bytes;
      return reinterpret_cast<T*>(kept_->memory.get() + used_ - bytes);
    }
    void* p = std::aligned_alloc(64, bytes);
    if (!p) throw std::bad_alloc();
    blocks_.emplace_back(static_cast<char*>(p));
    outside_ += bytes;
    return static_cast<T*>(p);
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  using Memory = std::unique_ptr<char, Free>;
  struct Kept {
    Memory memory;
    size_t size = 0;
    bool taken = false;
  };
  static constexpr size_t kMostKept = size_t{8} << 20;
  static Kept& kept() {
    thread_local Kept memory;
    return memory;
  }

  Kept* kept_;
  size_t used_ = 0, outside_ = 0;
  std::vector<Memory> blocks_;
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
      made = arena_.array<T>(plan.h * plan.w);
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
      const int64_t most_runs = plan.W / 2 + 1, most_begun = plan.H * most_runs;
      for (Runs& runs : this->runs) {
        runs.edge = arena_.array<int32_t>(2 * most_runs + kOvershoot);
        runs.component = arena_.array<int32_t>(most_runs + kOvershoot);
        runs.bits = arena_.array<uint64_t>(plan.words + 1), runs.before = arena_.array<int32_t>(plan.words + 1);
      }
      this->joins = arena_.array<int32_t>(2 * (most_runs + kOvershoot));
      this->parent = arena_.array<int32_t>(most_begun + 1);
      this->components = arena_.array<Component>(most_begun + 1);
    }
  }

  T* made = nullptr;  // [h, w] room for a coarse map that the operator makes itself

 private:
  Arena arena_{true};
};

struct LevelsMemory : Levels {
  // background: room for passes over the background too.
  LevelsMemory(int64_t H, int64_t W, bool background) : Levels{} {
    this->H = H, this->W = W, pitch = (W + 63) / 64 * 64 + 2;
    int64_t* next = offset;
    for (int64_t dy = -1; dy <= 1; ++dy)
      for (int64_t dx = -1; dx <= 1; ++dx)
        if (dy != 0 || dx != 0) *next++ = dy * pitch + dx;
    const int64_t bordered = pitch * (H + 2);
    // Beginnings are no neighbours of each other; the background has few neighbours, and a frame.
    const int64_t most = background ? (H * W + 1) / 2 + 1 : ((H + 1) / 2) * ((W + 1) / 2);
    for (Growth*& g : growth) g = arena_.array<Growth>(256);
    count = arena_.array<int64_t>(256);
    q = arena_.array<uint8_t>(bordered + 64), neighbours = arena_.array<uint8_t>(bordered);
    label = arena_.array<int32_t>(bordered);
    order = H <= 4096 && W <= 4096 ? arena_.array<uint32_t>(H * W) : static_cast<void*>(arena_.array<uint64_t>(H * W));
    regions = arena_.array<Region>(most), live = arena_.array<int32_t>(most), grown = arena_.array<int32_t>(most + 1);
    kernels().growths(*this);
  }

 private:
  Arena arena_{true};
};

}  // namespace fastcam
