// Kernels that make maps, simple ones: one thread per coarse position and a walk over the channels in order; one block
// per image for heatmaps, which computes every output pixel twice (extremes, then values) instead of storing it.
// Traffic: activations once, output once. All results are independent of the grid.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../lerp.h"
#include "../options.h"
#include "block.cuh"

namespace fastcam {

__device__ inline float value(float v) { return v; }
__device__ inline double value(double v) { return v; }
__device__ inline float value(__half v) { return __half2float(v); }
__device__ inline float value(__nv_bfloat16 v) { return __bfloat162float(v); }

// Where element (n, k, z) of the activations lies, in elements.
struct Strides {
  int64_t n, k, z;
};

template <class In, class Acc>
__global__ void class_map_kernel(const In* __restrict__ features,  // [N, K, Z] by strides
                                 const Acc* __restrict__ weights,  // [N, C, K]
                                 Acc* __restrict__ out,            // [N, C, Z]
                                 Strides strides, int64_t N, int64_t C, int64_t K, int64_t Z) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= N * C * Z) return;
  const int64_t z = i % Z, nc = i / Z, n = nc / C;
  const In* a = features + n * strides.n + z * strides.z;
  const Acc* w = weights + nc * K;
  Acc sum = 0;
  for (int64_t k = 0; k < K; ++k) sum = fused(w[k], static_cast<Acc>(value(a[k * strides.k])), sum);
  out[i] = sum;
}

// Channel weights of Grad-CAM, Grad-CAM++ and XGrad-CAM: one thread per channel, positions in order.
template <class In, class Acc>
__global__ void channel_weights_kernel(const In* __restrict__ features, const In* __restrict__ gradients,
                                       Acc* __restrict__ weights,  // [N, K]
                                       Strides strides, int64_t N, int64_t K, int64_t Z, Weighting weighting, Acc eps) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= N * K) return;
  const int64_t offset = (i / K) * strides.n + (i % K) * strides.k;
  const In *a = features + offset, *g = gradients + offset;
  Acc activations = 0, sum = 0;
  for (int64_t z = 0; z < Z; ++z) {
    const Acc az = value(a[z * strides.z]), gz = value(g[z * strides.z]);
    activations += az;
    sum = weighting == Weighting::kXGradCam ? fused(gz, az, sum) : sum + gz;
  }
  if (weighting == Weighting::kGradCam) sum /= static_cast<Acc>(Z);
  if (weighting == Weighting::kXGradCam) sum /= activations + eps;
  if (weighting == Weighting::kGradCamPlusPlus) {
    sum = 0;
    for (int64_t z = 0; z < Z; ++z) {
      const Acc gz = value(g[z * strides.z]), g2 = gz * gz;
      const Acc share = g2 / ((Acc(2) * g2 + activations * (g2 * gz)) + eps) * gz;
      sum += gz > Acc(0) ? share : gz != gz ? gz : Acc(0);
    }
  }
  weights[i] = sum;
}

// HiResCAM and LayerCAM: gradients weight each position on its own.
template <class In, class Acc>
__global__ void elementwise_kernel(const In* __restrict__ features, const In* __restrict__ gradients,
                                   Acc* __restrict__ out,  // [N, Z]
                                   Strides strides, int64_t N, int64_t K, int64_t Z, bool positive) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= N * Z) return;
  const int64_t offset = (i / Z) * strides.n + (i % Z) * strides.z;
  Acc sum = 0;
  for (int64_t k = 0; k < K; ++k) {
    const Acc a = value(features[offset + k * strides.k]);
    Acc g = value(gradients[offset + k * strides.k]);
    if (positive && g < Acc(0)) g = 0;
    sum = fused(g, a, sum);
  }
  out[i] = sum;
}

// One coarse map as the pixels of its upsampled picture; the arithmetic of csrc/cpu, pixel by pixel.
template <class T>
struct Surface {
  const T* coarse;  // [h, w]
  int64_t h, w, H, W;
  bool relu, bicubic, rescale;  // rescale: min-max normalised before upsampling
  T low, range;

  __device__ T sample(int64_t r, int64_t x) const {
    const T v = rectified(coarse[r * w + x], relu);
    return rescale ? normalised(v, low, range) : v;
  }

  __device__ double cubic_row(int64_t r, const Cubic& c) const {
    const int64_t row = clamped(r, h);
    return mix4(c.w, sample(row, clamped(c.i, w)), sample(row, clamped(c.i + 1, w)), sample(row, clamped(c.i + 2, w)),
                sample(row, clamped(c.i + 3, w)));
  }

  __device__ T operator()(int64_t pixel) const {
    const int64_t y = pixel / W, x = pixel % W;
    if (bicubic) {
      const Cubic cx = cubic(x, w, W), cy = cubic(y, h, H);
      return static_cast<T>(
          mix4(cy.w, cubic_row(cy.i, cx), cubic_row(cy.i + 1, cx), cubic_row(cy.i + 2, cx), cubic_row(cy.i + 3, cx)));
    }
    const Linear<T> tx = linear<T>(x, w, W), ty = linear<T>(y, h, H);
    const T upper = lerp(tx.w0, sample(ty.i0, tx.i0), tx.w1, sample(ty.i0, tx.i1));
    const T lower = lerp(tx.w0, sample(ty.i1, tx.i0), tx.w1, sample(ty.i1, tx.i1));
    return lerp(ty.w0, upper, ty.w1, lower);
  }

  // True, and the extremes of the coarse map after ReLU, unless it is constant or not finite.
  __device__ bool coarse_extremes(T& least, T& most) const {
    T smallest = rectified(coarse[0], relu), largest = smallest;
    int usable = 1;
    for (int64_t i = threadIdx.x; i < h * w; i += blockDim.x) {
      const T v = rectified(coarse[i], relu);
      usable &= finite(v);
      smallest = v < smallest ? v : smallest;
      largest = v > largest ? v : largest;
    }
    usable = block_reduce(usable, Smaller());
    least = block_reduce(smallest, Smaller());
    most = block_reduce(largest, Larger());
    return usable && least < most;
  }

  __device__ void pixel_extremes(T& least, T& most) const {
    T smallest = (*this)(0), largest = smallest;
    for (int64_t i = threadIdx.x; i < H * W; i += blockDim.x) {
      const T v = (*this)(i);
      smallest = v < smallest ? v : smallest;
      largest = v > largest ? v : largest;
    }
    least = block_reduce(smallest, Smaller());
    most = block_reduce(largest, Larger());
  }
};

template <class T, class Out>
__global__ void heatmap_kernel(const T* __restrict__ coarse,  // [M, h, w]
                               Out* __restrict__ out,         // [M, H, W] T or uint8
                               int64_t h, int64_t w, int64_t H, int64_t W, bool relu, bool bicubic,
                               Normalize normalize) {
  const int64_t m = blockIdx.x, pixels = H * W;
  Surface<T> surface{coarse + m * h * w, h, w, H, W, relu, bicubic, false, T(0), T(1)};
  out += m * pixels;
  T low, high;
  bool usable = surface.coarse_extremes(low, high);
  if (usable && (normalize == Normalize::kBefore || normalize == Normalize::kBoth)) {
    surface.rescale = true;
    surface.low = low;
    surface.range = high - low;
    usable = finite(surface.range);
  }
  T range = 1;
  const bool after = normalize == Normalize::kAfter || normalize == Normalize::kBoth;
  if (usable && after) {
    surface.pixel_extremes(low, high);
    range = high - low;
    usable = finite(range) && range > T(0);
  }
  const bool zero = !usable && normalize != Normalize::kNone;
  for (int64_t i = threadIdx.x; i < pixels; i += blockDim.x) {
    T v = zero ? T(0) : surface(i);
    if (!zero && after) v = normalised(v, low, range);
    if constexpr (sizeof(Out) == 1)
      out[i] = quantised(v);
    else
      out[i] = v;
  }
}

}  // namespace fastcam
