// CPU operator that counts scores by bin and mask. Images are spread over threads.
#include "../bins.h"
#include "../common.h"
#include "workspace.h"

namespace fastcam {
namespace {

Tensor score_histograms(const Tensor& maps_, const Tensor& masks_, int64_t count) {
  // maps [N, H, W] float or double, masks [N, H, W] of bytes: 0 background, 1 object, others do not count
  const bool doubles = maps_.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(maps_.dim() == 3 && (doubles || maps_.scalar_type() == ScalarType::Float) && masks_.dim() == 3 &&
                      masks_.scalar_type() == ScalarType::Byte && maps_.sizes().equals(masks_.sizes()) && count > 0 &&
                      count <= kMostBins,
                  "score_histograms: maps [N, H, W] float or double, masks [N, H, W] of bytes, bins");
  const Tensor maps = packed(maps_), masks = packed(masks_);
  const int64_t pixels = maps.size(1) * maps.size(2);
  STD_TORCH_CHECK(pixels < int64_t{1} << 30, "score_histograms: size");
  const Bins bins{static_cast<int32_t>(count), 1.0 / static_cast<double>(count)};
  Tensor out = empty_on(maps, {maps.size(0), 2, bins.all()}, ScalarType::Long);
  const char* map = static_cast<const char*>(maps.const_data_ptr());
  const uint8_t* mask = masks.const_data_ptr<uint8_t>();
  int64_t* to = out.mutable_data_ptr<int64_t>();
  const Kernels& k = kernels();
  for_ranges(maps.size(0), [&](int64_t begin, int64_t end) {
    Arena arena(true);
    uint32_t* counters = arena.array<uint32_t>(int64_t{kHistogramCopies} * histogram_slots(bins));
    for (int64_t n = begin; n < end; ++n) {
      int64_t* own = to + n * 2 * bins.all();
      if (doubles)
        k.score_histogram_double(reinterpret_cast<const double*>(map) + n * pixels, mask + n * pixels, pixels, bins,
                                 counters, own);
      else
        k.score_histogram_float(reinterpret_cast<const float*>(map) + n * pixels, mask + n * pixels, pixels, bins,
                                counters, own);
    }
  });
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("score_histograms", TORCH_BOX(&fastcam::score_histograms)); }
