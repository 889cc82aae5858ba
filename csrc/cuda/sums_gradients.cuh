// Channel weights from gradients (Grad-CAM, Grad-CAM++, XGrad-CAM); their map is that of sums.cuh. Sums over positions
// have one order, as those over channels do: 8 partial sums a channel, of the positions z = q (mod 8) in order, then
// added pairwise, neighbours first. A thread takes one partial sum of one channel, with eight independent loads in
// flight. Traffic: gradients once, and activations once where the weighting has them; a block's share of both is small
// enough that what Grad-CAM++ reads again is still in the cache.
#pragma once

#include "../options.h"
#include "sums.cuh"

namespace fastcam {

constexpr int kPools = 8;

// Activations and gradients of one image, and how they are used.
template <class In>
struct Gradients {
  const In *a, *g;
  int64_t K, Z;
  Weighting weighting;
  Accumulator<In> eps;
};

// Item i is partial sum q of channel c, so that neighbouring threads read neighbouring memory.
struct Item {
  int c, q;
  __device__ Item(int i, bool channels_last)
      : c(channels_last ? i / 256 * 32 + i % 32 : i / kPools), q(channels_last ? i / 32 % kPools : i % kPools) {}
};

template <class Acc>
__device__ Acc pooled(const Acc* pool, int c, bool channels_last) {
  Acc sum[kPools];
#pragma unroll
  for (int q = 0; q < kPools; ++q) sum[q] = pool[channels_last ? c / 32 * 256 + q * 32 + c % 32 : c * kPools + q];
  return ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
}

// f(a, g) for the positions q, q + 8, ... of a channel, in order; what is not wanted is not read.
template <bool kLast, bool kActivations, bool kGradients, class In, class F>
__device__ void for_positions(const Gradients<In>& from, int64_t k, int q, const F& f) {
  using Acc = Accumulator<In>;
  constexpr int kInFlight = 8;
  const int64_t next = kLast ? kPools * from.K : kPools;
  const int64_t first = kLast ? q * from.K + k : k * from.Z + q;
  const In *a_at = from.a + first, *g_at = from.g + first;
#pragma unroll 1
  for (int left = (static_cast<int>(from.Z) - q + kPools - 1) / kPools; left > 0; left -= kInFlight) {
    In a[kInFlight], g[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {  // all loads before the first use
      if constexpr (kActivations)
        if (u < left) a[u] = a_at[u * next];
      if constexpr (kGradients)
        if (u < left) g[u] = g_at[u * next];
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u)
      if (u < left)
        f(kActivations ? static_cast<Acc>(value(a[u])) : Acc(0), kGradients ? static_cast<Acc>(value(g[u])) : Acc(0));
    a_at += kInFlight * next, g_at += kInFlight * next;
  }
}

// How many numbers of work space the weights of so many channels take, a multiple of 32.
FASTCAM_HD int64_t pool_space(int channels) { return int64_t{2} * kPools * channels; }

// weights[0 ... count) of the channels from begin on, complete on return. All threads of the block call it.
template <int kThreads, bool kLast, class In, class Acc>
__device__ void channel_weights(const Gradients<In>& from, int64_t begin, int count, Acc* pools, Acc* weights) {
  const int items = (count + 31) / 32 * 32 * kPools, t = static_cast<int>(threadIdx.x);
  Acc *activations = pools, *products = pools + items;  // [channels, 8] each, as items go
  for (int i = t; i < items; i += kThreads) {
    const Item item(i, kLast);
    if (item.c >= count) continue;
    const int64_t k = begin + item.c;
    Acc sum = 0, product = 0;
    if (from.weighting == Weighting::kGradCam)
      for_positions<kLast, false, true>(from, k, item.q, [&](Acc, Acc g) { product += g; });
    else if (from.weighting == Weighting::kGradCamPlusPlus)
      for_positions<kLast, true, false>(from, k, item.q, [&](Acc a, Acc) { sum += a; });
    else
      for_positions<kLast, true, true>(from, k, item.q,
                                       [&](Acc a, Acc g) { sum += a, product = fused(g, a, product); });
    activations[i] = sum;
    products[i] = product;
  }
  __syncthreads();
  if (from.weighting == Weighting::kGradCamPlusPlus) {
    for (int i = t; i < items; i += kThreads) {
      const Item item(i, kLast);
      if (item.c >= count) continue;
      const Acc total = pooled(activations, item.c, kLast);
      Acc sum = 0;
      for_positions<kLast, false, true>(from, begin + item.c, item.q,
                                        [&](Acc, Acc g) { sum += plus_plus(g, total, from.eps); });
      products[i] = sum;
    }
    __syncthreads();
  }
  for (int c = t; c < count; c += kThreads) {
    Acc weight = pooled(products, c, kLast);
    if (from.weighting == Weighting::kGradCam) weight /= static_cast<Acc>(from.Z);
    if (from.weighting == Weighting::kXGradCam) weight /= ratio_base(pooled(activations, c, kLast), from.eps);
    weights[c] = weight;
  }
  __syncthreads();
}

// Blocks: images, groups of channels.
template <int kThreads, class In>
__global__ void __launch_bounds__(kThreads)
    channel_weights_kernel(const In* __restrict__ features, const In* __restrict__ gradients,
                           Accumulator<In>* __restrict__ weights,  // [N, K]
                           int64_t K, int64_t Z, bool channels_last, Weighting weighting, Accumulator<In> eps,
                           int channels) {  // at a time, a multiple of 32
  FASTCAM_DYNAMIC_SHARED(space);            // [pool_space(channels)]
  const int64_t image = int64_t{blockIdx.x} * K * Z;
  const Gradients<In> from{features + image, gradients + image, K, Z, weighting, eps};
  for (int64_t begin = int64_t{blockIdx.y} * channels; begin < K; begin += int64_t{gridDim.y} * channels) {
    const int count = static_cast<int>(K - begin < channels ? K - begin : channels);
    auto *pools = reinterpret_cast<Accumulator<In>*>(space), *out = weights + blockIdx.x * K + begin;
    if (channels_last)
      channel_weights<kThreads, true>(from, begin, count, pools, out);
    else
      channel_weights<kThreads, false>(from, begin, count, pools, out);
  }
}

}  // namespace fastcam
