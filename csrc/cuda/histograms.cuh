// Counts scores by bin and mask. A block takes a map, or a share of one where maps are few, and counts in shared
// memory; each thread takes every kThreads-th pixel. Memory is read once, 5 or 9 bytes a pixel. Threads add a run of
// equal scores at once: on a plateau of a map all lanes of a warp would wait for one counter, pixel by pixel. Integers
// only, so that the order of additions does not matter.
#pragma once

#include "../score_bins.h"
#include "block.cuh"

namespace fastcam {

template <int kThreads, class T>
__global__ void __launch_bounds__(kThreads)
    score_histograms_kernel(const T* __restrict__ maps,            // [N, pixels]
                            const uint8_t* __restrict__ masks,     // [N, pixels]
                            unsigned long long* __restrict__ out,  // [N, 2, bins]; zeros where a map has several blocks
                            int64_t pixels, Bins bins) {
  constexpr int kAtOnce = 4;  // pixels that a thread asks memory for before it looks at the first
  FASTCAM_DYNAMIC_SHARED(memory);
  unsigned* const counters = reinterpret_cast<unsigned*>(memory);
  const int all = bins.all();
  for (int i = threadIdx.x; i < 2 * all; i += kThreads) counters[i] = 0;
  __syncthreads();

  const int64_t share = (pixels + gridDim.y - 1) / gridDim.y, first = share * blockIdx.y;
  const int64_t end = first + share < pixels ? first + share : pixels;
  const T* const map = maps + pixels * blockIdx.x;
  const uint8_t* const mask = masks + pixels * blockIdx.x;
  int slot = -1;
  unsigned run = 0;
  for (int64_t i = first + threadIdx.x; i < end; i += kAtOnce * kThreads) {
    T score[kAtOnce];
    unsigned kind[kAtOnce];
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int64_t at = i + j * kThreads;
      score[j] = at < end ? map[at] : T(0);
      kind[j] = at < end ? mask[at] : 255;
    }
#pragma unroll
    for (int j = 0; j < kAtOnce; ++j) {
      const int bin = kind[j] < 2 ? bins.of(score[j]) : -1;
      const int here = bin < 0 ? -1 : bin + static_cast<int>(kind[j]) * all;
      if (here != slot) {
        if (slot >= 0) atomicAdd(counters + slot, run);
        slot = here;
        run = 0;
      }
      ++run;
    }
  }
  if (slot >= 0) atomicAdd(counters + slot, run);
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
