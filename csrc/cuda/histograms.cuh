// Counts scores by bin and mask. A block takes a map, or a share of one where maps are few, and counts in shared
// memory; a thread takes four neighbours at a time. Bins begin at float64 products: a block makes a table of the first
// score of each, after which a pixel takes one fma and one comparison. Memory is read once, 5 or 9 bytes a pixel.
// Threads add a run of equal scores at once: on a plateau of a map all lanes of a warp would wait for one counter,
// pixel by pixel. Integers only, so that the order of additions does not matter.
#pragma once

#include <cstring>

#include "../score_bins.h"
#include "block.cuh"

namespace fastcam {

// Bytes of shared memory: where bins begin, and the counters.
template <class T>
constexpr int64_t histogram_space(const Bins& bins) {
  return (bins.count + 1) * static_cast<int64_t>(sizeof(T)) +
         (2 * bins.all() + 1) * static_cast<int64_t>(sizeof(unsigned));
}

// v * count as a whole number, rounded either way halfway between two; both are far below 2^22.
__device__ inline int rounded_product(float v, float count) {
  return __float_as_int(fused(v, count, 0x1p23f)) - __float_as_int(0x1p23f);
}
__device__ inline int rounded_product(double v, double count) { return static_cast<int>(fused(v, count, 0.5)); }

template <int kThreads, class T>
__global__ void __launch_bounds__(kThreads, 2048 / kThreads)
    score_histograms_kernel(const T* __restrict__ maps,            // [N, pixels]
                            const uint8_t* __restrict__ masks,     // [N, pixels]
                            unsigned long long* __restrict__ out,  // [N, 2, bins]; zeros where a map has several blocks
                            int64_t pixels, Bins bins) {
  constexpr int kAtOnce = 4;
  FASTCAM_DYNAMIC_SHARED(memory);
  T* const begins = reinterpret_cast<T*>(memory);  // [count + 1]
  unsigned* const counters = reinterpret_cast<unsigned*>(begins + bins.count + 1);
  const int all = bins.all(), nowhere = 2 * all;  // the counter of what does not count
  for (int i = threadIdx.x; i <= bins.count; i += kThreads) begins[i] = bins.template first<T>(i);
  for (int i = threadIdx.x; i <= nowhere; i += kThreads) counters[i] = 0;
  __syncthreads();

  const int share = (static_cast<int>(pixels) + static_cast<int>(gridDim.y) - 1) / static_cast<int>(gridDim.y);
  const int groups = (share + kAtOnce - 1) / kAtOnce;  // of a block
  const int64_t begin = int64_t{blockIdx.y} * groups * kAtOnce;
  const int end = static_cast<int>(smaller<int64_t>(pixels - begin, int64_t{groups} * kAtOnce));
  const T* const map = maps + pixels * blockIdx.x + begin;
  const uint8_t* const mask = masks + pixels * blockIdx.x + begin;
  const bool aligned = reinterpret_cast<uintptr_t>(map) % sizeof(uint4) == 0 &&
                       reinterpret_cast<uintptr_t>(mask) % sizeof(uint32_t) == 0;
  const T count = static_cast<T>(bins.count);
  int slot = nowhere;
  unsigned run = 0;
  const auto add = [&](int to) {
    if (to != slot) {
      atomicAdd(counters + slot, run);
      slot = to;
      run = 0;
    }
    ++run;
  };
#pragma unroll 1
  for (int i = kAtOnce * static_cast<int>(threadIdx.x); i < end; i += kAtOnce * kThreads) {
    T scores[kAtOnce];
    uint32_t kinds = 0;  // a byte each
    // Whether all four count, in bins of [0, 1): mostly.
    bool plain = aligned && i + kAtOnce <= end;
    if (plain) {
      constexpr int kWords = kAtOnce * sizeof(T) / sizeof(uint4);
      uint4 words[kWords];
#pragma unroll
      for (int j = 0; j < kWords; ++j) words[j] = reinterpret_cast<const uint4*>(map + i)[j];
      kinds = *reinterpret_cast<const uint32_t*>(mask + i);
      memcpy(scores, words, sizeof(words));
      plain = (kinds & 0xfefefefeu) == 0;
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) plain = plain && scores[j] >= T(0) && scores[j] < T(1);
    }
    if (plain) {
#pragma unroll
      for (int j = 0; j < kAtOnce; ++j) {
        const int nearest = rounded_product(scores[j], count);  // the bin that begins nearest, or the one before it
        const int bin = scores[j] >= begins[nearest] ? nearest : nearest - 1;
        add(bin + static_cast<int>(kinds >> 8 * j & 0xff) * all);
      }
    } else {
#pragma unroll 1
      for (int j = i; j < end && j < i + kAtOnce; ++j) {
        const int bin = mask[j] < 2 ? bins.of(map[j]) : -1;
        add(bin < 0 ? nowhere : bin + mask[j] * all);
      }
    }
  }
  atomicAdd(counters + slot, run);
  __syncthreads();

  unsigned long long* const own = out + int64_t{2} * all * blockIdx.x;
  for (int i = threadIdx.x; i < 2 * all; i += kThreads) {
    if (gridDim.y == 1)
      own[i] = counters[i];
    else if (counters[i] > 0)
      atomicAdd(own + i, counters[i]);
  }
}

}  // namespace fastcam
