// The bin of a score, shared by CPU and CUDA: the standard WSOL evaluator's bins for its pixel-wise precision and
// recall, and numpy.histogram's rules. Bin i begins at the float64 product i * (1 / bins), as np.arange(0, 1, 1 / bins)
// has it; then come [1, 2) and [2, 3], the last one closed. Scores are compared in float64.
#pragma once

#include "exact.h"

namespace fastcam {

struct Bins {
  int32_t count;  // of [0, 1); two more follow
  double step;    // 1.0 / count, rounded

  FASTCAM_HD int32_t all() const { return count + 2; }

  // Of a score in [0, 1]. The guess is never too large, and too small by one at most, as long as the rounding of a
  // product with `count` is far below a quarter.
  template <class T>
  FASTCAM_HD int32_t within(T v) const {
    const int32_t guess = static_cast<int32_t>(v * static_cast<T>(count) - T(0.25));
    const int32_t bin = guess + (static_cast<double>(v) >= static_cast<double>(guess + 1) * step);
    return (bin < count ? bin : count - 1) + (v >= T(1));
  }

  // Of any score; -1 for those outside [0, 3] and NaN, which numpy.histogram leaves out.
  template <class T>
  FASTCAM_HD int32_t of(T v) const {
    if (!(v >= T(0) && v <= T(3))) return -1;
    return v < T(1) ? within(v) : count + (v >= T(2));
  }

  // The smallest score of bin i in [0, count].
  template <class T>
  FASTCAM_HD T first(int32_t i) const {
    if (i == count) return T(1);
    const double begin = static_cast<double>(i) * step;
    if constexpr (sizeof(T) == sizeof(double)) return begin;
    const float rounded = static_cast<float>(begin);
    return static_cast<double>(rounded) < begin ? above(rounded) : rounded;
  }
};

constexpr int32_t kMostBins = 4096;

}  // namespace fastcam
