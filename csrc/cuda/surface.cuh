// One coarse map as the picture it becomes: ReLU, then bilinear or bicubic upsampling, with the bits of csrc/cpu. A
// block holds the map and the taps of all columns and rows in shared memory (when they fit; else they are read and
// computed where needed, with the same bits). A thread walks down a few columns and keeps the expanded coarse rows
// between which it is in registers, so that an output pixel costs one multiplication, one fma and no memory access.
// The picture is never stored. Traffic: the coarse map once. Minimum and maximum are free of order, so that nothing
// depends on threads or grid.
#pragma once

#include <type_traits>

#include "../exact.h"
#include "../options.h"
#include "block.cuh"

namespace fastcam {

__device__ inline float least(float a, float b) { return fminf(a, b); }
__device__ inline double least(double a, double b) { return fmin(a, b); }
__device__ inline float most(float a, float b) { return fmaxf(a, b); }
__device__ inline double most(double a, double b) { return fmax(a, b); }

// How coarse maps become pictures; the same for every image of a call.
struct Upsampling {
  int h, w, H, W;
  bool relu;
};

// Least and most of all threads of a block, for every thread; finite or infinite, never NaN.
template <int kThreads, class T>
__device__ inline void block_extremes(T& low, T& high) {
  if constexpr (sizeof(T) == sizeof(float)) {  // as integers, which warps reduce at once
    constexpr int kWarps = kThreads / 32;
    __shared__ int32_t lows[kWarps], highs[kWarps];
    const int32_t least_of = warp_reduce(ordered(low), Smaller()), most_of = warp_reduce(ordered(high), Larger());
    __syncthreads();  // the previous use is over
    if (lane() == 0) lows[warp()] = least_of, highs[warp()] = most_of;
    __syncthreads();
    low = unordered(warp_reduce(lows[lane() % kWarps], Smaller()));
    high = unordered(warp_reduce(highs[lane() % kWarps], Larger()));
  } else {
    low = block_reduce<kThreads>(low, Smaller()), high = block_reduce<kThreads>(high, Larger());
  }
}

template <class T, bool kBicubic>
class Surface {
 public:
  using Tap = std::conditional_t<kBicubic, Cubic, Linear<T>>;

  // Bytes of shared memory that load() wants, a multiple of 16.
  static FASTCAM_HD int64_t bytes(const Upsampling& u) {
    const int64_t taps = static_cast<int64_t>(sizeof(Tap)) * (u.W + (square(u) ? 0 : int64_t{u.H}));
    return map_bytes(u) + (taps + (kBicubic ? 0 : int64_t{4} * (u.w + u.h + 2)) + 15) / 16 * 16;
  }

  // All threads of the block call load() and extremes() together. load() is true unless the map is constant or holds a
  // value that is not finite. `space` is shared memory of bytes(u), 16 bytes aligned and no longer read by any thread,
  // or null: then the map stays where it is. `from` [h, w] may be shared or global, and may be `space` itself.
  template <int kThreads>
  __device__ bool load(const T* from, const Upsampling& u, unsigned char* space) {
    u_ = u;
    held_ = reinterpret_cast<T*>(space);
    map_ = from;
    T low = static_cast<T>(INFINITY), high = -low;
    for (int64_t i = threadIdx.x; i < int64_t{u.h} * u.w; i += kThreads) {
      const T v = rectified(from[i], u.relu);
      if (held_) held_[i] = v;
      low = finite(v) ? least(low, v) : static_cast<T>(-INFINITY);
      high = finite(v) ? most(high, v) : static_cast<T>(INFINITY);
    }
    if (held_) {
      Tap* taps = reinterpret_cast<Tap*>(space + map_bytes(u));
      columns_ = taps, rows_ = square(u) ? taps : taps + u.W;
      for (int x = threadIdx.x; x < u.W; x += kThreads) taps[x] = tap(x, u.w, u.W);
      if (!square(u))
        for (int y = threadIdx.x; y < u.H; y += kThreads) taps[u.W + y] = tap(y, u.h, u.H);
    }
    block_extremes<kThreads>(low, high);
    low_ = low, high_ = high;
    if constexpr (!kBicubic) {
      if (held_) {
        int* starts = reinterpret_cast<int*>(const_cast<Tap*>(rows_) + u.H);
        column_starts_ = starts, row_starts_ = square(u) ? starts : starts + u.w + 1;
        find_starts<kThreads>(columns_, u.w, u.W, starts);
        if (!square(u)) find_starts<kThreads>(rows_, u.h, u.H, starts + u.w + 1);
        __syncthreads();
      }
    }
    return finite(low) && finite(high) && low < high;
  }

  // Exact minimum and maximum over every output pixel of a map that load() found usable.
  template <int kThreads>
  __device__ void extremes(T& low, T& high) const {
    low = static_cast<T>(INFINITY), high = -low;
    const int64_t samples = int64_t{u_.h} * u_.w;
    const bool enlarged = !kBicubic && 16 * samples <= int64_t{u_.H} * u_.W;
    if (enlarged) {
      // The pixels at the coarse samples are nearly the extremes; then only what could exceed them is visited.
      for (int i = threadIdx.x; i < samples; i += kThreads) {
        const T v = (*this)(nearest(i / u_.w, u_.h, u_.H), nearest(i % u_.w, u_.w, u_.W));
        low = least(low, v), high = most(high, v);
      }
      block_extremes<kThreads>(low, high);
      if constexpr (!kBicubic) visit_cells<kThreads>(low, high);
    } else {
      each<kThreads>(0, u_.H, [&](int, int, const T(&v)[4]) {
        for (int c = 0; c < 4; ++c) low = least(low, v[c]), high = most(high, v[c]);
      });
    }
    block_extremes<kThreads>(low, high);
  }

  // Whether all differences to low, the least pixel, are zero or at least 2^-100, and quotients by high - low normal
  // numbers: either low is large enough, or pixels mix coarse values that are zero or large enough with weights that
  // are zero or at least 2^-24.
  template <int kThreads>
  __device__ bool divides_safely(T low, T high) const {
    if constexpr (kBicubic || sizeof(T) == sizeof(double)) return false;
    T least_positive = static_cast<T>(INFINITY);
    for (int64_t i = threadIdx.x; i < int64_t{u_.h} * u_.w; i += kThreads) {
      const T v = sample(i / u_.w, i % u_.w);
      if (v > T(0)) least_positive = least(least_positive, v);
    }
    least_positive = block_reduce<kThreads>(least_positive, Smaller());
    const T size = low < T(0) ? -low : low, range = high - low;
    const bool apart = low == T(0) ? low_ >= T(0) && least_positive >= T(0x1p-50) : size >= T(0x1p-50);
    return apart && range >= T(0x1p-60) && range <= T(0x1p20);
  }

  // No sample of the coarse map is farther from zero.
  __device__ T magnitude() const { return most(-low_, high_); }

  // Where shared memory has the map after ReLU [h, w], and the taps of columns [W] and rows [H].
  __device__ const T* held() const { return held_; }
  __device__ const Tap* columns() const { return columns_; }
  __device__ const Tap* rows() const { return rows_; }
  // Bilinear: where the output columns begin that lie between coarse column i and the next one [w + 1].
  __device__ const int* column_starts() const { return column_starts_; }

  // One output pixel. To visit many, walk() is many times cheaper.
  __device__ T operator()(int y, int x) const {
    T v[1];
    walk<1>(x, 1, y, y + 1, [&](int, const T(&pixel)[1]) { v[0] = pixel[0]; });
    return v[0];
  }

  // f(y, v) for the rows y in [begin, end) in order, v[c] the pixel in column x + c * step (columns beyond the last
  // repeat it). Which instructions run depends on the rows only: lanes with the same rows stay together, and f may
  // ballot and shuffle. kHeld: shared memory is known to have the map.
  template <int kColumns, bool kHeld = false, class F>
  __device__ void walk(int x, int step, int begin, int end, const F& f) const {
    Tap columns[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) columns[c] = column_tap<kHeld>(x + c * step < u_.W ? x + c * step : u_.W - 1);
    if constexpr (kBicubic)
      walk_cubic<kColumns, kHeld>(columns, begin, end, f);
    else
      walk_linear<kColumns, kHeld>(columns, begin, end, f);
  }

  // The whole block visits the rows [begin, end): f(x, y, v) for groups of four columns x + c * step(). They are
  // neighbours where W is a multiple of 4; else neighbouring threads have neighbouring columns, and some are beyond W.
  __device__ int step() const { return u_.W % 4 == 0 ? 1 : (u_.W + 3) / 4; }

  template <int kThreads, class F>
  __device__ void each(int begin, int end, const F& f) const {
    each_strip<kThreads>(begin, end, [&](int x, int from, int to) {
      walk<4>(x, step(), from, to, [&](int y, const T(&v)[4]) { f(x, y, v); });
    });
  }

  // The same by f(x, from, to) for such columns and the rows [from, to) of them.
  template <int kThreads, class F>
  __device__ void each_strip(int begin, int end, const F& f) const {
    const int groups = (u_.W + 3) / 4, parts = groups < kThreads ? kThreads / groups : 1;
    const int part = static_cast<int>(threadIdx.x) / (parts > 1 ? groups : kThreads);
    const int first = static_cast<int>(threadIdx.x) - (parts > 1 ? part * groups : 0);
    const int count = (end - begin + parts - 1) / parts, from = begin + part * count;
    const int to = part >= parts ? from : from + count < end ? from + count : end;
    for (int g = first; g < groups; g += kThreads) {
      f(u_.W % 4 == 0 ? 4 * g : g, from, to);
      if (parts > 1) break;
    }
  }

 private:
  // Rows are mixed as columns are.
  static FASTCAM_HD bool square(const Upsampling& u) { return u.h == u.w && u.H == u.W; }

  static FASTCAM_HD int64_t map_bytes(const Upsampling& u) {
    return (static_cast<int64_t>(sizeof(T)) * u.h * u.w + 15) / 16 * 16;
  }

  static __device__ Tap tap(int i, int in, int out) {
    if constexpr (kBicubic)
      return cubic(i, in, out);
    else
      return linear<T, int>(i, in, out);
  }

  // starts[i]: the first of the taps that begin at coarse sample i or after it.
  template <int kThreads>
  static __device__ void find_starts(const Tap* taps, int in, int out, int* starts) {
    for (int x = threadIdx.x; x < out; x += kThreads) {
      const int here = taps[x].i0, before = x == 0 ? -1 : taps[x - 1].i0;
#pragma unroll 1
      for (int i = before + 1; i <= here; ++i) starts[i] = x;
#pragma unroll 1
      for (int i = here + 1; x + 1 == out && i <= in; ++i) starts[i] = out;
    }
  }

  // The output pixel at a coarse sample.
  static __device__ int nearest(int i, int in, int out) {
    const int pixel =
        static_cast<int>((static_cast<float>(i) + 0.5f) * static_cast<float>(out) / static_cast<float>(in));
    return pixel < out ? pixel : out - 1;
  }

  // More than rounding can lead beyond the larger, or the smaller, of two values that are mixed.
  static __device__ T slack(T v) {
    const T size = v < T(0) ? -v : v;
    return size >= T(0x1p-100) ? size * T(0x1p-20) : v == T(0) ? T(0) : static_cast<T>(INFINITY);
  }

  // Lowers low and raises high to all pixels, of which they are some of the extremes already. Pixels between four
  // coarse samples, and those of a row there, exceed them by rounding only: a lane settles a cell, a warp the rows of
  // each cell that is left, then the columns of each row that is left.
  template <int kThreads>
  __device__ void visit_cells(T& low, T& high) const {
    constexpr int kWarps = kThreads / 32;
    const int cells = u_.h * u_.w;
    const auto settled = [&](T least_of, T most_of, T least_slack, T most_slack) {
      return least_of - least_slack >= low && most_of + most_slack <= high;
    };
#pragma unroll 1
    for (int base = 0; base < cells; base += kThreads) {
      const int mine = base + lane() * kWarps + warp();
      bool open = false;
      if (mine < cells) {
        const Cell cell = cell_at(mine);
        open = !settled(cell.lowest(), cell.highest(), slack(cell.lowest()), slack(cell.highest()));
      }
#pragma unroll 1
      for (unsigned left = __ballot_sync(kAllLanes, open); left; left &= left - 1) {
        const Cell cell = cell_at(base + (__ffs(static_cast<int>(left)) - 1) * kWarps + warp());
        // Where samples have one sign, a mixture of two is no less exact than they are.
        const T lowest = cell.lowest(), highest = cell.highest(), larger_of = most(-lowest, highest);
        const bool cancels = lowest < T(0) && highest > T(0);
        const Stretch rows =
            held_ ? Stretch{row_starts_[cell.row], row_starts_[cell.row + 1]} : stretch(cell.row, u_.h, u_.H);
        const Stretch columns = held_ ? Stretch{column_starts_[cell.column], column_starts_[cell.column + 1]}
                                      : stretch(cell.column, u_.w, u_.W);
#pragma unroll 1
        for (int top = rows.begin; top < rows.end; top += 32) {
          const Tap row = row_tap(top + lane() < u_.H ? top + lane() : u_.H - 1);
          const T from = lerp(row.w0, cell.a, row.w1, cell.c), to = lerp(row.w0, cell.b, row.w1, cell.d);
          const T least_of = least(from, to), most_of = most(from, to);
          const bool inside = row.i0 == cell.row && top + lane() < rows.end;
          const bool done = cancels ? settled(least_of, most_of, slack(larger_of), slack(larger_of))
                                    : settled(least_of, most_of, slack(least_of), slack(most_of));
#pragma unroll 1
          for (unsigned todo = __ballot_sync(kAllLanes, inside && !done); todo; todo &= todo - 1) {
            const int from_lane = __ffs(static_cast<int>(todo)) - 1;
            const T w0 = __shfl_sync(kAllLanes, row.w0, from_lane), w1 = __shfl_sync(kAllLanes, row.w1, from_lane);
#pragma unroll 1
            for (int x = columns.begin + lane(); x < columns.end; x += 32) {
              const Tap column = column_tap(x);
              if (column.i0 != cell.column) continue;
              const T up = lerp(column.w0, cell.a, column.w1, cell.b),
                      down = lerp(column.w0, cell.c, column.w1, cell.d);
              const T v = lerp(w0, up, w1, down);
              low = least(low, v), high = most(high, v);
            }
          }
        }
      }
    }
  }

  // Four neighbouring samples: a b above c d. The last ones of a line are their own neighbours.
  struct Cell {
    int row, column;
    T a, b, c, d;
    __device__ T lowest() const { return least(least(a, b), least(c, d)); }
    __device__ T highest() const { return most(most(a, b), most(c, d)); }
  };

  __device__ Cell cell_at(int i) const {
    const int row = i / u_.w, column = i - row * u_.w;
    const int below = row + 1 < u_.h ? row + 1 : row, right = column + 1 < u_.w ? column + 1 : column;
    return {row, column, sample(row, column), sample(row, right), sample(below, column), sample(below, right)};
  }

  // Output pixels [begin, end) among which are all those between coarse sample i and the next one.
  struct Stretch {
    int begin, end;
  };

  static __device__ Stretch stretch(int i, int in, int out) {
    const float apart = static_cast<float>(out) / static_cast<float>(in);
    const int spare = 1 + (out >> 20);  // more than rounding leads astray
    const int begin = i == 0 ? 0 : static_cast<int>((static_cast<float>(i) + 0.5f) * apart - 0.5f) - spare;
    const int end = i + 1 == in ? out : static_cast<int>((static_cast<float>(i) + 1.5f) * apart - 0.5f) + 1 + spare;
    return {begin > 0 ? begin : 0, end < out ? end : out};
  }

  template <bool kHeld = false>
  __device__ T sample(int64_t r, int64_t x) const {
    if constexpr (kHeld) return held_[static_cast<int>(r) * u_.w + static_cast<int>(x)];
    const int64_t i = r * u_.w + x;
    return held_ ? held_[i] : rectified(map_[i], u_.relu);
  }

  template <bool kHeld = false>
  __device__ Tap column_tap(int x) const {
    return kHeld || held_ ? columns_[x] : tap(x, u_.w, u_.W);
  }

  template <bool kHeld = false>
  __device__ Tap row_tap(int y) const {
    return kHeld || held_ ? rows_[y] : tap(y, u_.h, u_.H);
  }

  template <int kColumns, bool kHeld, class F>
  __device__ void walk_linear(const Tap (&columns)[kColumns], int begin, int end, const F& f) const {
    T up[kColumns], down[kColumns];
    int row = -1;
    for (int y = begin; y < end; ++y) {
      const Tap t = row_tap<kHeld>(y);
      if (t.i0 != row) {
        row = t.i0;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const Tap& x = columns[c];
          up[c] = lerp(x.w0, sample<kHeld>(t.i0, x.i0), x.w1, sample<kHeld>(t.i0, x.i1));
          down[c] = lerp(x.w0, sample<kHeld>(t.i1, x.i0), x.w1, sample<kHeld>(t.i1, x.i1));
        }
      }
      T v[kColumns];
#pragma unroll
      for (int c = 0; c < kColumns; ++c) v[c] = lerp(t.w0, up[c], t.w1, down[c]);
      f(y, v);
    }
  }

  template <bool kHeld>
  __device__ double cubic_row(int64_t r, const Cubic& x) const {
    const int64_t row = clamped(r, u_.h);
    return mix4(x.w, sample<kHeld>(row, clamped(x.i, u_.w)), sample<kHeld>(row, clamped(x.i + 1, u_.w)),
                sample<kHeld>(row, clamped(x.i + 2, u_.w)), sample<kHeld>(row, clamped(x.i + 3, u_.w)));
  }

  template <int kColumns, bool kHeld, class F>
  __device__ void walk_cubic(const Tap (&columns)[kColumns], int begin, int end, const F& f) const {
    double rows[4][kColumns];
    int row = INT32_MIN;
    for (int y = begin; y < end; ++y) {
      const Tap t = row_tap<kHeld>(y);
      if (t.i != row) {
        const bool next = t.i - 1 == row;  // of the four rows three are there already
        row = t.i;
#pragma unroll
        for (int k = 0; k < 4; ++k)
#pragma unroll
          for (int c = 0; c < kColumns; ++c)
            rows[k][c] = next && k < 3 ? rows[k < 3 ? k + 1 : k][c] : cubic_row<kHeld>(t.i + k, columns[c]);
      }
      T v[kColumns];
#pragma unroll
      for (int c = 0; c < kColumns; ++c)
        v[c] = static_cast<T>(mix4(t.w, rows[0][c], rows[1][c], rows[2][c], rows[3][c]));
      f(y, v);
    }
  }

  Upsampling u_;
  const T* map_;                            // [h, w], as given
  T* held_;                                 // after ReLU, in shared memory; or null
  const Tap *columns_, *rows_;              // [W], [H] where the map is held, and the same if it is square
  const int *column_starts_, *row_starts_;  // [w + 1], [h + 1] there
  T low_, high_;                            // of the coarse map
};

}  // namespace fastcam
