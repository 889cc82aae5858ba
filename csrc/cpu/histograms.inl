// Histograms of scores: of each block of pixels first where they count, in loops that become vector code, then the
// counting, one pixel at a time. Neighbouring pixels are often in one bin and would wait for each other's counter, so
// that they have counters of their own, which are added up in the end. A call does one map. Traffic: map and mask once;
// blocks and counters stay in the cache. Integers, hence free of order.
#pragma once

#include "histograms.h"

namespace fastcam::FASTCAM_SIMD {
namespace {

template <class T>
void score_histogram(const T* map, const uint8_t* mask, int64_t pixels, const Bins& bins, uint32_t* counters,
                     int64_t* out) {
  constexpr int64_t kBlock = 256;
  const Bins b = bins;  // a copy, since stores to arrays might change what is behind the reference
  const int32_t all = b.all(), slots = histogram_slots(b);
  for (int32_t i = 0; i < kHistogramCopies * slots; ++i) counters[i] = 0;
  uint16_t slot[kBlock];  // 0: not counted
  for (int64_t begin = 0; begin < pixels; begin += kBlock, map += kBlock, mask += kBlock) {
    const int32_t count = static_cast<int32_t>(smaller(kBlock, pixels - begin));
    // The bin of a score in [0, 1] takes a few operations less: mostly that is all there is.
    int32_t within = 0;
    for (int32_t i = 0; i < count; ++i) within += (map[i] >= T(0)) & (map[i] <= T(1));
    if (within == count)
      for (int32_t i = 0; i < count; ++i) slot[i] = static_cast<uint16_t>(1 + b.within(map[i]));
    else
      for (int32_t i = 0; i < count; ++i) slot[i] = static_cast<uint16_t>(1 + b.of(map[i]));
    // Slots of the mask's pixels lie behind those of the others.
    for (int32_t i = 0; i < count; ++i) {
      const uint16_t here = static_cast<uint16_t>(slot[i] + (mask[i] == 1 && slot[i] > 0 ? all : 0));
      slot[i] = mask[i] > 1 ? 0 : here;
    }
    // Pixel i counts in copy i of the counters.
    int32_t i = 0;
    for (; i + kHistogramCopies <= count; i += kHistogramCopies)
      for (int32_t copy = 0; copy < kHistogramCopies; ++copy) ++counters[copy * slots + slot[i + copy]];
    for (; i < count; ++i) ++counters[slot[i]];
  }
  for (int32_t i = 0; i < 2 * all; ++i) {
    out[i] = 0;
    for (int32_t copy = 0; copy < kHistogramCopies; ++copy) out[i] += counters[copy * slots + 1 + i];
  }
}

constexpr HistogramsKernels histograms_kernels = {{score_histogram<float>, score_histogram<double>}};

}  // namespace
}  // namespace fastcam::FASTCAM_SIMD
