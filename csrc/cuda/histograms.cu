// CUDA operator of histograms; see histograms.cuh.
#include <algorithm>

#include "histograms.cuh"
#include "launch.h"

namespace fastcam {
namespace {

constexpr int kThreads = 256;

// Blocks for each multiprocessor, and pixels that are worth a block.
constexpr int64_t kBlocks = 8, kLeastPixels = 4096;

template <class T>
void launch_histograms(const Launch& launch, const Tensor& maps, const Tensor& masks, const Bins& bins, int64_t shares,
                       const Tensor& out) {
  launch("score_histograms", score_histograms_kernel<kThreads, T>,
         dim3(static_cast<unsigned>(maps.size(0)), static_cast<unsigned>(shares)), kThreads,
         int64_t{2} * bins.all() * static_cast<int64_t>(sizeof(unsigned)), maps.const_data_ptr<T>(),
         masks.const_data_ptr<uint8_t>(), reinterpret_cast<unsigned long long*>(out.mutable_data_ptr<int64_t>()),
         maps.size(1) * maps.size(2), bins);
}

Tensor score_histograms(const Tensor& maps_, const Tensor& masks_, int64_t count) {
  // maps [N, H, W] float or double, masks [N, H, W] of bytes: 0 background, 1 object, others do not count
  const bool doubles = maps_.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(maps_.dim() == 3 && (doubles || maps_.scalar_type() == ScalarType::Float) && masks_.dim() == 3 &&
                      masks_.scalar_type() == ScalarType::Byte && maps_.sizes().equals(masks_.sizes()) &&
                      maps_.get_device_index() == masks_.get_device_index() && count > 0 && count <= kMostBins,
                  "score_histograms: maps [N, H, W] float or double, masks [N, H, W] of bytes, bins");
  const Launch launch(maps_);
  const Tensor maps = packed(maps_), masks = packed(masks_);
  const int64_t N = maps.size(0), pixels = maps.size(1) * maps.size(2);
  STD_TORCH_CHECK(pixels > 0 && pixels < int64_t{1} << 30 && N < int64_t{1} << 31, "score_histograms: size");
  const Bins bins{static_cast<int32_t>(count), 1.0 / static_cast<double>(count)};
  if (N == 0) return empty_on(maps, {N, 2, bins.all()}, ScalarType::Long);
  const int64_t shares = std::clamp<int64_t>(kBlocks * launch.limits().multiprocessors / N, 1,
                                             std::min(ceil_div(pixels, kLeastPixels), int64_t{65535}));
  const Tensor out = shares == 1 ? empty_on(maps, {N, 2, bins.all()}, ScalarType::Long)
                                 : torch::stable::new_zeros(maps, {N, 2, bins.all()}, ScalarType::Long);
  if (doubles)
    launch_histograms<double>(launch, maps, masks, bins, shares, out);
  else
    launch_histograms<float>(launch, maps, masks, bins, shares, out);
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m) { m.impl("score_histograms", TORCH_BOX(&fastcam::score_histograms)); }
