// From a surface to the bits of its mask, and from a threshold to the value that pixels must reach. The picture is not
// made for it: a warp takes squares of 32 by 32 pixels, where a column's pixels between two coarse rows lie on a line
// but for rounding, so that two samples of it tell which rows are set, and only the odd pixel next to the crossing is
// computed. Work: a few operations a column of a square, between two coarse rows; traffic: the coarse map a few times
// and the bits once, both in shared memory. Every bit has one exact value, so that nothing depends on threads.
#pragma once

#include "boxes_runs.cuh"
#include "surface.cuh"

namespace fastcam {

// cutoff() by a warp: what 32 lanes try around a guess, then between what fails and what passes. It is one value,
// whoever finds it, since what passes is monotone.
__device__ inline float warp_cutoff(float low, float high, float threshold) {
  const float range = high - low;
  const auto passes = [&](int64_t i) { return normalised(unordered(static_cast<int32_t>(i)), low, range) > threshold; };
  int64_t fails = static_cast<int64_t>(ordered(low)) - 1, passing = ordered(high);
  if (!passes(passing)) return INFINITY;
  // The guess is right but for rounding: lanes try values at distances that double, on both sides of it.
  const int step = lane() < 16 ? -(1 << (15 - lane())) : (1 << (lane() - 16)) - 1;
  int64_t trial = ordered(fused(threshold, range, low)) + step;
  while (true) {
    trial = trial > fails ? trial : fails + 1;
    trial = trial < passing ? trial : passing;
    // Trials grow with the lanes, so that the votes are zeros and then ones; the cutoff lies where they change.
    const unsigned passed = __ballot_sync(kAllLanes, passes(trial));
    const int first = passed ? __ffs(static_cast<int>(passed)) - 1 : 32;
    const int64_t up = __shfl_sync(kAllLanes, static_cast<long long>(trial), first & 31);
    const int64_t down = __shfl_sync(kAllLanes, static_cast<long long>(trial), (first - 1) & 31);
    if (first < 32) passing = up;
    if (first > 0) fails = down;
    if (passing - fails <= 1) return unordered(static_cast<int32_t>(passing));
    // Next, 32 values that cut the rest into 33 parts: 2^32 floats are done in seven turns.
    trial = fails + (lane() + 1) * ((passing - fails + 32) / 33);
  }
}

// Columns of the last word of a row.
__device__ inline uint32_t last_columns(const Upsampling& size) { return 0xffffffffu >> (-size.W & 31); }

// Fills the room's mask with surface >= cut, pixel by pixel: a warp takes a strip of rows, two words at a time.
template <int kThreads, bool kBicubic, class Index>
__device__ void threshold(const Surface<float, kBicubic>& surface, const Upsampling& size, float cut,
                          const Room<Index>& room) {
  constexpr int kColumns = 2, kWarps = kThreads / 32;
  const int begin = static_cast<int>(static_cast<int64_t>(warp()) * room.H / kWarps);
  const int end = static_cast<int>(static_cast<int64_t>(warp() + 1) * room.H / kWarps);
#pragma unroll 1
  for (int32_t word = 0; word < room.words; word += kColumns) {
    surface.template walk<kColumns>(32 * word + lane(), 32, begin, end, [&](int y, const float (&v)[kColumns]) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        const uint32_t bits = __ballot_sync(kAllLanes, v[c] >= cut);
        if (lane() == 0 && word + c < room.words)
          room.mask[y * room.words + word + c] = word + c + 1 == room.words ? bits & last_columns(size) : bits;
      }
    });
  }
  __syncthreads();
}

// Bits [0, count) of a word.
__device__ inline uint32_t first_bits(int count) { return count < 32 ? (1u << count) - 1 : 0xffffffffu; }

// Turns a square of bits, a word in each lane, about its diagonal: quarters change places, then quarters of these, five
// shuffles in all.
__device__ inline uint32_t transposed(uint32_t bits) {
  uint32_t low = 0x0000ffffu;
#pragma unroll
  for (int d = 16; d > 0; d /= 2, low ^= low << d) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, bits, d);
    bits = lane() & d ? (bits & ~low) | (other & ~low) >> d : (bits & low) | (other & low) << d;
  }
  return bits;
}

// The same mask for bilinear surfaces of a map in shared memory, much cheaper. A warp takes squares of 32 rows and 32
// columns; a lane has a column. Between two coarse rows its pixels follow a line, up to rounding: where this crosses
// the cut decides for all but the rows so close to the crossing that rounding could matter, mostly none or one, which
// are computed. Where no lane's line comes near the cut, all rows are decided at once.
template <int kThreads>
__device__ void threshold(const float* map, const Upsampling& size, float cut, const Room<uint16_t>& room) {
  const float rows_apart = static_cast<float>(size.H) / static_cast<float>(size.h);  // output rows between coarse ones
#pragma unroll 1
  for (int top = 32 * warp(); top < size.H; top += kThreads) {
    // A lane has a row's tap here, for the others to ask for.
    const int y = top + lane();
    const Linear<float> row = linear<float>(y < size.H ? y : size.H - 1, size.h, size.H);
    const int before = __shfl_up_sync(kAllLanes, row.i0, 1);
    // The first of the rows that lie between the same coarse rows.
    const unsigned cells = __ballot_sync(kAllLanes, y < size.H && (lane() == 0 || row.i0 != before));
#pragma unroll 1
    for (int word = 0; word < room.words; ++word) {
      // And a column from here on, its pixels in the square's 32 rows.
      const int x = 32 * word + lane();
      const Linear<float> column = linear<float>(x < size.W ? x : size.W - 1, size.w, size.W);
      uint32_t bits = 0;   // of this column, a bit for each row
      bool mixed = false;  // whether lanes have different bits somewhere
#pragma unroll 1
      for (unsigned rest = cells; rest;) {
        const int begin = __ffs(static_cast<int>(rest)) - 1;
        rest &= rest - 1;
        const int end = rest ? __ffs(static_cast<int>(rest)) - 1 : size.H - top < 32 ? size.H - top : 32;
        const uint32_t rows = first_bits(end) & ~first_bits(begin);
        // Rows [begin, end) of the square lie between coarse rows i0 and i1, which this column meets at up and down.
        const int i0 = __shfl_sync(kAllLanes, row.i0, begin), i1 = __shfl_sync(kAllLanes, row.i1, begin);
        const float *from = map + i0 * size.w, *to = map + i1 * size.w;
        const float up = lerp(column.w0, from[column.i0], column.w1, from[column.i1]);
        const float down = lerp(column.w0, to[column.i0], column.w1, to[column.i1]);
        const float a = up < 0 ? -up : up, b = down < 0 ? -down : down, rise = down - up;
        const float slack = (a > b ? a : b) * 0x1p-20f + 0x1p-140f;  // more than rounding adds up to
        const bool below = (rise > 0 ? down : up) + slack < cut, reached = (rise > 0 ? up : down) - slack >= cut;
        // Most cells are decided for all 32 columns at once.
        if (__all_sync(kAllLanes, below)) continue;
        if (__all_sync(kAllLanes, reached)) {
          bits |= rows;
          continue;
        }
        mixed = true;
        // Rows before `first` are on the side of `up`, those from `last` on on the side of `down`.
        int first = begin, last = end;
        if (below || reached) {
          last = begin;
          bits |= reached ? rows : 0;
        } else {
          // Where the line crosses the cut, as a share of the way from up to down, and how far off that may be, in
          // the same unit (doubt) and in output rows (margin, with a quarter of a row to spare).
          const float share = 1.0f / rise, crossing = (cut - up) * share;
          const float doubt = a + b < 0x1p100f ? 2.0f * slack * (share < 0 ? -share : share) : INFINITY;
          const float margin = 0.25f + doubt * rows_apart;
          const float at = (static_cast<float>(i0) + crossing + 0.5f) * rows_apart - 0.5f - static_cast<float>(top);
          // The first output rows may lie before the first coarse row, and are like that.
          if (crossing > doubt && at - margin > begin)
            first = at - margin < end ? static_cast<int>(ceilf(at - margin)) : end;
          if (at + margin < end) last = at + margin > first ? static_cast<int>(floorf(at + margin)) + 1 : first;
          bits |= rows & (rise > 0 ? ~first_bits(last) : first_bits(first));
        }
        // Rows [first, last) are too close to call: they are computed, together, until no lane has any left.
#pragma unroll 1
        for (int j = first; __any_sync(kAllLanes, j < last); ++j) {
          const float w0 = __shfl_sync(kAllLanes, row.w0, j & 31), w1 = __shfl_sync(kAllLanes, row.w1, j & 31);
          if (j < last && lerp(w0, up, w1, down) >= cut) bits |= 1u << j;
        }
      }
      // From a column's rows to a row's columns; where all columns are alike, a row is all ones or all zeros.
      bits = mixed ? transposed(bits) : bits >> lane() & 1 ? 0xffffffffu : 0;
      if (y < size.H) room.mask[y * room.words + word] = word + 1 == room.words ? bits & last_columns(size) : bits;
    }
  }
  __syncthreads();
}

}  // namespace fastcam
