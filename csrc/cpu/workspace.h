// Memory behind the plain structs of kernels.h: one plan for a call, one scratch for each thread.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
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

// Taps of outputs [begin, begin + count) of an axis of `in` pixels that becomes one of `out`. Pillow's
// precompute_coeffs and normalize_coeffs_8bpc with its bilinear filter, a triangle that widens as the axis shrinks;
// then moved so that all have equally many taps within the axis.
inline Taps resize_taps(Arena& arena, int64_t in, int64_t out, int64_t begin, int64_t count) {
  const double scale = static_cast<double>(in) / static_cast<double>(out), support = scale < 1.0 ? 1.0 : scale;
  const double inverse = 1.0 / support;
  const int64_t size = 2 * static_cast<int64_t>(std::ceil(support)) + 1;
  int64_t* first = arena.array<int64_t>(count);
  int64_t* taps = arena.array<int64_t>(count);
  double* value = arena.array<double>(size);
  int64_t most = 1;
  for (int64_t i = 0; i < count; ++i) {
    const double centre = (static_cast<double>(begin + i) + 0.5) * scale;
    first[i] = std::max<int64_t>(static_cast<int64_t>(centre - support + 0.5), 0);
    taps[i] = std::min<int64_t>(static_cast<int64_t>(centre + support + 0.5), in) - first[i];
    most = std::max(most, taps[i]);
  }
  int32_t* weight = arena.array<int32_t>(count * most);
  for (int64_t i = 0; i < count; ++i) {
    const double centre = (static_cast<double>(begin + i) + 0.5) * scale;
    double total = 0.0;
    for (int64_t k = 0; k < taps[i]; ++k) {
      const double place = std::fabs((static_cast<double>(k + first[i]) - centre + 0.5) * inverse);
      value[k] = place < 1.0 ? 1.0 - place : 0.0;
      total += value[k];
    }
    const int64_t moved = std::max<int64_t>(first[i] + most - in, 0);
    int32_t* own = weight + i * most;
    for (int64_t k = 0; k < most; ++k) own[k] = 0;
    for (int64_t k = 0; k < taps[i]; ++k) {
      const double share = total != 0.0 ? value[k] / total : value[k];
      own[k + moved] = static_cast<int32_t>(0.5 + share * (1 << kResizeBits));
    }
    first[i] -= moved;
  }
  return {count, static_cast<int32_t>(most), first, weight};
}

// The part of a picture [H, W, 3] in size height x width that begins at (top, left): out [rows, columns, 3].
inline void resize_picture(const Kernels& k, const uint8_t* from, int64_t H, int64_t W, int64_t height, int64_t width,
                           int64_t top, int64_t left, int64_t rows, int64_t columns, bool columns_first, uint8_t* out) {
  Arena arena(true);
  const int64_t pitch = 3 * W;
  const Taps across = resize_taps(arena, W, width, left, columns), down = resize_taps(arena, H, height, top, rows);
  const int64_t begin = down.first[0], end = down.first[rows - 1] + down.most;
  for (int64_t y = 0; y < rows; ++y) down.first[y] -= begin;
  if (columns_first) {
    uint8_t* low = arena.array<uint8_t>(rows * pitch + 1);
    k.resize_columns(from + begin * pitch, pitch, down, low);
    k.resize_rows(low, pitch, rows, across, out);
  } else {
    uint8_t* narrow = arena.array<uint8_t>((end - begin) * 3 * columns);
    uint8_t* last = arena.array<uint8_t>(pitch + 1);  // the picture's memory ends with its last row
    std::memcpy(last, from + (end - 1) * pitch, static_cast<size_t>(pitch));
    k.resize_rows(from + begin * pitch, pitch, end - begin - 1, across, narrow);
    k.resize_rows(last, pitch, 1, across, narrow + (end - begin - 1) * 3 * columns);
    k.resize_columns(narrow, 3 * columns, down, out);
  }
}

}  // namespace fastcam
