// CPU operators that sum activations over channels. Images are spread over threads, and parts of them (positions,
// channels) where there are fewer images than threads; the order of summation depends on the memory layout alone, never
// on the batch, the thread count or the processor.
//   channels first: position by position, channels in order.
//   channels last: 16 interleaved partial sums along the channels, then a fixed tree.
#include "../arguments.h"
#include "dispatch.h"

namespace fastcam {
namespace {

Tensor class_map(const Tensor& features, const Tensor& weights) {
  check_weights(features, weights, "class_map");
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
  check_gradients(features, gradients);
  const LayoutPair both(features, gradients);
  const Layout &a = both.features, &g = both.gradients;
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

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CPU, m) {
  m.impl("class_map", TORCH_BOX(&fastcam::class_map));
  m.impl("gradient_map", TORCH_BOX(&fastcam::gradient_map));
}
