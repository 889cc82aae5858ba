// CPU operators that make maps: weighted sums of activations and heatmaps. Images are spread over
// threads, and parts of them (positions, channels, rows) where there are fewer images than threads; the order of
// summation depends on the memory layout alone, never on the batch, the thread count or the processor.
//   channels first: position by position, channels in order.
//   channels last: 16 interleaved partial sums along the channels, then a fixed tree.
#include <memory>

#include "../common.h"
#include "workspace.h"

namespace fastcam {
namespace {

Tensor class_map(const Tensor& features, const Tensor& weights) {
  // features [N, K, h, w]; weights [N, C, K] of the accumulation type
  STD_TORCH_CHECK(features.dim() == 4 && weights.dim() == 3, "class_map: features [N, K, h, w] and weights [N, C, K]");
  STD_TORCH_CHECK(weights.size(0) == features.size(0) && weights.size(2) == features.size(1) &&
                      weights.scalar_type() == accumulation_type(features),
                  "class_map: weights do not match features");
  const Layout layout(features);
  const Tensor w = packed(weights);
  const int64_t N = layout.images(), C = w.size(1), K = layout.channels(), Z = layout.positions();
  Tensor out = empty_on(features, {N, C, features.size(2), features.size(3)}, w.scalar_type());
  const int64_t element = w.scalar_type() == ScalarType::Double ? 8 : 4;
  const char* weight_data = static_cast<const char*>(w.const_data_ptr());
  char* out_data = static_cast<char*>(out.mutable_data_ptr());
  const Kernels& k = kernels();
  for_parts(N * C, Z, [&](int64_t i, int64_t begin, int64_t end) {
    k.class_map(layout.image(i / C), weight_data + i * K * element, begin, end, out_data + i * Z * element);
  });
  return out;
}

Tensor gradient_map(const Tensor& features, const Tensor& gradients, std::string weighting, double eps) {
  // both [N, K, h, w] of one dtype
  STD_TORCH_CHECK(features.dim() == 4 && gradients.sizes().equals(features.sizes()) &&
                      gradients.scalar_type() == features.scalar_type(),
                  "gradient_map: gradients do not match features");
  Layout a(features), g(gradients);
  if (a.channels_last != g.channels_last) {
    a = Layout(packed(features));
    g = Layout(packed(gradients));
  }
  const Weighting rule = weighting_of(weighting);
  const int64_t N = a.images(), K = a.channels(), Z = a.positions();
  Tensor out = empty_on(features, {N, features.size(2), features.size(3)}, accumulation_type(features));
  const int64_t element = out.scalar_type() == ScalarType::Double ? 8 : 4;
  char* out_data = static_cast<char*>(out.mutable_data_ptr());
  const Kernels& k = kernels();
  if (rule == Weighting::kHiResCam || rule == Weighting::kLayerCam) {
    for_parts(N, Z, [&](int64_t n, int64_t begin, int64_t end) {
      k.product_map(a.image(n), g.image(n).data, rule == Weighting::kLayerCam, begin, end, out_data + n * Z * element);
    });
    return out;
  }
  Arena arena;
  char *sums = arena.array<char>(N * K * element), *weights = arena.array<char>(N * K * element);
  const auto weigh = [&](int64_t n, int64_t begin, int64_t end) {
    k.gradient_weights(a.image(n), g.image(n).data, rule, eps, begin, end, sums + n * K * element,
                       weights + n * K * element);
  };
  const auto sum = [&](int64_t n, int64_t begin, int64_t end) {
    k.class_map(a.image(n), weights + n * K * element, begin, end, out_data + n * Z * element);
  };
  if (N >= static_cast<int64_t>(torch::stable::get_num_threads())) {  // an image's activations are still in the cache
    for_parts(N, 1, [&](int64_t n, int64_t, int64_t) {
      weigh(n, 0, K);
      sum(n, 0, Z);
    });
  } else {
    for_parts(N, K, weigh);
    for_parts(N, Z, sum);
  }
  return out;
}

template <class T, class Kernel>
void heatmap_of(Kernel kernel, const Tensor& coarse, const Plan<T>& plan, Normalize normalize, bool as_bytes,
                Tensor& out) {
  const T* from = static_cast<const T*>(coarse.const_data_ptr());
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const int64_t bytes = plan.H * plan.W * (as_bytes ? 1 : static_cast<int64_t>(sizeof(T)));
  for_parts(
      coarse.size(0), plan.H, [&] { return std::make_unique<ScratchMemory<T>>(plan, false); },
      [&](const auto& scratch, int64_t n, int64_t begin, int64_t end) {
        kernel(plan, *scratch, from + n * plan.h * plan.w, normalize, as_bytes, begin, end, to + n * bytes);
      });
}

Tensor heatmap(const Tensor& coarse, int64_t height, int64_t width, bool relu, std::string normalize, std::string mode,
               bool as_bytes) {
  // coarse [M, h, w] float or double
  STD_TORCH_CHECK(coarse.dim() == 3 && height > 0 && width > 0, "heatmap: coarse [M, h, w] and a positive size");
  const Tensor maps = packed(coarse);
  const int64_t M = maps.size(0), h = maps.size(1), w = maps.size(2);
  STD_TORCH_CHECK(M == 0 || (h > 0 && w > 0), "heatmap: empty maps");
  const DType dtype = dtype_of(maps);
  STD_TORCH_CHECK(dtype == DType::kFloat || dtype == DType::kDouble, "heatmap: float or double");
  Tensor out = empty_on(maps, {M, height, width}, as_bytes ? ScalarType::Byte : maps.scalar_type());
  if (M == 0) return out;
  const Normalize order = normalize_of(normalize);
  const bool bicubic = mode == "bicubic";
  if (dtype == DType::kDouble)
    heatmap_of<double>(kernels().heatmap_double, maps, PlanMemory<double>(h, w, height, width, relu, bicubic), order,
                       as_bytes, out);
  else
    heatmap_of<float>(kernels().heatmap_float, maps, PlanMemory<float>(h, w, height, width, relu, bicubic), order,
                      as_bytes, out);
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) {
  m.impl("class_map", TORCH_BOX(&fastcam::class_map));
  m.impl("gradient_map", TORCH_BOX(&fastcam::gradient_map));
  m.impl("heatmap", TORCH_BOX(&fastcam::heatmap));
}
