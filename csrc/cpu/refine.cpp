// CPU operator that refines maps by the pixels of their images. One image after the other, its rows spread over
// threads.
#include "../arguments.h"
#include "dispatch.h"

namespace fastcam {
namespace {

Tensor refine(const Tensor& maps_, const Tensor& images_, std::vector<int64_t> dilations, int64_t iterations) {
  const Affinity a = checked_affinity(maps_, images_, dilations, iterations);
  const Tensor maps = packed(maps_), images = packed(images_);
  const int64_t N = maps.size(0), C = maps.size(1), pixels = int64_t{a.H} * a.W;
  Tensor out = empty_on(maps, {N, C, a.H, a.W}, ScalarType::Float);
  if (N * C == 0) return out;
  const Padded padded(a);
  const Kernels& k = kernels();
  Arena arena;
  float* const image = arena.array<float>(a.channels * padded.plane);
  float* const scales = arena.array<float>(a.channels * padded.plane);
  float* from = arena.array<float>(C * padded.plane);
  float* to = arena.array<float>(C * padded.plane);
  const auto for_rows = [&](const auto& f) {
    for_ranges(a.H, [&](int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) f(y);
    });
  };
  for (int64_t n = 0; n < N; ++n) {
    for_rows([&](int64_t y) {
      k.pad_row(a, padded, images.const_data_ptr<float>() + n * a.channels * pixels, a.channels, y, image);
      k.pad_row(a, padded, maps.const_data_ptr<float>() + n * C * pixels, C, y, from);
    });
    for_rows([&](int64_t y) { k.scale_row(a, padded, image, y, scales); });
    for (int64_t i = 0; i < iterations; ++i) {
      for_rows([&](int64_t y) { k.refine_row(a, padded, image, scales, from, C, y, to); });
      std::swap(from, to);
    }
    float* const refined = out.mutable_data_ptr<float>() + n * C * pixels;
    for (int64_t row = 0; row < C * a.H; ++row)
      std::copy_n(from + row * padded.stride + padded.margin, a.W, refined + row * a.W);
  }
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) { m.impl("refine", TORCH_BOX(&fastcam::refine)); }
