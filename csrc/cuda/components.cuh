// Boxes, simply: a block takes one map at a time. Its mask is labelled in global memory by union-find with atomicMin
// (a label ends as the smallest pixel index of its component, whatever the order), areas are counted with atomicAdd,
// the largest component is chosen by a reduction, and a last pass takes the extremes of its pixels. Integers only, so
// that nothing depends on the order of the threads. Traffic: two words a pixel of work space, about ten passes.
#pragma once

#include "../contour.h"
#include "cam.cuh"

namespace fastcam {

struct SearchArguments {
  int64_t h, w, H, W, maps, thresholds;
  bool relu, bicubic, absolute, levels_per_map, contour;
  int connectivity;
};

__device__ inline int32_t root_of(const volatile int32_t* labels, int32_t i) {
  while (true) {
    const int32_t parent = labels[i];
    if (parent == i) return i;
    i = parent;
  }
}

__device__ inline void join(int32_t* labels, int32_t a, int32_t b) {
  while (true) {
    a = root_of(labels, a);
    b = root_of(labels, b);
    if (a == b) return;
    const int32_t larger = a > b ? a : b, smaller = a > b ? b : a;
    const int32_t before = atomicMin(labels + larger, smaller);
    if (before == larger) return;
    a = before;  // another thread was faster: join what it put there
    b = smaller;
  }
}

// Areas or doubled contour areas with the rule for ties in the low half: (size << 32) | preference.
__device__ inline uint64_t ranked(int64_t size, uint32_t preference) {
  return static_cast<uint64_t>(size + 1) << 32 | preference;
}

__global__ void boxes_kernel(const float* __restrict__ coarse,  // [M, h, w]
                             const float* __restrict__ levels,  // [T] or [M, T]
                             int32_t* __restrict__ space,       // [blocks, 2, H, W] labels and areas
                             uint64_t* __restrict__ masks,      // [blocks, H, words], contour only
                             int32_t* __restrict__ out,         // [M, T, 4]
                             SearchArguments a) {
  const int64_t pixels = a.H * a.W, words = (a.W + 63) / 64;
  int32_t* labels = space + blockIdx.x * 2 * pixels;
  int32_t* areas = labels + pixels;
  uint64_t* mask = a.contour ? masks + blockIdx.x * a.H * words : nullptr;
  for (int64_t m = blockIdx.x; m < a.maps; m += gridDim.x) {
    const Surface<float> surface{coarse + m * a.h * a.w, a.h, a.w, a.H, a.W, a.relu, a.bicubic, false, 0.0f, 1.0f};
    float low, high;
    bool usable = surface.coarse_extremes(low, high);
    if (usable && !a.absolute) {
      surface.pixel_extremes(low, high);
      usable = finite(high - low) && high > low;
    }
    for (int64_t t = 0; t < a.thresholds; ++t) {
      const float level = levels[(a.levels_per_map ? m * a.thresholds : 0) + t];
      const float cut = !usable ? INFINITY : a.absolute ? above(level) : cutoff(low, high, level);
      int32_t* box = out + (m * a.thresholds + t) * 4;
      if (cut == INFINITY) {
        if (threadIdx.x == 0) box[0] = box[1] = box[2] = box[3] = 0;
        continue;
      }
      for (int64_t i = threadIdx.x; i < pixels; i += blockDim.x) {
        labels[i] = surface(i) >= cut ? static_cast<int32_t>(i) : -1;
        areas[i] = 0;
      }
      __syncthreads();
      if (a.contour) {
        for (int64_t i = threadIdx.x; i < a.H * words; i += blockDim.x) {
          const int64_t y = i / words, begin = i % words * 64;
          uint64_t bits = 0;
          for (int64_t x = begin; x < a.W && x < begin + 64; ++x)
            bits |= static_cast<uint64_t>(labels[y * a.W + x] >= 0) << (x - begin);
          mask[i] = bits;
        }
        __syncthreads();
      }
      for (int64_t i = threadIdx.x; i < pixels; i += blockDim.x) {
        if (labels[i] < 0) continue;
        const int64_t x = i % a.W, y = i / a.W;
        const auto link = [&](int64_t neighbour) {
          if (labels[neighbour] >= 0) join(labels, static_cast<int32_t>(i), static_cast<int32_t>(neighbour));
        };
        if (x > 0) link(i - 1);
        if (y > 0) link(i - a.W);
        if (a.connectivity == 8 && y > 0 && x > 0) link(i - a.W - 1);
        if (a.connectivity == 8 && y > 0 && x + 1 < a.W) link(i - a.W + 1);
      }
      __syncthreads();
      uint64_t best = 0;
      if (a.contour) {
        for (int64_t i = threadIdx.x; i < pixels; i += blockDim.x) {
          if (labels[i] != i) continue;
          const int64_t area2 = outer_area2(Bits{mask, words}, static_cast<int>(a.W), static_cast<int>(a.H),
                                            static_cast<int>(i % a.W), static_cast<int>(i / a.W));
          const uint64_t rank = ranked(area2, static_cast<uint32_t>(i));
          best = rank > best ? rank : best;
        }
      } else {
        for (int64_t i = threadIdx.x; i < pixels; i += blockDim.x)
          if (labels[i] >= 0) atomicAdd(areas + root_of(labels, static_cast<int32_t>(i)), 1);
        __syncthreads();
        for (int64_t i = threadIdx.x; i < pixels; i += blockDim.x) {
          if (labels[i] != i) continue;
          const uint64_t rank = ranked(areas[i], 0xffffffffu - static_cast<uint32_t>(i));
          best = rank > best ? rank : best;
        }
      }
      best = block_reduce(best, Larger());
      const uint32_t preference = static_cast<uint32_t>(best);
      const int32_t winner = static_cast<int32_t>(a.contour ? preference : 0xffffffffu - preference);
      int32_t x0 = INT32_MAX, y0 = INT32_MAX, x1 = 0, y1 = 0;
      for (int64_t i = threadIdx.x; best != 0 && i < pixels; i += blockDim.x) {
        if (labels[i] < 0 || root_of(labels, static_cast<int32_t>(i)) != winner) continue;
        const int32_t x = static_cast<int32_t>(i % a.W), y = static_cast<int32_t>(i / a.W);
        x0 = x < x0 ? x : x0;
        y0 = y < y0 ? y : y0;
        x1 = x + 1 > x1 ? x + 1 : x1;
        y1 = y + 1 > y1 ? y + 1 : y1;
      }
      x0 = block_reduce(x0, Smaller());
      y0 = block_reduce(y0, Smaller());
      x1 = block_reduce(x1, Larger());
      y1 = block_reduce(y1, Larger());
      if (threadIdx.x == 0) {
        box[0] = best ? x0 : 0;
        box[1] = best ? y0 : 0;
        box[2] = x1;
        box[3] = y1;
      }
    }
  }
}

}  // namespace fastcam
