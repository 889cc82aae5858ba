// Pixel-adaptive refinement of maps (refine.inl).
#pragma once

#include "../affinity.h"
#include "memory.h"
#include "simd.h"

namespace fastcam {

constexpr int kColumns = 64;  // that are refined at once

// Planes [H, stride] of floats. Column x of a row is at [margin + x]; what neighbours reach for beyond the first and
// the last column repeats these.
struct Padded {
  int64_t margin, stride, plane;
  explicit Padded(const Affinity& a) {
    int64_t reach = 0;
    for (int i = 0; i < a.dilations; ++i) reach = larger<int64_t>(reach, a.dilation[i]);
    margin = (reach + 15) / 16 * 16;
    stride = 2 * margin + (a.W + kColumns - 1) / kColumns * kColumns;
    plane = a.H * stride;
  }
};

struct RefineKernels {
  // Copies row y of planes [count, H, W] into padded ones.
  void (*pad_row)(const Affinity&, const Padded&, const float* planes, int64_t count, int64_t y, float* padded);
  // What differences from the pixels of row y are multiplied with, into planes like those of the image.
  void (*scale_row)(const Affinity&, const Padded&, const float* image, int64_t y, float* scales);
  // One iteration for row y of padded maps.
  void (*refine_row)(const Affinity&, const Padded&, const float* image, const float* scales, const float* maps,
                     int64_t count, int64_t y, float* refined);
};

}  // namespace fastcam
