// CUDA operators that sum activations over channels (sums.cuh, sums_gradients.cuh). What is chosen here, how many
// positions or channels a block takes, changes speed alone.
#include <algorithm>

#include "../arguments.h"
#include "launch.h"
#include "sums_gradients.cuh"

namespace fastcam {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kMostGridY = 65535;

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
  check_weights(features, weights, "class_map");
  const Launch launch(features);
  const Layout layout(features);
  const Tensor w = packed(weights);
  const int64_t C = w.size(1);
  Tensor out = empty_on(features, {layout.images(), C, features.size(2), features.size(3)}, w.scalar_type());
  if (layout.images() * C * layout.positions() == 0) return out;
  with_dtype<__half, __nv_bfloat16>(dtype_of(features), [&](auto type) {
    using In = typename decltype(type)::type;
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

  // Weights first, and then their map. One kernel for both, by way of shared memory, reads activations once less and
  // takes longer.
  const int64_t N = features.images(), K = features.channels(), Z = features.positions();
  STD_TORCH_CHECK(Z < int64_t{1} << 31, "gradient_map: too many positions");
  Tensor weights = empty_on(out, {N, K}, out.scalar_type());
  auto* w = static_cast<Acc*>(weights.mutable_data_ptr());
  const dim3 grid(static_cast<unsigned>(N), static_cast<unsigned>(std::min(ceil_div(K, 32), kMostGridY)));
  launch("gradient_map", channel_weights_kernel<kThreads, In>, grid, kThreads,
         pool_space(32) * static_cast<int64_t>(sizeof(Acc)), a, g, w, K, Z, features.channels_last, weighting,
         static_cast<Acc>(eps), 32);
  launch_sums<Factor::kWeight, In>(launch, "gradient_map", features, nullptr, w, to, 1);
}

Tensor gradient_map(const Tensor& features, const Tensor& gradients, std::string weighting, double eps) {
  check_gradients(features, gradients);
  const Launch launch(features);
  const LayoutPair both(features, gradients);
  const Layout &a = both.features, &g = both.gradients;
  const Weighting rule = weighting_of(weighting);
  Tensor out = empty_on(features, {a.images(), features.size(2), features.size(3)}, accumulation_type(features));
  if (a.images() * a.positions() == 0) return out;
  with_dtype<__half, __nv_bfloat16>(dtype_of(features), [&](auto type) {
    using In = typename decltype(type)::type;
    launch_gradient_map<In>(launch, a, g, rule, eps, out);
  });
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m) {
  m.impl("class_map", TORCH_BOX(&fastcam::class_map));
  m.impl("gradient_map", TORCH_BOX(&fastcam::gradient_map));
}
