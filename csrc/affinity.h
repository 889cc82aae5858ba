// Affinities of pixel-adaptive mask refinement, which CPU and CUDA share bit for bit. A pixel has eight neighbours at
// each dilation, in raster order; beyond the border lies the pixel at the border. The unlikeness of a neighbour is the
// mean over channels of |difference| / (0.1 deviation + 1e-8), where the deviation is that of the pixel and its
// neighbours, the pixel once for each dilation; the affinities are the softmax of what is below zero by so much.
//
// Source: Araslanov and Roth, Single-Stage Semantic Segmentation from Image Labels, CVPR 2020, section 3.3.
#pragma once

#include "exact.h"

namespace fastcam {

constexpr int kMostDilations = 8, kOffsets = 8, kMostNeighbours = kMostDilations * kOffsets, kMostChannels = 4;
constexpr int64_t kMostReach = 1024;  // of a dilation, in pixels

struct Affinity {
  int32_t H, W, channels, dilations;
  int32_t dilation[kMostDilations];
  FASTCAM_HD int32_t neighbours() const { return kOffsets * dilations; }
  FASTCAM_HD int32_t down(int32_t p) const { return dilation[p / kOffsets] * ((p % 8 > 2) + (p % 8 > 4) - 1); }
  FASTCAM_HD int32_t right(int32_t p) const {
    const int32_t i = p % 8 + (p % 8 > 3);  // of nine, the pixel itself included
    return dilation[p / kOffsets] * (i % 3 - 1);
  }
};

// What an absolute difference is multiplied with to be a channel's share of the unlikeness, in powers of two. `sum` has
// the differences from the pixel, `squares` their squared distances from their mean, the pixel's own left out.
FASTCAM_HD float difference_mean(const Affinity& a, float sum) { return sum / static_cast<float>(9 * a.dilations); }

FASTCAM_HD float difference_scale(const Affinity& a, float mean, float squares) {
  const float all = fused(static_cast<float>(a.dilations), mean * mean, squares);
  const float deviation = sqrtf(all / static_cast<float>(9 * a.dilations - 1));
  const float below = fused(0.1f, deviation, 1e-8f) * static_cast<float>(a.channels);
  return 1.44269504f / below;  // 1 / ln 2
}

// The exponent of an affinity; of what is below -64, and of NaN, -64: no weight at all beside the largest, 2^0.
FASTCAM_HD float affinity_exponent(float least, float unlike) { return larger(least - unlike, -64.0f); }

// 2^z for z in [-64, 0].
FASTCAM_HD float power_of_two(float z) {
  const float shifted = z + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number, which its last bits are
  const float whole = shifted - 12582912.0f;
  const float f = z - whole;  // in [-0.5, 0.5]
  union {
    float f;
    int32_t i;
  } power{shifted};
  power.i = (power.i << 23) + (127 << 23);  // the bits of 1.5 * 2^23 are shifted out
  // Taylor's series of 2^f; what follows is below a quarter of the last bit.
  float v = fused(f, 1.5252734e-5f, 1.5403530e-4f);
  v = fused(f, v, 1.3333558e-3f);
  v = fused(f, v, 9.6181291e-3f);
  v = fused(f, v, 5.5504109e-2f);
  v = fused(f, v, 0.24022651f);
  v = fused(f, v, 0.69314718f);
  v = fused(f, v, 1.0f);
  return v * power.f;
}

}  // namespace fastcam
