// Heatmaps: one block makes one picture, or some rows of one, from a coarse map. It finds the extremes (where all
// blocks of a picture agree, since each looks at every pixel), walks down the columns again, normalises and stores four
// neighbours at a time. Traffic: the coarse map, and the picture once. Every pixel has one exact value, so that nothing
// depends on threads or grid.
#pragma once

#include "surface.cuh"

namespace fastcam {

// v / divisor in its exact rounding, from the rounded reciprocal: two corrections of their product give it where
// nothing can underflow (Markstein). Five operations for every pixel, where a division takes more than twice as many.
template <class T>
__device__ inline T quotient(T v, T divisor, T reciprocal) {
  const T guess = v * reciprocal;
  const T better = fused(fused(-divisor, guess, v), reciprocal, guess);
  return fused(fused(-divisor, better, v), reciprocal, better);
}

// What is kept of a finished pixel until it is stored: itself, or its 8-bit level as a word.
template <class T, class Out>
using Kept = std::conditional_t<sizeof(Out) == 1, unsigned, T>;

// v in [0, 1]; quantised() without its care for other values.
template <class T, class Out>
__device__ inline Kept<T, Out> kept(T v) {
  if constexpr (sizeof(Out) == 1)
    return static_cast<unsigned>(static_cast<int>(T(255) * v));
  else
    return v;
}

// Four pixels of a row: neighbours as one word, others one by one.
template <class T, class Out>
__device__ inline void store(Out* row, int x, int step, int W, const Kept<T, Out> (&v)[4]) {
  if (W % 4 != 0) {
    for (int c = 0; c < 4 && x + c * step < W; ++c) row[x + c * step] = static_cast<Out>(v[c]);
  } else if constexpr (sizeof(Out) == 1) {
    *reinterpret_cast<unsigned*>(row + x) = v[0] | v[1] << 8 | v[2] << 16 | v[3] << 24;
  } else if constexpr (sizeof(Out) == sizeof(float)) {
    *reinterpret_cast<float4*>(row + x) = float4{v[0], v[1], v[2], v[3]};
  } else {
    *reinterpret_cast<double2*>(row + x) = double2{v[0], v[1]};
    *reinterpret_cast<double2*>(row + x + 2) = double2{v[2], v[3]};
  }
}

template <int kThreads, bool kBicubic, class T, class Out>
__global__ void __launch_bounds__(kThreads, (kBicubic || sizeof(T) == 8 ? 512 : 768) / kThreads)
    heatmap_kernel(const T* __restrict__ coarse,  // [M, h, w]
                   Out* __restrict__ out,         // [M, H, W] T or uint8
                   Upsampling size,
                   bool normalize,  // the picture
                   bool zero,       // pictures of maps that are constant or not finite
                   bool held) {     // there are Surface::bytes(size) of dynamic shared memory
  FASTCAM_DYNAMIC_SHARED(space);
  const int64_t m = blockIdx.x;
  const int rows = (size.H + static_cast<int>(gridDim.y) - 1) / static_cast<int>(gridDim.y);  // of each block
  const int begin = static_cast<int>(blockIdx.y) * rows, end = begin + rows < size.H ? begin + rows : size.H;
  out += m * size.H * size.W;
  Surface<T, kBicubic> surface;
  bool usable = surface.template load<kThreads>(coarse + m * size.h * size.w, size, held ? space : nullptr);
  T low = 0, high = 0;
  if (usable && normalize) {
    surface.template extremes<kThreads>(low, high);
    usable = high > low && finite(high - low);
  }
  const auto paint = [&](const auto& finished) {
    surface.template each<kThreads>(begin, end, [&](int x, int y, const T(&v)[4]) {
      const Kept<T, Out> pixels[4] = {finished(v[0]), finished(v[1]), finished(v[2]), finished(v[3])};
      Out* row = out + uint64_t{static_cast<unsigned>(y)} * static_cast<unsigned>(size.W);
      store<T, Out>(row, x, surface.step(), size.W, pixels);
    });
  };
  const T range = high - low, reciprocal = T(1) / range;
  if (!usable && zero) {
    paint([](T) { return kept<T, Out>(T(0)); });
  } else if (!normalize) {
    paint([](T v) -> Kept<T, Out> {
      if constexpr (sizeof(Out) == 1)
        return quantised(v);
      else
        return v;
    });
  } else if (surface.template divides_safely<kThreads>(low, high)) {
    paint([&](T v) { return kept<T, Out>(quotient(v - low, range, reciprocal)); });
  } else {
    paint([&](T v) { return kept<T, Out>(normalised(v, low, range)); });
  }
}

// Min-max normalises coarse maps themselves, after ReLU; constant ones and those that are not finite become zero.
template <int kThreads, class T>
__global__ void __launch_bounds__(kThreads)
    rescale_kernel(const T* __restrict__ coarse, T* __restrict__ out, Upsampling size) {  // both [M, h, w]
  const int64_t count = int64_t{size.h} * size.w, offset = blockIdx.x * count;
  T low = rectified(coarse[offset], size.relu), high = low;
  bool usable = true;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    const T v = rectified(coarse[offset + i], size.relu);
    usable = usable && finite(v);
    low = least(low, v), high = most(high, v);
  }
  low = block_reduce<kThreads>(low, Smaller()), high = block_reduce<kThreads>(high, Larger());
  usable = block_reduce<kThreads>(static_cast<int>(usable), Smaller()) && low < high && finite(high - low);
  for (int64_t i = threadIdx.x; i < count; i += kThreads)
    out[offset + i] = usable ? normalised(rectified(coarse[offset + i], size.relu), low, high - low) : T(0);
}

}  // namespace fastcam
