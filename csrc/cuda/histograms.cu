// CUDA operator of histograms; see histograms.cuh.
#include <algorithm>

#include "../arguments.h"
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
         dim3(static_cast<unsigned>(maps.size(0)), static_cast<unsigned>(shares)), kThreads, histogram_space<T>(bins),
         maps.const_data_ptr<T>(), masks.const_data_ptr<uint8_t>(),
         reinterpret_cast<unsigned long long*>(out.mutable_data_ptr<int64_t>()), maps.size(1) * maps.size(2), bins);
}

Tensor score_histograms(const Tensor& maps_, const Tensor& masks_, int64_t count) {
  const Bins bins = checked_bins(maps_, masks_, count);
  const Launch launch(maps_);
  const Tensor maps = packed(maps_), masks = packed(masks_);
  const int64_t N = maps.size(0), pixels = maps.size(1) * maps.size(2);
  STD_TORCH_CHECK(pixels > 0 && N < int64_t{1} << 31, "score_histograms: size");
  if (N == 0) return empty_on(maps, {N, 2, bins.all()}, ScalarType::Long);
  const int64_t shares = std::clamp<int64_t>(kBlocks * launch.limits().multiprocessors / N, 1,
                                             std::min(ceil_div(pixels, kLeastPixels), int64_t{65535}));
  const Tensor out = shares == 1 ? empty_on(maps, {N, 2, bins.all()}, ScalarType::Long)
                                 : torch::stable::new_zeros(maps, {N, 2, bins.all()}, ScalarType::Long);
  with_float_or_double(maps, [&](auto type) {
    launch_histograms<typename decltype(type)::type>(launch, maps, masks, bins, shares, out);
  });
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m) { m.impl("score_histograms", TORCH_BOX(&fastcam::score_histograms)); }
