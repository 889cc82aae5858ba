// Channel weights from gradients (Grad-CAM, Grad-CAM++, XGrad-CAM), and their map in the same pass. Sums over positions
// have one order, as those over channels do (sums.cuh): 8 partial sums a channel, of the positions z = q (mod 8) in
// order, then added pairwise, neighbours first. A block has one image and brings some of its channels at a time into
// shared memory, with eight independent loads of 16 bytes a thread in flight. There a thread pools one partial sum of
// one channel at a time, and the weights are applied. Traffic: activations and gradients once; where shared memory is
// too small, activations once more.
#pragma once

#include "../options.h"
#include "sums.cuh"

namespace fastcam {

constexpr int kPools = 8;

// Activations and gradients of one image or some of its channels, in global or shared memory, and how they are used.
template <class In>
struct Gradients {
  const In *a, *g;
  int64_t K, Z;
  bool channels_last;
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
template <bool kActivations, bool kGradients, class In, class F>
__device__ void for_positions(const Gradients<In>& from, int64_t k, int q, const F& f) {
  using Acc = Accumulator<In>;
  constexpr int kInFlight = 8;
  const int64_t step = from.channels_last ? from.K : 1, offset = from.channels_last ? k : k * from.Z;
  for (int64_t z = q; z < from.Z; z += kPools * kInFlight) {
    In a[kInFlight], g[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {  // all loads before the first use
      const int64_t at = z + kPools * u;
      if (at >= from.Z) break;
      if constexpr (kActivations) a[u] = from.a[offset + at * step];
      if constexpr (kGradients) g[u] = from.g[offset + at * step];
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      if (z + kPools * u >= from.Z) break;
      f(kActivations ? static_cast<Acc>(value(a[u])) : Acc(0), kGradients ? static_cast<Acc>(value(g[u])) : Acc(0));
    }
  }
}

// How many numbers of work space the weights of so many channels take, a multiple of 32.
FASTCAM_HD int64_t pool_space(int channels) { return int64_t{2} * kPools * channels; }

// weights[0 ... count) of the channels from begin on, complete on return. All threads of the block call it.
template <int kThreads, class In, class Acc>
__device__ void channel_weights(const Gradients<In>& from, int64_t begin, int count, Acc* pools, Acc* weights) {
  const bool last = from.channels_last;
  const int items = (count + 31) / 32 * 32 * kPools, t = static_cast<int>(threadIdx.x);
  Acc *activations = pools, *products = pools + items;  // [channels, 8] each, as items go
  for (int i = t; i < items; i += kThreads) {
    const Item item(i, last);
    if (item.c >= count) continue;
    const int64_t k = begin + item.c;
    Acc sum = 0, product = 0;
    if (from.weighting == Weighting::kGradCam)
      for_positions<false, true>(from, k, item.q, [&](Acc, Acc g) { product += g; });
    else if (from.weighting == Weighting::kGradCamPlusPlus)
      for_positions<true, false>(from, k, item.q, [&](Acc a, Acc) { sum += a; });
    else
      for_positions<true, true>(from, k, item.q, [&](Acc a, Acc g) { sum += a, product = fused(g, a, product); });
    activations[i] = sum;
    products[i] = product;
  }
  __syncthreads();
  if (from.weighting == Weighting::kGradCamPlusPlus) {
    for (int i = t; i < items; i += kThreads) {
      const Item item(i, last);
      if (item.c >= count) continue;
      const Acc total = pooled(activations, item.c, last);
      Acc sum = 0;
      for_positions<false, true>(from, begin + item.c, item.q,
                                 [&](Acc, Acc g) { sum += plus_plus(g, total, from.eps); });
      products[i] = sum;
    }
    __syncthreads();
  }
  for (int c = t; c < count; c += kThreads) {
    Acc weight = pooled(products, c, last);
    if (from.weighting == Weighting::kGradCam) weight /= static_cast<Acc>(from.Z);
    if (from.weighting == Weighting::kXGradCam) weight /= ratio_base(pooled(activations, c, last), from.eps);
    weights[c] = weight;
  }
  __syncthreads();
}

// Copies `rows` rows of `width` words each, `stride` apart, of two arrays and without gaps between them.
template <int kThreads, class Word>
__device__ void copy(const Word* __restrict__ a, const Word* __restrict__ g, int rows, int width, int64_t stride,
                     Word* a_to, Word* g_to) {
  constexpr int kInFlight = 4;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < rows * width; i += kThreads * kInFlight) {
    Word an[kInFlight], gn[kInFlight];
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int j = i + u * kThreads;
      if (j >= rows * width) break;
      const int64_t at = j / width * stride + j % width;
      an[u] = a[at];
      gn[u] = g[at];
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const int j = i + u * kThreads;
      if (j >= rows * width) break;
      a_to[j] = an[u];
      g_to[j] = gn[u];
    }
  }
}

// Adds `count` weighted channels from shared memory to the partial sums of all positions, in the order of sums.cuh.
template <int kThreads, class In, class Acc>
__device__ void apply(const In* a, const Acc* weights, int count, int Z, bool channels_last, bool first,
                      Acc* partials) {
  const int step = channels_last ? kPartials : kPartials * Z;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < kPartials * Z; i += kThreads) {
    const int p = channels_last ? i % kPartials : i / Z;
    const In* from = a + (channels_last ? i / kPartials * count + p : i);
    Acc sum = first ? Acc(0) : partials[i];
#pragma unroll 2
    for (int k = p; k < count; k += kPartials, from += step)
      sum = fused(weights[k], static_cast<Acc>(value(*from)), sum);
    partials[i] = sum;
  }
}

// Bytes of shared memory for so many channels at a time, a multiple of 32.
template <class In>
FASTCAM_HD int64_t gradient_map_bytes(int64_t Z, int channels) {
  return 2 * channels * Z * static_cast<int64_t>(sizeof(In)) +
         (kPartials * Z + channels + pool_space(channels)) * static_cast<int64_t>(sizeof(Accumulator<In>));
}

// The whole in one pass, where that much fits shared memory: one block per image.
template <int kThreads, class In>
__global__ void __launch_bounds__(kThreads, (sizeof(In) == 8 ? 512 : 768) / kThreads)
    gradient_map_kernel(const In* __restrict__ features,    // [N, K, Z] or [N, Z, K]
                        const In* __restrict__ gradients,   // the same
                        Accumulator<In>* __restrict__ out,  // [N, Z]
                        int64_t K, int64_t Z, bool channels_last, Weighting weighting, Accumulator<In> eps,
                        int channels) {  // at a time, a multiple of 32
  using Acc = Accumulator<In>;
  constexpr int V = sizeof(uint4) / sizeof(In);
  FASTCAM_DYNAMIC_SHARED(space);
  auto* a = reinterpret_cast<In*>(space);                     // [channels * Z]
  In* g = a + channels * Z;                                   // [channels * Z]
  auto* partials = reinterpret_cast<Acc*>(g + channels * Z);  // [32 * Z]
  Acc* weights = partials + kPartials * Z;                    // [channels]
  Acc* pools = weights + channels;                            // [pool_space(channels)]
  const int64_t image = int64_t{blockIdx.x} * K * Z;
  features += image, gradients += image;
  const bool aligned = ((reinterpret_cast<uintptr_t>(features) | reinterpret_cast<uintptr_t>(gradients)) & 15) == 0;
  for (int64_t begin = 0; begin < K; begin += channels) {
    const int count = static_cast<int>(K - begin < channels ? K - begin : channels);
    const int rows = channels_last ? static_cast<int>(Z) : 1, row = channels_last ? count : static_cast<int>(count * Z);
    const int64_t first = channels_last ? begin : begin * Z;
    const In *from_a = features + first, *from_g = gradients + first;
    if (aligned && row % V == 0 && (rows == 1 || K % V == 0))
      copy<kThreads>(reinterpret_cast<const uint4*>(from_a), reinterpret_cast<const uint4*>(from_g), rows, row / V,
                     K / V, reinterpret_cast<uint4*>(a), reinterpret_cast<uint4*>(g));
    else
      copy<kThreads>(from_a, from_g, rows, row, K, a, g);
    __syncthreads();
    channel_weights<kThreads>(Gradients<In>{a, g, count, Z, channels_last, weighting, eps}, 0, count, pools, weights);
    apply<kThreads>(a, weights, count, static_cast<int>(Z), channels_last, begin == 0, partials);
    __syncthreads();
  }
  const Window window{K, Z, 0, static_cast<int>(Z), channels_last};
  add_pairs<kThreads>(window, partials, out + blockIdx.x * Z);
}

// The weights alone. Blocks: images, groups of channels.
template <int kThreads, class In>
__global__ void __launch_bounds__(kThreads)
    channel_weights_kernel(const In* __restrict__ features, const In* __restrict__ gradients,
                           Accumulator<In>* __restrict__ weights,  // [N, K]
                           int64_t K, int64_t Z, bool channels_last, Weighting weighting, Accumulator<In> eps,
                           int channels) {  // at a time, a multiple of 32
  FASTCAM_DYNAMIC_SHARED(space);            // [pool_space(channels)]
  const int64_t image = int64_t{blockIdx.x} * K * Z;
  const Gradients<In> from{features + image, gradients + image, K, Z, channels_last, weighting, eps};
  for (int64_t begin = int64_t{blockIdx.y} * channels; begin < K; begin += int64_t{gridDim.y} * channels) {
    const int count = static_cast<int>(K - begin < channels ? K - begin : channels);
    channel_weights<kThreads>(from, begin, count, reinterpret_cast<Accumulator<In>*>(space),
                              weights + blockIdx.x * K + begin);
  }
}

}  // namespace fastcam
