// Coarse maps as the pictures they become (heatmap.inl): plain data for the kernels, and the memory behind it.
#pragma once

#include "memory.h"
#include "simd.h"

namespace fastcam {

// How coarse maps [h, w] become pictures [H, W], and the taps of the two axes; filled once a call, read by every
// thread. Columns are padded to whole words of 64; padding repeats the last column, and masks cut it off.
template <class T>
struct Upsampling {
  int64_t h, w, H, W;
  int64_t words;   // mask words in a row: ceil(W / 64)
  int64_t stride;  // 64 * words
  int64_t bounds;  // half words in a row, rounded up to whole eights
  bool relu, bicubic;
  int32_t *x0, *x1, *y0, *y1;  // [stride] and [H] sample indices (bilinear)
  T *wx0, *wx1, *wy0, *wy1;    // their weights
  int32_t *cx, *cy;            // [stride], [H] first of four samples (bicubic)
  float *cwx, *cwy;            // [stride, 4], [H, 4] weights
};

// One coarse map on its way to a picture, which is made row by row: work space of one thread.
template <class T>
struct Surface {
  T* coarse;           // [h, w] after ReLU, and kLanes more that say nothing
  T* rows;             // [h, stride] expanded along x (bilinear)
  double* cubic_rows;  // [h, stride] (bicubic)
  T *high, *low;       // [h, bounds] extremes of each 32 columns of rows
  T* line;             // [stride] one output row
};

// Rows [begin, end) of a heatmap [H, W]; out is T, or uint8 when as_bytes.
template <class T>
using Heatmap = void(const Upsampling<T>&, Surface<T>&, const T* coarse, Normalize, bool as_bytes, int64_t begin,
                     int64_t end, void* out);

struct HeatmapKernels {
  FloatOrDouble<Heatmap> heatmap;
};

// The taps of an axis of `in` samples that becomes one of `out`; what is padded repeats the last.
template <class T>
void linear_axis(Arena& arena, int64_t in, int64_t out, int64_t padded, int32_t*& i0, int32_t*& i1, T*& w0, T*& w1) {
  i0 = arena.array<int32_t>(padded), i1 = arena.array<int32_t>(padded);
  w0 = arena.array<T>(padded), w1 = arena.array<T>(padded);
  for (int64_t i = 0; i < padded; ++i) {
    const Linear<T> tap = linear<T>(i < out ? i : out - 1, in, out);
    i0[i] = tap.i0, i1[i] = tap.i1, w0[i] = tap.w0, w1[i] = tap.w1;
  }
}

inline void cubic_axis(Arena& arena, int64_t in, int64_t out, int64_t padded, int32_t*& first, float*& weights) {
  first = arena.array<int32_t>(padded), weights = arena.array<float>(4 * padded);
  for (int64_t i = 0; i < padded; ++i) {
    const Cubic tap = cubic(i < out ? i : out - 1, in, out);
    first[i] = tap.i;
    for (int k = 0; k < 4; ++k) weights[4 * i + k] = tap.w[k];
  }
}

template <class T>
Upsampling<T> make_upsampling(Arena& arena, int64_t h, int64_t w, int64_t H, int64_t W, bool relu, bool bicubic) {
  Upsampling<T> u{};
  u.h = h, u.w = w, u.H = H, u.W = W;
  u.words = (W + 63) / 64, u.stride = 64 * u.words, u.bounds = (u.words + 3) / 4 * 8;
  u.relu = relu, u.bicubic = bicubic;
  if (bicubic) {
    cubic_axis(arena, w, W, u.stride, u.cx, u.cwx);
    cubic_axis(arena, h, H, H, u.cy, u.cwy);
  } else {
    linear_axis(arena, w, W, u.stride, u.x0, u.x1, u.wx0, u.wx1);
    linear_axis(arena, h, H, H, u.y0, u.y1, u.wy0, u.wy1);
  }
  return u;
}

template <class T>
Surface<T> make_surface(Arena& arena, const Upsampling<T>& u) {
  Surface<T> surface{};
  surface.coarse = arena.array<T>(u.h * u.w + kLanes);
  if (u.bicubic) {
    surface.cubic_rows = arena.array<double>(u.h * u.stride);
  } else {
    surface.rows = arena.array<T>(u.h * u.stride);
    surface.high = arena.array<T>(u.h * u.bounds);
    surface.low = arena.array<T>(u.h * u.bounds);
  }
  surface.line = arena.array<T>(u.stride);
  return surface;
}

}  // namespace fastcam
