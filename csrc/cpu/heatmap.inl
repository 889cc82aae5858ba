// Upsampling and heatmaps. The coarse rows are expanded along x once; the extremes of each expanded row, 64 columns at
// a time, bound every pixel between two rows exactly, since rounding is monotone. The search for minimum and maximum
// then looks only at what those bounds leave open, and thresholds do the same (boxes.inl). A call does some rows of one
// picture, with one multiplication and one fma a pixel. Traffic: the coarse map, whose expanded rows stay in the cache,
// and the picture once. Every pixel has one exact value, and so have minimum and maximum.
#pragma once

#include "heatmap.h"
#include "quantise.inl"

namespace fastcam::FASTCAM_SIMD {
namespace {

// Copies the coarse map through ReLU; false when it is constant or holds a value that is not finite.
template <class T>
bool load_coarse(const Upsampling<T>& u, Surface<T>& s, const T* coarse) {
  const int64_t count = u.h * u.w;
  T low = rectified(coarse[0], u.relu), high = low;
  bool usable = true;
  for (int64_t i = 0; i < count; ++i) {
    const T v = rectified(coarse[i], u.relu);
    usable &= finite(v);
    low = smaller(v, low);
    high = larger(v, high);
    s.coarse[i] = v;
  }
  return usable && low < high;
}

// The coarse rows as wide as the picture, padding included.
template <class T>
void expand_rows(const Upsampling<T>& u, Surface<T>& s) {
  for (int64_t r = 0; r < u.h; ++r) {
    const T* from = s.coarse + r * u.w;
    if (u.bicubic) {
      double* row = s.cubic_rows + r * u.stride;
      for (int64_t x = 0; x < u.stride; ++x) {
        const int64_t i = u.cx[x];
        row[x] = mix4(u.cwx + 4 * x, from[clamped(i, u.w)], from[clamped(i + 1, u.w)], from[clamped(i + 2, u.w)],
                      from[clamped(i + 3, u.w)]);
      }
      continue;
    }
    T* __restrict row = s.rows + r * u.stride;
    for (int64_t x = 0; x < u.stride; ++x) row[x] = lerp(u.wx0[x], from[u.x0[x]], u.wx1[x], from[u.x1[x]]);
  }
}

// Least and greatest value of the expanded rows: of each 64 columns, and of each row.
template <class T>
void bound_rows(const Upsampling<T>& u, Surface<T>& s) {
  for (int64_t i = 0; i < u.h * u.words; ++i) {
    const T* row = s.rows + i * 64;
    T low[kLanes], high[kLanes];
    for (int l = 0; l < kLanes; ++l) low[l] = high[l] = row[l];
    for (int x = kLanes; x < 64; x += kLanes)
      for (int l = 0; l < kLanes; ++l) {
        low[l] = smaller(row[x + l], low[l]);
        high[l] = larger(row[x + l], high[l]);
      }
    for (int l = 1; l < kLanes; ++l) {
      low[0] = smaller(low[l], low[0]);
      high[0] = larger(high[l], high[0]);
    }
    s.low[i] = low[0];
    s.high[i] = high[0];
  }
  for (int64_t r = 0; r < u.h; ++r) {
    s.row_low[r] = s.low[r * u.words];
    s.row_high[r] = s.high[r * u.words];
    for (int64_t i = r * u.words; i < (r + 1) * u.words; ++i) {
      s.row_low[r] = smaller(s.low[i], s.row_low[r]);
      s.row_high[r] = larger(s.high[i], s.row_high[r]);
    }
  }
}

// Output row y, columns [begin, end).
template <class T>
inline void output_row(const Upsampling<T>& u, const Surface<T>& s, int64_t y, int64_t begin, int64_t end,
                       T* __restrict out) {
  if (u.bicubic) {
    const int64_t i = u.cy[y];
    const double* r0 = s.cubic_rows + clamped(i, u.h) * u.stride;
    const double* r1 = s.cubic_rows + clamped(i + 1, u.h) * u.stride;
    const double* r2 = s.cubic_rows + clamped(i + 2, u.h) * u.stride;
    const double* r3 = s.cubic_rows + clamped(i + 3, u.h) * u.stride;
    const float* w = u.cwy + 4 * y;
    for (int64_t x = begin; x < end; ++x) out[x - begin] = static_cast<T>(mix4(w, r0[x], r1[x], r2[x], r3[x]));
    return;
  }
  const T *r0 = s.rows + u.y0[y] * u.stride, *r1 = s.rows + u.y1[y] * u.stride;
  const T w0 = u.wy0[y], w1 = u.wy1[y];
  for (int64_t x = begin; x < end; ++x) out[x - begin] = lerp(w0, r0[x], w1, r1[x]);
}

// Exact minimum and maximum over every output pixel.
template <class T>
void extremes(const Upsampling<T>& u, Surface<T>& s, T& low, T& high) {
  output_row(u, s, 0, 0, 1, s.line);  // any pixel will do to begin with
  low = high = s.line[0];
  const auto scan = [&](int64_t y, int64_t begin, int64_t end) __attribute__((always_inline)) {
    output_row(u, s, y, begin, end, s.line);
    T lows[kLanes], highs[kLanes];
    for (int l = 0; l < kLanes; ++l) lows[l] = highs[l] = s.line[l];
    for (int64_t x = kLanes; x + kLanes <= end - begin; x += kLanes)
      for (int l = 0; l < kLanes; ++l) {
        lows[l] = smaller(s.line[x + l], lows[l]);
        highs[l] = larger(s.line[x + l], highs[l]);
      }
    for (int l = 0; l < kLanes; ++l) {
      low = smaller(lows[l], low);
      high = larger(highs[l], high);
    }
  };
  if (u.bicubic) {
    for (int64_t y = 0; y < u.H; ++y) scan(y, 0, u.stride);
    return;
  }
  // The row whose bound promises most first; then whatever still could exceed what was found.
  bound_rows(u, s);
  int64_t y_high = 0, y_low = 0;
  T best_high = 0, best_low = 0;
  for (int64_t y = 0; y < u.H; ++y) {
    const T up = lerp(u.wy0[y], s.row_high[u.y0[y]], u.wy1[y], s.row_high[u.y1[y]]);
    const T down = lerp(u.wy0[y], s.row_low[u.y0[y]], u.wy1[y], s.row_low[u.y1[y]]);
    if (y == 0 || up > best_high) best_high = up, y_high = y;
    if (y == 0 || down < best_low) best_low = down, y_low = y;
  }
  scan(y_high, 0, u.stride);
  scan(y_low, 0, u.stride);
  // What no bound rules out: mostly a few words.
  for (int64_t y = 0; y < u.H; ++y) {
    const int64_t a = u.y0[y], b = u.y1[y];
    const T w0 = u.wy0[y], w1 = u.wy1[y];
    if (!(lerp(w0, s.row_high[a], w1, s.row_high[b]) > high || lerp(w0, s.row_low[a], w1, s.row_low[b]) < low))
      continue;
    for (int64_t word = 0; word < u.words; ++word) {
      const int64_t i0 = a * u.words + word, i1 = b * u.words + word;
      if (lerp(w0, s.high[i0], w1, s.high[i1]) > high || lerp(w0, s.low[i0], w1, s.low[i1]) < low)
        scan(y, 64 * word, 64 * word + 64);
    }
  }
}

// Rows [begin, end) of the picture. Its extremes are those of all rows, whoever paints which.
template <class T>
void heatmap(const Upsampling<T>& u, Surface<T>& s, const T* coarse, Normalize normalize, bool as_bytes, int64_t begin,
             int64_t end, void* out) {
  const bool before = normalize == Normalize::kBefore || normalize == Normalize::kBoth;
  const bool after = normalize == Normalize::kAfter || normalize == Normalize::kBoth;
  uint8_t* bytes = static_cast<uint8_t*>(out);
  T* floats = static_cast<T*>(out);
  bool usable = load_coarse(u, s, coarse);
  T low = 0, range = 1;
  if (usable && before) {  // the coarse map itself to [0, 1]
    T high = low = s.coarse[0];
    for (int64_t i = 0; i < u.h * u.w; ++i) {
      low = smaller(s.coarse[i], low);
      high = larger(s.coarse[i], high);
    }
    range = high - low;
    usable = finite(range);
    for (int64_t i = 0; i < u.h * u.w; ++i) s.coarse[i] = normalised(s.coarse[i], low, range);
  }
  if (usable || normalize == Normalize::kNone) expand_rows(u, s);
  if (usable && after) {
    T high;
    extremes(u, s, low, high);
    range = high - low;
    usable = finite(range) && range > T(0);
  }
  if (!usable && normalize != Normalize::kNone) {  // nothing to see: zeros
    if (as_bytes)
      for (int64_t i = begin * u.W; i < end * u.W; ++i) bytes[i] = 0;
    else
      for (int64_t i = begin * u.W; i < end * u.W; ++i) floats[i] = 0;
    return;
  }
  for (int64_t y = begin; y < end; ++y) {
    T* __restrict line = as_bytes ? s.line : floats + y * u.W;
    output_row(u, s, y, 0, u.W, line);
    if (after)
      for (int64_t x = 0; x < u.W; ++x) line[x] = normalised(line[x], low, range);
    if (as_bytes) quantise(line, u.W, bytes + y * u.W);
  }
}

constexpr HeatmapKernels heatmap_kernels = {{heatmap<float>, heatmap<double>}};

}  // namespace
}  // namespace fastcam::FASTCAM_SIMD
