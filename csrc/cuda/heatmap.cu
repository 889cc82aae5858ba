// CUDA operator of heatmaps (heatmap.cuh). What is chosen here, how many rows a block takes, changes speed alone.
#include <algorithm>

#include "../arguments.h"
#include "heatmap.cuh"
#include "launch.h"

namespace fastcam {
namespace {

constexpr int kThreads = 256;

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
  check_coarse(coarse, height, width);
  STD_TORCH_CHECK(std::max({height, width, coarse.size(1), coarse.size(2)}) < kMostSide, "heatmap: size");
  const Launch launch(coarse);
  const Tensor maps = packed(coarse);
  const int64_t M = maps.size(0);
  Tensor out = empty_on(maps, {M, height, width}, as_bytes ? ScalarType::Byte : maps.scalar_type());
  if (M == 0) return out;
  const Upsampling size{static_cast<int>(maps.size(1)), static_cast<int>(maps.size(2)), static_cast<int>(height),
                        static_cast<int>(width), relu};
  with_float_or_double(maps, [&](auto type) {
    launch_heatmap<typename decltype(type)::type>(launch, maps, out, size, mode == "bicubic", normalize_of(normalize),
                                                  as_bytes);
  });
  return out;
}

}  // namespace
}  // namespace fastcam

STABLE_TORCH_LIBRARY_IMPL(fastcam, CUDA, m) { m.impl("heatmap", TORCH_BOX(&fastcam::heatmap)); }
