// CUDA operator that refines maps by the pixels of their images; see refine.cuh.
#include "../arguments.h"
#include "launch.h"
#include "refine.cuh"

namespace fastcam {
namespace {

constexpr int kThreads = 128;

Tensor refine(const Tensor& maps_, const Tensor& images_, std::vector<int64_t> dilations, int64_t iterations) {
  const Affinity a = checked_affinity(maps_, images_, dilations, iterations);
  const Launch launch(maps_);
  const Tensor maps = packed(maps_), images = packed(images_);
  const int64_t N = maps.size(0), C = maps.size(1);
  Tensor out = empty_on(maps, {N, C, a.H, a.W}, ScalarType::Float);
  if (N * C == 0) return out;
  const int64_t across = ceil_div(a.W, 32), down = ceil_div(a.H, kThreads / 32), blocks = N * across * down;
  STD_TORCH_CHECK(blocks < int64_t{1} << 31, "refine: size");
  const dim3 grid(static_cast<unsigned>(blocks));
  const auto columns = static_cast<int32_t>(across), rows = static_cast<int32_t>(down);
  const Tensor scales = empty_on(images, {N, a.channels, a.H, a.W}, ScalarType::Float);
  Tensor other = empty_on(maps, {iterations > 1 ? N : 0, C, a.H, a.W}, ScalarType::Float);
  const float* const image = images.const_data_ptr<float>();
  launch("refine", affinity_scales_kernel<kThreads>, grid, kThreads, 0, image, scales.mutable_data_ptr<float>(), a,
         columns, rows);
  const float* from = maps.const_data_ptr<float>();
  for (int64_t i = iterations; i-- > 0;) {  // the last one writes the result
    float* const to = (i % 2 ? other : out).mutable_data_ptr<float>();
    launch("refine", refine_kernel<kThreads>, grid, kThreads,
           int64_t{a.neighbours()} * kThreads * static_cast<int64_t>(sizeof(float)), image,
           scales.const_data_ptr<float>(), from, to, C, a, columns, rows);
    from = to;
  }
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m) { m.impl("refine", TORCH_BOX(&fastcam::refine)); }
