// Pixel-adaptive refinement. A thread has a pixel, a warp a piece of a row: neighbours of neighbours lie beside each
// other in memory, and pixels of a block share most of them in the cache. In each iteration, a launch of its own since
// all pixels must be done before, the affinities are computed anew and wait in shared memory, a column for each thread,
// for all maps of the image. Memory, an iteration: image, scales and maps are read once from memory and 48 times from
// the cache, maps written once. Every sum has one order, that of the neighbours; nothing is shared between threads.
#pragma once

#include "../affinity.h"
#include "block.cuh"

namespace fastcam {

// The pixel of this thread: blocks take tiles of 32 columns and a row for each warp, so many across and down an image.
struct Pixel {
  int64_t image;
  int32_t x, y;
  bool inside;

  __device__ Pixel(const Affinity& a, int32_t across, int32_t down, int32_t warps) {
    const int64_t tile = blockIdx.x;
    image = tile / (int64_t{across} * down);
    const auto within = static_cast<int32_t>(tile - image * across * down);
    x = within % across * 32 + lane();
    y = within / across * warps + warp();
    inside = x < a.W && y < a.H;
  }
};

// Where a neighbour is in its plane.
__device__ inline int32_t neighbour(const Affinity& a, const Pixel& pixel, int32_t p) {
  const auto y = static_cast<int32_t>(clamped(pixel.y + a.down(p), a.H));
  return y * a.W + static_cast<int32_t>(clamped(pixel.x + a.right(p), a.W));
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    affinity_scales_kernel(const float* __restrict__ images,  // [N, channels, H, W]
                           float* __restrict__ scales,        // the same
                           Affinity a, int32_t across, int32_t down) {
  const Pixel pixel(a, across, down, kThreads / 32);
  if (!pixel.inside) return;
  const int32_t plane = a.H * a.W, at = pixel.y * a.W + pixel.x, count = a.neighbours();
  for (int32_t c = 0; c < a.channels; ++c) {
    const int64_t first = (pixel.image * a.channels + c) * plane;
    const float* const image = images + first;
    const float own = image[at];
    float sum = 0, squares = 0;
    for (int32_t p = 0; p < count; ++p) sum += image[neighbour(a, pixel, p)] - own;
    const float mean = difference_mean(a, sum);
    for (int32_t p = 0; p < count; ++p) {
      const float distance = image[neighbour(a, pixel, p)] - own - mean;
      squares = fused(distance, distance, squares);
    }
    scales[first + at] = difference_scale(a, mean, squares);
  }
}

template <int kThreads>
__global__ void __launch_bounds__(kThreads) refine_kernel(const float* __restrict__ images,  // [N, channels, H, W]
                                                          const float* __restrict__ scales,  // the same
                                                          const float* __restrict__ maps,    // [N, C, H, W]
                                                          float* __restrict__ refined,       // the same
                                                          int64_t C, Affinity a, int32_t across, int32_t down) {
  FASTCAM_DYNAMIC_SHARED(memory);
  float* const w = reinterpret_cast<float*>(memory) + threadIdx.x;  // [neighbours, kThreads], this thread's column
  const Pixel pixel(a, across, down, kThreads / 32);
  if (!pixel.inside) return;
  const int32_t plane = a.H * a.W, at = pixel.y * a.W + pixel.x, count = a.neighbours();
  const float *const image = images + pixel.image * a.channels * plane, *const scale = scales + (image - images);
  float least = INFINITY, sum = 0;
  for (int32_t p = 0; p < count; ++p) {
    const int32_t there = neighbour(a, pixel, p);
    float unlike = 0;
    for (int32_t c = 0; c < a.channels; ++c) {
      const int64_t first = int64_t{c} * plane;
      unlike = fused(fabsf(image[first + there] - image[first + at]), scale[first + at], unlike);
    }
    w[p * kThreads] = unlike;
    least = smaller(unlike, least);
  }
  for (int32_t p = 0; p < count; ++p) {
    const float weight = power_of_two(affinity_exponent(least, w[p * kThreads]));
    w[p * kThreads] = weight;
    sum += weight;
  }
  const float share = 1.0f / sum;
  for (int32_t p = 0; p < count; ++p) w[p * kThreads] *= share;
  // Four maps at a time, so that a weight and a place are made out once for all of them.
  constexpr int kMaps = 4;
  for (int64_t c = 0; c < C; c += kMaps) {
    const int64_t first = (pixel.image * C + c) * plane;
    float mean[kMaps] = {};
    for (int32_t p = 0; p < count; ++p) {
      const int64_t there = first + neighbour(a, pixel, p);
      const float weight = w[p * kThreads];
#pragma unroll
      for (int m = 0; m < kMaps; ++m)
        if (c + m < C) mean[m] = fused(weight, maps[there + int64_t{m} * plane], mean[m]);
    }
#pragma unroll
    for (int m = 0; m < kMaps; ++m)
      if (c + m < C) refined[first + at + int64_t{m} * plane] = mean[m];
  }
}

}  // namespace fastcam
