// Heatmaps: one block makes one picture, or some rows of one, from a coarse map. It finds the extremes (where all
// blocks of a picture agree, since each looks at every pixel), walks down the columns again, normalises and stores four
// neighbours at a time. Traffic: the coarse map, and the picture once. Every pixel has one exact value, so that nothing
// depends on threads or grid.
#pragma once

#include "surface.cuh"

namespace fastcam {

// Divides by one number, with the exact rounding of a division and a third of its work, where nothing can underflow: a
// product with the reciprocal in two parts is within one unit in the last place, and a correction by the rounded
// reciprocal then gives the rounded quotient (Markstein).
template <class T>
struct Divisor {
  T divisor, reciprocal, rest;
  __device__ explicit Divisor(T d) : divisor(d), reciprocal(T(1) / d) {
    rest = fused(-divisor, reciprocal, T(1)) * reciprocal;
  }
  __device__ T operator()(T v) const {
    const T guess = fused(v, reciprocal, v * rest);
    return fused(fused(-divisor, guess, v), reciprocal, guess);
  }
};

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
template <bool kNeighbours, class T, class Out>
__device__ inline void store(Out* row, int x, int step, int W, const Kept<T, Out> (&v)[4]) {
  if constexpr (!kNeighbours) {
#pragma unroll
    for (int c = 0; c < 4; ++c)
      if (x + c * step < W) row[x + c * step] = static_cast<Out>(v[c]);
  } else if constexpr (sizeof(Out) == 1) {
    *reinterpret_cast<unsigned*>(row + x) = v[0] | v[1] << 8 | v[2] << 16 | v[3] << 24;
  } else if constexpr (sizeof(Out) == sizeof(float)) {
    *reinterpret_cast<float4*>(row + x) = float4{v[0], v[1], v[2], v[3]};
  } else {
    *reinterpret_cast<double2*>(row + x) = double2{v[0], v[1]};
    *reinterpret_cast<double2*>(row + x + 2) = double2{v[2], v[3]};
  }
}

// The rows [begin, end) of a picture that are this block's, of gridDim.y.
struct Rows {
  int begin, end;
};

__device__ inline Rows rows_of_block(int H) {
  const int count = (H + static_cast<int>(gridDim.y) - 1) / static_cast<int>(gridDim.y);
  const int begin = static_cast<int>(blockIdx.y) * count;
  return {begin, begin + count < H ? begin + count : H};
}

// Paints rows [begin, end) of a picture with what finished(v) makes of its pixels, by all threads of a block.
template <int kThreads, class Out, class T, bool kBicubic, class Finished>
__device__ void paint(const Surface<T, kBicubic>& surface, const Upsampling& size, int begin, int end,
                      Out* __restrict__ out, const Finished& finished) {
  const auto run = [&](auto neighbours) {
    constexpr bool kNeighbours = decltype(neighbours)::value;
    surface.template each_strip<kThreads>(begin, end, [&](int x, int from, int to) {
      Out* row = out + uint64_t{static_cast<unsigned>(from)} * static_cast<unsigned>(size.W);
      const int step = kNeighbours ? 1 : surface.step();
      surface.template walk<4, kNeighbours>(x, step, from, to, [&](int, const T(&v)[4]) {
        const Kept<T, Out> pixels[4] = {finished(v[0]), finished(v[1]), finished(v[2]), finished(v[3])};
        store<kNeighbours, T, Out>(row, x, step, size.W, pixels);
        row += size.W;
      });
    });
  };
  if (surface.held() != nullptr && size.W % 4 == 0)
    run(std::true_type());
  else
    run(std::false_type());
}

// 8-bit levels of pixels between low and high, mostly by one operation each: a pixel's level and what follows the point
// are read from the bits of 256 + 255 (v - low) / (high - low), as a line between two coarse rows gives it. Rounding
// makes that wrong by less than 2^-11 (see levels_on_lines), so that only pixels which come as close to a whole number
// are computed as they are defined: a list of them is left for the end, when each thread takes one. Columns are
// neighbours, and shared memory has the surface.
template <int kThreads>
__device__ void paint_on_lines(const Surface<float, false>& surface, const Upsampling& size, int begin, int end,
                               float low, float high, uint8_t* __restrict__ out) {
  constexpr float kDoubt = 0x1p-11f;
  constexpr unsigned kClear = 0x7fe0;  // some of these bits are set unless the level is in doubt
  constexpr int kMost = 128;           // what the list has room for: one pixel in a thousand, mostly
  __shared__ int doubtful[kMost], count;
  if (threadIdx.x == 0) count = 0;
  __syncthreads();
  const float range = high - low, scale = 255.0f / range;
  const auto level = [&](int y, int x) { return quantised(normalised(surface(y, x), low, range)); };
  surface.template each_strip<kThreads>(begin, end, [&](int x, int from, int to) {
    uint8_t* at = out + uint64_t{static_cast<unsigned>(from)} * static_cast<unsigned>(size.W) + x;
    float start[4], rise[4];
    int cell = -1;
#pragma unroll 1
    for (int y = from; y < to; ++y, at += size.W) {
      const Linear<float> row = surface.rows()[y];
      if (row.i0 != cell) {
        cell = row.i0;
        const float *above = surface.held() + row.i0 * size.w, *below = surface.held() + row.i1 * size.w;
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          const Linear<float> column = surface.columns()[x + c];
          const float up = (lerp(column.w0, above[column.i0], column.w1, above[column.i1]) - low) * scale;
          const float down = (lerp(column.w0, below[column.i0], column.w1, below[column.i1]) - low) * scale;
          start[c] = 256.0f + kDoubt + up, rise[c] = down - up;
        }
      }
      unsigned bits[4];
      bool clear = true;
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        // Level 0 is in no doubt: maps are exactly 0 in large parts.
        bits[c] = __float_as_uint(most(fused(row.w1, rise[c], start[c]), 256.25f));
        clear = clear && (bits[c] & kClear) != 0;
      }
      if (!clear) {
#pragma unroll
        for (int c = 0; c < 4; ++c)
          if ((bits[c] & kClear) == 0) {
            const int place = atomicAdd(&count, 1);
            if (place < kMost)
              doubtful[place] = y * size.W + x + c;
            else
              bits[c] = uint32_t{level(y, x + c)} << 15;
          }
      }
      *reinterpret_cast<unsigned*>(at) = (bits[0] >> 15 & 0xffu) | (bits[1] >> 7 & 0xff00u) |
                                         (bits[2] << 1 & 0xff0000u) | (bits[3] << 9 & 0xff000000u);
    }
  });
  __syncthreads();
  for (int i = threadIdx.x; i < smaller(count, kMost); i += kThreads) {
    const int y = doubtful[i] / size.W, x = doubtful[i] - y * size.W;
    out[doubtful[i]] = level(y, x);
  }
}

// Whether paint_on_lines may be used. In units of levels, a sample of at most 5/4 of the range is at most 640 from low,
// which rounding of the line's ends makes wrong by 3.5 * 2^-24 of it, of its start, rise and sum by 2^-13.5 in all, of
// the pixel itself by 5 * 2^-24 * 319, of its quotient and level by 3 * 2^-24 * 255: less than 2^-11.
template <bool kBicubic, class T>
__device__ bool levels_on_lines(const Surface<T, kBicubic>& surface, const Upsampling& size, T low, T high) {
  const T range = high - low;
  return surface.held() != nullptr && size.W % 4 == 0 && range >= T(0x1p-60) && range <= T(0x1p60) &&
         surface.magnitude() <= T(1.25) * range;
}

// Pixels between low and high, the extremes of a usable surface, as shares of that range; else zeros.
template <int kThreads, class Out, class T, bool kBicubic>
__device__ void paint_normalised(const Surface<T, kBicubic>& surface, const Upsampling& size, int begin, int end,
                                 bool usable, T low, T high, Out* __restrict__ out) {
  const T range = high - low;
  if constexpr (sizeof(Out) == 1 && sizeof(T) == 4 && !kBicubic)
    if (usable && levels_on_lines(surface, size, low, high))
      return paint_on_lines<kThreads>(surface, size, begin, end, low, high, out);
  const Divisor<T> divided(range);
  if (!usable)
    paint<kThreads>(surface, size, begin, end, out, [](T) { return kept<T, Out>(T(0)); });
  else if (surface.template divides_safely<kThreads>(low, high))
    paint<kThreads>(surface, size, begin, end, out, [&](T v) { return kept<T, Out>(divided(v - low)); });
  else
    paint<kThreads>(surface, size, begin, end, out, [&](T v) { return kept<T, Out>(normalised(v, low, range)); });
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
  const Rows rows = rows_of_block(size.H);
  out += m * size.H * size.W;
  Surface<T, kBicubic> surface;
  bool usable = surface.template load<kThreads>(coarse + m * size.h * size.w, size, held ? space : nullptr);
  T low = 0, high = 0;
  if (usable && normalize) {
    surface.template extremes<kThreads>(low, high);
    usable = high > low && finite(high - low);
  }
  if (normalize || (!usable && zero))
    paint_normalised<kThreads>(surface, size, rows.begin, rows.end, usable, low, high, out);
  else
    paint<kThreads>(surface, size, rows.begin, rows.end, out, [](T v) -> Kept<T, Out> {
      if constexpr (sizeof(Out) == 1)
        return quantised(v);
      else
        return v;
    });
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
