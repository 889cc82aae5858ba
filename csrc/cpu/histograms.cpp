// CPU operator that counts scores by bin and mask. Images are spread over threads.
#include "../arguments.h"
#include "dispatch.h"

namespace fastcam {
namespace {

Tensor score_histograms(const Tensor& maps_, const Tensor& masks_, int64_t count) {
  const Bins bins = checked_bins(maps_, masks_, count);
  const Tensor maps = packed(maps_), masks = packed(masks_);
  const int64_t pixels = maps.size(1) * maps.size(2), slots = 2 * bins.all();
  Tensor out = empty_on(maps, {maps.size(0), 2, bins.all()}, ScalarType::Long);
  const uint8_t* mask = masks.const_data_ptr<uint8_t>();
  int64_t* to = out.mutable_data_ptr<int64_t>();
  with_float_or_double(maps, [&](auto type) {
    const auto* map = maps.const_data_ptr<typename decltype(type)::type>();
    const auto count_scores = kernels().score_histogram.of(type);
    for_ranges(maps.size(0), [&](int64_t begin, int64_t end) {
      Arena arena(true);
      uint32_t* counters = arena.array<uint32_t>(int64_t{kHistogramCopies} * histogram_slots(bins));
      for (int64_t n = begin; n < end; ++n)
        count_scores(map + n * pixels, mask + n * pixels, pixels, bins, counters, to + n * slots);
    });
  });
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("score_histograms", TORCH_BOX(&fastcam::score_histograms)); }
