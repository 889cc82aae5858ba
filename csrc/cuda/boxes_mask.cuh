// From a surface to the bits of its mask, and from a threshold to the value that pixels must reach. The picture is not
// made for it: a row's pixels between two coarse columns lie on a line but for rounding, so that its ends tell which of
// them are set, and only the odd pixel next to the crossing is computed. Work: a few dozen operations a row, between
// two coarse columns; traffic: the coarse map a few times and the bits once, both in shared memory. Every bit has one
// exact value, so that nothing depends on threads.
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

// Fills the room's mask with surface >= cut and counts its runs, as find_runs() wants it. Pixel by pixel: a warp takes
// a strip of rows, two words at a time.
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
  count_runs<kThreads>(room);
}

// Beyond all columns, and exact as a float.
constexpr int kFar = 1 << 20;

// Bits of a word from `begin` on; none from 32 on.
__device__ inline uint32_t columns_from(int begin) { return __funnelshift_lc(0, 0xffffffffu, larger(begin, 0)); }

// The same mask for bilinear surfaces of a map in shared memory, much cheaper. A lane has a row, a warp 32 of them. In
// a row, the columns between the same two coarse columns lie on a line but for rounding: where this crosses the cut
// decides for all but the columns so close to the crossing that rounding could matter, mostly none, which are computed.
template <int kThreads>
__device__ void threshold(const Surface<float, false>& surface, const Upsampling& size, float cut,
                          const Room<uint16_t>& room) {
  const float apart = static_cast<float>(size.W) / static_cast<float>(size.w);  // output columns between coarse ones
  const float spare = 0x1p-10f + static_cast<float>(size.W) * 0x1p-20f;         // rounding of a column's own place
#pragma unroll 1
  for (int top = 32 * warp(); top < size.H; top += kThreads) {
    const int y = top + lane();
    const Linear<float> row = surface.rows()[y < size.H ? y : size.H - 1];
    const float *up = surface.held() + row.i0 * size.w, *down = surface.held() + row.i1 * size.w;
    uint32_t* const words = room.mask + y * room.words;
    uint32_t bits = 0, before = 0;  // of the word at hand, and of the one before it
    int word = 0, runs = 0;
    const auto finish = [&] {
      runs += __popc(starts_of(bits, before));
      if (y < size.H) words[word] = bits;
      before = bits, bits = 0, ++word;
    };
    // The coarse values on the left and on the right, above and below, and between them what this row has there.
    float b = up[0], d = down[0], to = lerp(row.w0, b, row.w1, d);
    int begin = 0;
#pragma unroll 1
    for (int cell = 0; cell < size.w; ++cell) {
      const int right = cell + 1 < size.w ? cell + 1 : cell, end = surface.column_starts()[cell + 1];
      const float a = b, c = d, from = to;
      b = up[right], d = down[right], to = lerp(row.w0, b, row.w1, d);
      const float size_of = fmaxf(fmaxf(fabsf(a), fabsf(b)), fmaxf(fabsf(c), fabsf(d))), rise = to - from;
      const float slack = size_of * 0x1p-20f + 0x1p-140f;  // more than rounding adds up to
      const bool below = fmaxf(from, to) + slack < cut, reached = fminf(from, to) - slack >= cut;
      // Columns in [set, unset) are set, those in [first, last) are too close to call.
      int set = begin, unset = reached ? end : begin, first = begin, last = begin;
      bool doubts = false;
      if (__any_sync(kAllLanes, !below && !reached)) {
        // Where the line crosses the cut, as a share of the way, and how far off that may be, in the same unit (doubt)
        // and in columns (margin). A quick reciprocal is good enough for both.
        const float share = __fdividef(1.0f, rise), crossing = (cut - from) * share;
        const float doubt = size_of < 0x1p100f ? 2.0f * slack * fabsf(share) : INFINITY;
        const float margin = spare + doubt * apart;
        const float at = (static_cast<float>(cell) + crossing + 0.5f) * apart - 0.5f;
        // Bounds in this order make a NaN of what is not known anywhere. The first output columns may lie before the
        // first coarse one, and are like that.
        const int low = static_cast<int>(ceilf(fminf(fmaxf(at - margin, -1.0f), kFar)));
        const int high = static_cast<int>(floorf(fmaxf(fminf(at + margin, kFar), -1.0f))) + 1;
        if (!below && !reached) {
          first = crossing > doubt ? smaller(larger(low, begin), end) : begin;
          last = smaller(larger(high, first), end);
          set = rise > 0 ? last : begin, unset = rise > 0 ? end : first;
        }
        doubts = __any_sync(kAllLanes, first < last);
      }
#pragma unroll 1
      while (begin < end) {  // the words that these columns reach
        const int base = 32 * word;
        bits |= columns_from(set - base) & ~columns_from(unset - base);
        if (doubts) {
          const int stop = smaller(last, base + 32);
#pragma unroll 1
          for (int x = larger(first, base); __any_sync(kAllLanes, x < stop); ++x) {
            if (x >= stop) continue;
            const Linear<float> column = surface.columns()[x];
            const float above = lerp(column.w0, a, column.w1, b), under = lerp(column.w0, c, column.w1, d);
            if (lerp(row.w0, above, row.w1, under) >= cut) bits |= 1u << (x - base);
          }
        }
        begin = smaller(end, base + 32);
        if (begin == base + 32) finish();
      }
    }
    if (word < room.words) finish();
    if (y < size.H) room.first[y] = runs;
  }
}

}  // namespace fastcam
