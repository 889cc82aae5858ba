// Histograms of scores (histograms.inl).
#pragma once

#include "../score_bins.h"
#include "simd.h"

namespace fastcam {

// Counters of score histograms: so many times one that is not looked at, and one for each bin of both masks.
constexpr int32_t kHistogramCopies = 4;
FASTCAM_HD int32_t histogram_slots(const Bins& bins) { return 1 + 2 * bins.all(); }

// Pixels in each bin, out [2, bins.all()], where the mask is 0 and where it is 1; other pixels do not count.
// `counters` is work space of kHistogramCopies * histogram_slots(bins).
template <class T>
using ScoreHistogram = void(const T* map, const uint8_t* mask, int64_t pixels, const Bins& bins, uint32_t* counters,
                            int64_t* out);

struct HistogramsKernels {
  FloatOrDouble<ScoreHistogram> score_histogram;
};

}  // namespace fastcam
