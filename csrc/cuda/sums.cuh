// Weighted sums over channels. They have one order, whatever the memory layout, the number of threads, the width of
// loads, the batch and the grid: 32 partial sums a position, of the channels k = p (mod 32) in order with one fma a
// term, then added pairwise, neighbours first. A block has one image, or some positions of one. A thread keeps in
// registers the partial sums of the 16 bytes it loads, which recur every 32 channels, and runs over the channels with
// four independent loads in flight; only the pairwise sums go through shared memory. Traffic: activations (and
// gradients) once.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

#include <cstring>
#include <type_traits>

#include "../exact.h"
#include "../options.h"
#include "../weightings.h"
#include "block.cuh"

namespace fastcam {

constexpr int kPartials = 32;

__device__ inline float value(float v) { return v; }
__device__ inline double value(double v) { return v; }
__device__ inline float value(__half v) { return __half2float(v); }
__device__ inline float value(__nv_bfloat16 v) { return __bfloat162float(v); }

// V neighbours in memory, read at once.
template <int V, class In>
struct Neighbours {
  In v[V];

  __device__ void load(const In* p) {
    if constexpr (V == 1) {
      v[0] = *p;
    } else {
      static_assert(V * sizeof(In) == sizeof(uint4));
      const uint4 words = *reinterpret_cast<const uint4*>(p);
      memcpy(v, &words, sizeof(words));
    }
  }
};

// The positions [begin, begin + count) of one image. Their partial sums lie as the activations of 32 channels do.
struct Window {
  int64_t K, Z, begin;
  int count;
  bool channels_last;

  // Where channel k lies at a position of these; those that are added to it follow in steps of period().
  __device__ int64_t first(int k, int z) const { return channels_last ? (begin + z) * K + k : k * Z + begin + z; }
  __device__ int64_t period() const { return channels_last ? kPartials : kPartials * Z; }
  // Partial sum p of a position. Channels last, neighbouring threads would meet in one bank of shared memory: the
  // exclusive or leads them apart, and exchanges only summands.
  __device__ int partial(int p, int z) const { return channels_last ? z * kPartials + (p ^ (z & 31)) : p * count + z; }

  // Whether neighbours can be read at once. V of them belong to V channels, or to at most two.
  template <int V, class In, class Acc>
  __device__ bool aligned(const In* a, const In* g, const Acc* w) const {
    const auto all = reinterpret_cast<uintptr_t>(a) | reinterpret_cast<uintptr_t>(g);
    if (channels_last) return (all | reinterpret_cast<uintptr_t>(w)) % 16 == 0 && K % V == 0;
    return all % 16 == 0 && count >= V && (count == Z || (Z % V == 0 && begin % V == 0 && count % V == 0));
  }
};

// By what activations are multiplied: a weight of their channel, or the gradient at their place.
enum class Factor { kWeight, kGradient, kPositiveGradient };

// The partial sums. Factors are weights [K] and g is null, or factors are gradients and weights are null.
template <int kThreads, int V, bool kLast, Factor kFactor, class In, class Acc>
__device__ void sweep(const Window& window, const In* __restrict__ a, const In* __restrict__ g, const Acc* weights,
                      Acc* partials) {
  constexpr bool kWeighted = kFactor == Factor::kWeight;
  constexpr int kInFlight = 4;
  const int64_t period = window.period();
  const int turns = static_cast<int>(window.K / kPartials), rest = static_cast<int>(window.K % kPartials);
  for (int i = static_cast<int>(threadIdx.x) * V; i < kPartials * window.count; i += kThreads * V) {
    Acc sum[V];
#pragma unroll
    for (int e = 0; e < V; ++e) sum[e] = 0;
    // Neighbour e belongs to channel k + e, or to k as long as e < left and then to the next one.
    const int k = kLast ? i % kPartials : i / window.count, z = kLast ? i / kPartials : i - k * window.count;
    const int left = window.count - z;
    int64_t at = window.first(k, z);
    const Acc *w = kWeighted ? weights + k : nullptr, *next = kWeighted ? w + (left < V) : nullptr;
    // What a turn multiplies by, loaded as early as the activations: V gradients, or the weights of V channels or two.
    constexpr int kFactors = !kWeighted || (V > 1 && kLast) ? V : V > 1 ? 2 : 1;
    struct Turn {
      Neighbours<V, In> a, g;
      Acc w[kFactors];
    };
    const auto load = [&](Turn& turn, int64_t at, int k) {  // channel k from here
      turn.a.load(a + at);
      if constexpr (!kWeighted) {
        turn.g.load(g + at);
      } else if constexpr (V > 1 && kLast) {
#pragma unroll
        for (int e = 0; e < V; e += sizeof(uint4) / sizeof(Acc)) {
          const uint4 words = *reinterpret_cast<const uint4*>(w + k + e);
          memcpy(turn.w + e, &words, sizeof(words));
        }
      } else {
        turn.w[0] = w[k];
        if constexpr (kFactors == 2) turn.w[1] = next[k];
      }
    };
    const auto add = [&](const Turn& turn) {
#pragma unroll
      for (int e = 0; e < V; ++e) {
        Acc f;
        if constexpr (!kWeighted) {
          f = value(turn.g.v[e]);
        } else if constexpr (kFactors == V) {
          f = turn.w[e];
        } else {
          const Acc near = turn.w[0], far = turn.w[1];  // read both: an index would put them into local memory
          f = e < left ? near : far;
        }
        if (kFactor == Factor::kPositiveGradient) f = positive_part(f);
        sum[e] = fused(f, static_cast<Acc>(value(turn.a.v[e])), sum[e]);
      }
    };
    int turn = 0;
    for (; turn + kInFlight <= turns; turn += kInFlight) {
      Turn ahead[kInFlight];
#pragma unroll
      for (int u = 0; u < kInFlight; ++u) load(ahead[u], at + u * period, u * kPartials);
#pragma unroll
      for (int u = 0; u < kInFlight; ++u) add(ahead[u]);
      at += kInFlight * period;
      if constexpr (kWeighted) w += kInFlight * kPartials, next += kInFlight * kPartials;
    }
#pragma unroll 1
    for (; turn < turns; ++turn, at += period) {
      Turn one;
      load(one, at, 0);
      add(one);
      if constexpr (kWeighted) w += kPartials, next += kPartials;
    }
#pragma unroll
    for (int e = 0; e < V; ++e) {
      const int channel = kLast ? e : e < left ? 0 : 1;  // from k on
      if (k + channel < rest) {
        Acc f = kWeighted ? w[channel] : static_cast<Acc>(value(g[at + e]));
        if (kFactor == Factor::kPositiveGradient) f = positive_part(f);
        sum[e] = fused(f, static_cast<Acc>(value(a[at + e])), sum[e]);
      }
      partials[i + e] = sum[e];
    }
  }
}

template <int kThreads, Factor kFactor, class In, class Acc>
__device__ void sweep(const Window& window, const In* a, const In* g, const Acc* weights, Acc* partials) {
  constexpr int V = sizeof(uint4) / sizeof(In);
  const auto run = [&](auto width, auto last) {
    sweep<kThreads, width, last, kFactor>(window, a, g, weights, partials);
  };
  using Wide = std::integral_constant<int, V>;
  using Single = std::integral_constant<int, 1>;
  const bool aligned = window.aligned<V>(a, g, weights);
  if (window.channels_last)
    aligned ? run(Wide(), std::true_type()) : run(Single(), std::true_type());
  else
    aligned ? run(Wide(), std::false_type()) : run(Single(), std::false_type());
}

// The pairwise sums, out[0 ... count).
template <int kThreads, class Acc>
__device__ void add_pairs(const Window& window, const Acc* partials, Acc* out) {
  for (int z = static_cast<int>(threadIdx.x); z < window.count; z += kThreads) {
    Acc sum[kPartials];
#pragma unroll
    for (int p = 0; p < kPartials; ++p) sum[p] = partials[window.partial(p, z)];
#pragma unroll
    for (int step = 1; step < kPartials; step *= 2)
#pragma unroll
      for (int p = 0; p < kPartials; p += 2 * step) sum[p] += sum[p + step];
    out[z] = sum[0];
  }
}

// How many positions a block takes at a time: at most 256, in equal parts.
FASTCAM_HD int positions_at_once(int64_t Z) {
  const int64_t parts = (Z + 255) / 256, even = ((Z + parts - 1) / parts + 7) / 8 * 8;
  return static_cast<int>(even < Z ? even : Z);
}

// How many numbers of shared memory block_class_map wants.
FASTCAM_HD int64_t class_map_space(int64_t Z) { return int64_t{kPartials} * positions_at_once(Z); }

// The class map of one image, by all threads of a block; out [Z] may be shared memory and is complete on return.
template <int kThreads, class In, class Acc>
__device__ void block_class_map(const In* image, const Acc* weights, Acc* out, int64_t K, int64_t Z, bool channels_last,
                                Acc* space) {
  const int positions = positions_at_once(Z);
  for (int64_t begin = 0; begin < Z; begin += positions) {
    const int count = static_cast<int>(Z - begin < positions ? Z - begin : positions);
    const Window window{K, Z, begin, count, channels_last};
    sweep<kThreads, Factor::kWeight>(window, image, static_cast<const In*>(nullptr), weights, space);
    __syncthreads();
    add_pairs<kThreads>(window, space, out + begin);
    __syncthreads();
  }
}

// Blocks: images times classes, parts of the positions.
template <int kThreads, Factor kFactor, class In>
__global__ void __launch_bounds__(kThreads, (sizeof(In) == 8 ? 512 : 768) / kThreads)
    sums_kernel(const In* __restrict__ features,              // [N, K, Z] or [N, Z, K]
                const In* __restrict__ gradients,             // the same, or null
                const Accumulator<In>* __restrict__ weights,  // [N, C, K], or null
                Accumulator<In>* __restrict__ out,            // [N, C, Z]
                unsigned C, int64_t K, int64_t Z, bool channels_last, int positions) {
  FASTCAM_DYNAMIC_SHARED(space);
  auto* partials = reinterpret_cast<Accumulator<In>*>(space);  // [32 * positions]
  const int64_t item = blockIdx.x, image = blockIdx.x / C * (K * Z);
  for (int64_t begin = int64_t{blockIdx.y} * positions; begin < Z; begin += int64_t{gridDim.y} * positions) {
    const int count = static_cast<int>(Z - begin < positions ? Z - begin : positions);
    const Window window{K, Z, begin, count, channels_last};
    const In* g = kFactor == Factor::kWeight ? nullptr : gradients + image;
    const auto* w = kFactor == Factor::kWeight ? weights + item * K : nullptr;
    sweep<kThreads, kFactor>(window, features + image, g, w, partials);
    __syncthreads();
    add_pairs<kThreads>(window, partials, out + item * Z + begin);
    __syncthreads();
  }
}

}  // namespace fastcam
