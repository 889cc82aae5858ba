// CUDA operators that make maps; see cam.cuh.
#include "cam.cuh"
#include "launch.h"

namespace fastcam {
namespace {

Strides strides_of(const Layout& layout) {
  const int64_t K = layout.channels(), Z = layout.positions();
  return layout.channels_last ? Strides{K * Z, 1, K} : Strides{K * Z, Z, 1};
}

// Calls f with a null pointer of the tensor's element type and one of its accumulation type.
template <class F>
void dispatch(const Tensor& t, const F& f) {
  switch (dtype_of(t)) {
    case DType::kFloat: return f(static_cast<float*>(nullptr), static_cast<float*>(nullptr));
    case DType::kDouble: return f(static_cast<double*>(nullptr), static_cast<double*>(nullptr));
    case DType::kHalf: return f(static_cast<__half*>(nullptr), static_cast<float*>(nullptr));
    case DType::kBFloat16: return f(static_cast<__nv_bfloat16*>(nullptr), static_cast<float*>(nullptr));
  }
}

unsigned grid_for(int64_t items) { return static_cast<unsigned>(ceil_div(items, kThreads)); }

Tensor class_map(const Tensor& features, const Tensor& weights) {
  STD_TORCH_CHECK(features.dim() == 4 && weights.dim() == 3 && weights.size(0) == features.size(0) &&
                      weights.size(2) == features.size(1) && weights.scalar_type() == accumulation_type(features),
                  "class_map: weights do not match features");
  const Launch launch(features);
  const Layout layout(features);
  const Tensor w = torch::stable::contiguous(weights);
  const int64_t N = layout.images(), C = w.size(1), K = layout.channels(), Z = layout.positions();
  Tensor out = torch::stable::new_empty(features, {N, C, features.size(2), features.size(3)}, w.scalar_type());
  if (N * C * Z == 0) return out;
  dispatch(features, [&](auto* in, auto* acc) {
    using In = std::remove_pointer_t<decltype(in)>;
    using Acc = std::remove_pointer_t<decltype(acc)>;
    class_map_kernel<In, Acc><<<grid_for(N * C * Z), kThreads, 0, launch.stream()>>>(
        static_cast<const In*>(layout.tensor.const_data_ptr()), static_cast<const Acc*>(w.const_data_ptr()),
        static_cast<Acc*>(out.mutable_data_ptr()), strides_of(layout), N, C, K, Z);
  });
  launch.check("class_map");
  return out;
}

Tensor gradient_map(const Tensor& features, const Tensor& gradients, std::string weighting, double eps) {
  STD_TORCH_CHECK(features.dim() == 4 && gradients.sizes().equals(features.sizes()) &&
                      gradients.scalar_type() == features.scalar_type(),
                  "gradient_map: gradients do not match features");
  const Launch launch(features);
  Layout a(features), g(gradients);
  if (a.channels_last != g.channels_last) {
    a = Layout(torch::stable::contiguous(features));
    g = Layout(torch::stable::contiguous(gradients));
  }
  const Weighting rule = weighting_of(weighting);
  const int64_t N = a.images(), K = a.channels(), Z = a.positions();
  const ScalarType type = accumulation_type(features);
  const bool elementwise = rule == Weighting::kHiResCam || rule == Weighting::kLayerCam;
  if (N * Z == 0 || K == 0) return torch::stable::new_zeros(features, {N, features.size(2), features.size(3)}, type);
  Tensor out = torch::stable::new_empty(features, {N, elementwise ? Z : K}, type);  // the map, or its weights
  dispatch(features, [&](auto* in, auto* acc) {
    using In = std::remove_pointer_t<decltype(in)>;
    using Acc = std::remove_pointer_t<decltype(acc)>;
    const In* activations = static_cast<const In*>(a.tensor.const_data_ptr());
    const In* gradient = static_cast<const In*>(g.tensor.const_data_ptr());
    Acc* to = static_cast<Acc*>(out.mutable_data_ptr());
    if (elementwise)
      elementwise_kernel<In, Acc><<<grid_for(N * Z), kThreads, 0, launch.stream()>>>(
          activations, gradient, to, strides_of(a), N, K, Z, rule == Weighting::kLayerCam);
    else
      channel_weights_kernel<In, Acc><<<grid_for(N * K), kThreads, 0, launch.stream()>>>(
          activations, gradient, to, strides_of(a), N, K, Z, rule, static_cast<Acc>(eps));
  });
  launch.check("gradient_map");
  if (!elementwise) out = class_map(a.tensor, torch::stable::view(out, {N, 1, K}));
  return torch::stable::view(out, {N, features.size(2), features.size(3)});
}

template <class T>
void launch_heatmap(const Launch& launch, const Tensor& maps, Tensor& out, int64_t H, int64_t W, bool relu,
                    bool bicubic, Normalize normalize, bool as_bytes) {
  const unsigned blocks = static_cast<unsigned>(maps.size(0));
  const T* from = static_cast<const T*>(maps.const_data_ptr());
  if (as_bytes)
    heatmap_kernel<T, uint8_t><<<blocks, kThreads, 0, launch.stream()>>>(
        from, out.mutable_data_ptr<uint8_t>(), maps.size(1), maps.size(2), H, W, relu, bicubic, normalize);
  else
    heatmap_kernel<T, T><<<blocks, kThreads, 0, launch.stream()>>>(
        from, static_cast<T*>(out.mutable_data_ptr()), maps.size(1), maps.size(2), H, W, relu, bicubic, normalize);
}

Tensor heatmap(const Tensor& coarse, int64_t height, int64_t width, bool relu, std::string normalize, std::string mode,
               bool as_bytes) {
  STD_TORCH_CHECK(coarse.dim() == 3 && height > 0 && width > 0, "heatmap: coarse [M, h, w] and a positive size");
  const Launch launch(coarse);
  const Tensor maps = torch::stable::contiguous(coarse);
  const int64_t M = maps.size(0);
  STD_TORCH_CHECK(M == 0 || maps.size(1) * maps.size(2) > 0, "heatmap: empty maps");
  const DType dtype = dtype_of(maps);
  STD_TORCH_CHECK(dtype == DType::kFloat || dtype == DType::kDouble, "heatmap: float or double");
  Tensor out = torch::stable::new_empty(maps, {M, height, width}, as_bytes ? ScalarType::Byte : maps.scalar_type());
  if (M == 0) return out;
  const auto run = dtype == DType::kDouble ? launch_heatmap<double> : launch_heatmap<float>;
  run(launch, maps, out, height, width, relu, mode == "bicubic", normalize_of(normalize), as_bytes);
  launch.check("heatmap");
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m) {
  m.impl("class_map", TORCH_BOX(&fastcam::class_map));
  m.impl("gradient_map", TORCH_BOX(&fastcam::gradient_map));
  m.impl("heatmap", TORCH_BOX(&fastcam::heatmap));
}
