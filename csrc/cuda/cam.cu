// CUDA operators that make maps: weighted sums of activations (sums.cuh, gradients.cuh) and heatmaps (heatmap.cuh).
// What is chosen here, how many positions or channels a block takes, changes speed alone.
#include <algorithm>

#include "gradients.cuh"
#include "heatmap.cuh"
#include "launch.h"

namespace fastcam {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostGridY = 65535;

// Calls f with a null pointer of the tensor's element type.
template <class F>
void dispatch(const Tensor& t, const F& f) {
  switch (dtype_of(t)) {
    case DType::kFloat: return f(static_cast<const float*>(nullptr));
    case DType::kDouble: return f(static_cast<const double*>(nullptr));
    case DType::kHalf: return f(static_cast<const __half*>(nullptr));
    case DType::kBFloat16: return f(static_cast<const __nv_bfloat16*>(nullptr));
  }
}

// One block per map when they fill the device, else down to 32 positions a block.
template <Factor kFactor, class In>
void launch_sums(const Launch& launch, const char* name, const Layout& layout, const In* gradients,
                 const Accumulator<In>* weights, Accumulator<In>* out, int64_t C) {
  const int64_t maps = layout.images() * C, Z = layout.positions();
  const int64_t wanted = ceil_div(launch.limits().multiprocessors, maps);
  const int64_t fewer = std::max<int64_t>(32, ceil_div(ceil_div(Z, wanted), 8) * 8);
  const int positions = static_cast<int>(std::min<int64_t>(positions_at_once(Z), fewer));
  const dim3 grid(static_cast<unsigned>(maps), static_cast<unsigned>(std::min(ceil_div(Z, positions), kMostGridY)));
  launch(name, sums_kernel<kThreads, kFactor, In>, grid, kThreads,
         int64_t{kPartials} * positions * static_cast<int64_t>(sizeof(Accumulator<In>)),
         static_cast<const In*>(layout.tensor.const_data_ptr()), gradients, weights, out, static_cast<unsigned>(C),
         layout.channels(), Z, layout.channels_last, positions);
}

Tensor class_map(const Tensor& features, const Tensor& weights) {
  STD_TORCH_CHECK(features.dim() == 4 && weights.dim() == 3 && weights.size(0) == features.size(0) &&
                      weights.size(2) == features.size(1) && weights.scalar_type() == accumulation_type(features) &&
                      weights.get_device_index() == features.get_device_index(),
                  "class_map: weights do not match features");
  const Launch launch(features);
  const Layout layout(features);
  const Tensor w = packed(weights);
  const int64_t C = w.size(1);
  Tensor out = empty_on(features, {layout.images(), C, features.size(2), features.size(3)}, w.scalar_type());
  if (layout.images() * C * layout.positions() == 0) return out;
  dispatch(features, [&](auto* type) {
    using In = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
    using Acc = Accumulator<In>;
    launch_sums<Factor::kWeight, In>(launch, "class_map", layout, nullptr, static_cast<const Acc*>(w.const_data_ptr()),
                                     static_cast<Acc*>(out.mutable_data_ptr()), C);
  });
  return out;
}

template <class In>
void launch_gradient_map(const Launch& launch, const Layout& features, const Layout& gradients, Weighting weighting,
                         double eps, Tensor& out) {
  using Acc = Accumulator<In>;
  const auto* a = static_cast<const In*>(features.tensor.const_data_ptr());
  const auto* g = static_cast<const In*>(gradients.tensor.const_data_ptr());
  auto* to = static_cast<Acc*>(out.mutable_data_ptr());
  if (weighting == Weighting::kHiResCam)
    return launch_sums<Factor::kGradient, In>(launch, "gradient_map", features, g, nullptr, to, 1);
  if (weighting == Weighting::kLayerCam)
    return launch_sums<Factor::kPositiveGradient, In>(launch, "gradient_map", features, g, nullptr, to, 1);

  const int64_t N = features.images(), K = features.channels(), Z = features.positions();
  // Enough channels at a time to keep the memory busy, with two blocks on a multiprocessor.
  const int64_t some = 32768 / (2 * Z * static_cast<int64_t>(sizeof(In))) / 32 * 32;
  const int channels = static_cast<int>(std::min(std::clamp<int64_t>(some, 32, 256), ceil_div(K, 32) * 32));
  const int64_t shared = gradient_map_bytes<In>(Z, channels);
  if (2 * shared <= launch.limits().shared && 4 * N >= launch.limits().multiprocessors) {
    launch("gradient_map", gradient_map_kernel<kThreads, In>, dim3(static_cast<unsigned>(N)), kThreads, shared, a, g,
           to, K, Z, features.channels_last, weighting, static_cast<Acc>(eps), channels);
    return;
  }
  // Large maps, or few: weights first, with more blocks, and then the map.
  Tensor weights = empty_on(out, {N, K}, out.scalar_type());
  auto* w = static_cast<Acc*>(weights.mutable_data_ptr());
  const dim3 grid(static_cast<unsigned>(N), static_cast<unsigned>(std::min(ceil_div(K, 32), kMostGridY)));
  launch("gradient_map", channel_weights_kernel<kThreads, In>, grid, kThreads,
         pool_space(32) * static_cast<int64_t>(sizeof(Acc)), a, g, w, K, Z, features.channels_last, weighting,
         static_cast<Acc>(eps), 32);
  launch_sums<Factor::kWeight, In>(launch, "gradient_map", features, nullptr, w, to, 1);
}

Tensor gradient_map(const Tensor& features, const Tensor& gradients, std::string weighting, double eps) {
  STD_TORCH_CHECK(features.dim() == 4 && gradients.sizes().equals(features.sizes()) &&
                      gradients.scalar_type() == features.scalar_type() &&
                      gradients.get_device_index() == features.get_device_index(),
                  "gradient_map: gradients do not match features");
  const Launch launch(features);
  Layout a(features), g(gradients);
  if (a.channels_last != g.channels_last) {
    a = Layout(packed(features));
    g = Layout(packed(gradients));
  }
  const Weighting rule = weighting_of(weighting);
  Tensor out = empty_on(features, {a.images(), features.size(2), features.size(3)}, accumulation_type(features));
  if (a.images() * a.positions() == 0) return out;
  dispatch(features, [&](auto* type) {
    using In = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
    launch_gradient_map<In>(launch, a, g, rule, eps, out);
  });
  return out;
}

template <class T, class Out, bool kBicubic>
void launch_heatmap(const Launch& launch, const Tensor& maps, Tensor& out, const Upsampling& size,
                    Normalize normalize) {
  const int64_t M = maps.size(0), bytes = Surface<T, kBicubic>::bytes(size);
  const bool held = bytes <= launch.limits().shared;
  Tensor coarse = maps;
  if (normalize == Normalize::kBefore || normalize == Normalize::kBoth) {
    coarse = empty_on(maps, {M, maps.size(1), maps.size(2)}, maps.scalar_type());
    launch("heatmap", rescale_kernel<kThreads, T>, dim3(static_cast<unsigned>(M)), kThreads, 0,
           static_cast<const T*>(maps.const_data_ptr()), static_cast<T*>(coarse.mutable_data_ptr()), size);
  }
  // One block per map when they fill the device, else some rows each.
  const int64_t wanted = ceil_div(launch.limits().multiprocessors, M);
  const int64_t parts = std::min(wanted, std::max<int64_t>(1, int64_t{size.H} * size.W / 16384));
  const dim3 grid(static_cast<unsigned>(M), static_cast<unsigned>(std::min<int64_t>(parts, size.H)));
  launch("heatmap", heatmap_kernel<kThreads, kBicubic, T, Out>, grid, kThreads, held ? bytes : 0,
         static_cast<const T*>(coarse.const_data_ptr()), static_cast<Out*>(out.mutable_data_ptr()), size,
         normalize == Normalize::kAfter || normalize == Normalize::kBoth, normalize != Normalize::kNone, held);
}

template <class T>
void launch_heatmap(const Launch& launch, const Tensor& maps, Tensor& out, const Upsampling& size, bool bicubic,
                    Normalize normalize, bool as_bytes) {
  const auto run = as_bytes ? (bicubic ? launch_heatmap<T, uint8_t, true> : launch_heatmap<T, uint8_t, false>)
                            : (bicubic ? launch_heatmap<T, T, true> : launch_heatmap<T, T, false>);
  run(launch, maps, out, size, normalize);
}

Tensor heatmap(const Tensor& coarse, int64_t height, int64_t width, bool relu, std::string normalize, std::string mode,
               bool as_bytes) {
  constexpr int64_t kMostSide = int64_t{1} << 30;
  STD_TORCH_CHECK(coarse.dim() == 3 && height > 0 && width > 0, "heatmap: coarse [M, h, w] and a positive size");
  STD_TORCH_CHECK(std::max({height, width, coarse.size(1), coarse.size(2)}) < kMostSide, "heatmap: size");
  const Launch launch(coarse);
  const Tensor maps = packed(coarse);
  const int64_t M = maps.size(0);
  STD_TORCH_CHECK(M == 0 || maps.size(1) * maps.size(2) > 0, "heatmap: empty maps");
  const DType dtype = dtype_of(maps);
  STD_TORCH_CHECK(dtype == DType::kFloat || dtype == DType::kDouble, "heatmap: float or double");
  Tensor out = empty_on(maps, {M, height, width}, as_bytes ? ScalarType::Byte : maps.scalar_type());
  if (M == 0) return out;
  const Upsampling size{static_cast<int>(maps.size(1)), static_cast<int>(maps.size(2)), static_cast<int>(height),
                        static_cast<int>(width), relu};
  if (dtype == DType::kDouble)
    launch_heatmap<double>(launch, maps, out, size, mode == "bicubic", normalize_of(normalize), as_bytes);
  else
    launch_heatmap<float>(launch, maps, out, size, mode == "bicubic", normalize_of(normalize), as_bytes);
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m) {
  m.impl("class_map", TORCH_BOX(&fastcam::class_map));
  m.impl("gradient_map", TORCH_BOX(&fastcam::gradient_map));
  m.impl("heatmap", TORCH_BOX(&fastcam::heatmap));
}
