// CUDA operators that find boxes; see components.cuh.
#include <algorithm>

#include "components.cuh"
#include "launch.h"

namespace fastcam {
namespace {

// What bounds the work space, which is 8 bytes a pixel and block.
constexpr int64_t kMostBlocks = 256, kMostPixels = int64_t{1} << 26;

Tensor boxes(const Tensor& coarse, const Tensor& levels, bool absolute, int64_t height, int64_t width, bool relu,
             std::string mode, int64_t connectivity, std::string largest) {
  STD_TORCH_CHECK(coarse.dim() == 3 && coarse.scalar_type() == ScalarType::Float, "boxes: coarse [M, h, w] float");
  const Launch launch(coarse);
  const Tensor maps = torch::stable::contiguous(coarse), thresholds = torch::stable::contiguous(levels);
  const int64_t M = maps.size(0), T = thresholds.size(thresholds.dim() - 1);
  STD_TORCH_CHECK(height > 0 && width > 0 && height < (int64_t{1} << 30) / width, "boxes: size");
  STD_TORCH_CHECK(M == 0 || maps.size(1) * maps.size(2) > 0, "boxes: empty maps");
  STD_TORCH_CHECK(thresholds.scalar_type() == ScalarType::Float &&
                      (thresholds.dim() == 1 || (thresholds.dim() == 2 && thresholds.size(0) == M)) &&
                      thresholds.get_device_index() == maps.get_device_index(),
                  "boxes: levels [T] or [M, T]");
  Tensor out = torch::stable::new_empty(maps, {M, T, 4}, ScalarType::Int);
  if (M * T == 0) return out;
  const SearchArguments arguments{maps.size(1),
                                  maps.size(2),
                                  height,
                                  width,
                                  M,
                                  T,
                                  relu,
                                  mode == "bicubic",
                                  absolute,
                                  thresholds.dim() == 2,
                                  largest == "contour",
                                  static_cast<int>(connectivity)};
  const int64_t blocks = std::min({M, kMostBlocks, std::max<int64_t>(1, kMostPixels / (height * width))});
  Tensor space = torch::stable::new_empty(maps, {blocks, 2, height, width}, ScalarType::Int);
  Tensor masks =
      torch::stable::new_empty(maps, {arguments.contour ? blocks : 0, height, ceil_div(width, 64)}, ScalarType::Long);
  boxes_kernel<<<static_cast<unsigned>(blocks), kThreads, 0, launch.stream()>>>(
      maps.const_data_ptr<float>(), thresholds.const_data_ptr<float>(), space.mutable_data_ptr<int32_t>(),
      reinterpret_cast<uint64_t*>(masks.mutable_data_ptr<int64_t>()), out.mutable_data_ptr<int32_t>(), arguments);
  launch.check("boxes");
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m) { m.impl("boxes", TORCH_BOX(&fastcam::boxes)); }
