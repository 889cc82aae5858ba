// Upsampling and heatmaps. The coarse rows are expanded along x once; the extremes of each expanded row, 64 columns at
// a time, bound every pixel between two rows exactly, since rounding is monotone. The search for minimum and maximum
// then looks only at what those bounds leave open, and thresholds do the same (boxes.inl). A call does some rows of one
// picture, with one multiplication and one fma a pixel. Traffic: the coarse map, whose expanded rows stay in the cache,
// and the picture once. Every pixel has one exact value, and so have minimum and maximum.
#pragma once

#include "heatmap.h"
#include "vectors.inl"

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

// A coarse row as wide as the picture, padding included.
template <class T>
inline void expand_row(const Upsampling<T>& u, const T* from, T* __restrict row) {
  for (int64_t x = 0; x < u.stride; ++x) row[x] = lerp(u.wx0[x], from[u.x0[x]], u.wx1[x], from[u.x1[x]]);
}

// Samples of a row that fits a vector register are taken from there.
#if defined(FASTCAM_AVX512)
inline void expand_row(const Upsampling<float>& u, const float* from, float* __restrict row) {
  if (u.w > 16) return expand_row<float>(u, from, row);
  const __m512 samples = _mm512_loadu_ps(from);
  for (int64_t x = 0; x < u.stride; x += 16) {
    const __m512 left = _mm512_permutexvar_ps(_mm512_load_si512(u.x0 + x), samples);
    const __m512 right = _mm512_permutexvar_ps(_mm512_load_si512(u.x1 + x), samples);
    const __m512 product = _mm512_mul_ps(_mm512_load_ps(u.wx1 + x), right);
    _mm512_store_ps(row + x, _mm512_fmadd_ps(_mm512_load_ps(u.wx0 + x), left, product));
  }
}
#elif defined(FASTCAM_AVX2)
inline void expand_row(const Upsampling<float>& u, const float* from, float* __restrict row) {
  if (u.w > 8) return expand_row<float>(u, from, row);
  const __m256 samples = _mm256_loadu_ps(from);
  for (int64_t x = 0; x < u.stride; x += 8) {
    const auto at = [&](const int32_t* i) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(i + x)); };
    const __m256 left = _mm256_permutevar8x32_ps(samples, at(u.x0));
    const __m256 right = _mm256_permutevar8x32_ps(samples, at(u.x1));
    const __m256 product = _mm256_mul_ps(_mm256_load_ps(u.wx1 + x), right);
    _mm256_store_ps(row + x, _mm256_fmadd_ps(_mm256_load_ps(u.wx0 + x), left, product));
  }
}
#endif

// The coarse rows as wide as the picture.
template <class T>
void expand_rows(const Upsampling<T>& u, Surface<T>& s) {
  for (int64_t r = 0; r < u.h; ++r) {
    const T* from = s.coarse + r * u.w;
    if (!u.bicubic) {
      expand_row(u, from, s.rows + r * u.stride);
      continue;
    }
    double* row = s.cubic_rows + r * u.stride;
    for (int64_t x = 0; x < u.stride; ++x) {
      const int64_t i = u.cx[x];
      row[x] = mix4(u.cwx + 4 * x, from[clamped(i, u.w)], from[clamped(i + 1, u.w)], from[clamped(i + 2, u.w)],
                    from[clamped(i + 3, u.w)]);
    }
  }
}

// Least and greatest of 32 values, and of `low` and `high` so far.
template <class T>
inline void widen_range(const T* from, T& low, T& high) {
  constexpr int kElements = kVectorBytes / sizeof(T);
  Vector<T> lows = load_vector(from), highs = lows;
  for (int x = kElements; x < 32; x += kElements) {
    const Vector<T> v = load_vector(from + x);
    lows = v < lows ? v : lows;
    highs = v > highs ? v : highs;
  }
  for (int i = 0; i < kElements; ++i) {
    low = smaller(lows[i], low);
    high = larger(highs[i], high);
  }
}

// Least and greatest value of each 32 columns of the expanded rows; where there are none, both are a pixel of the row.
template <class T>
void bound_rows(const Upsampling<T>& u, Surface<T>& s) {
  for (int64_t r = 0; r < u.h; ++r)
    for (int64_t half = 0; half < u.bounds; ++half) {
      const T* from = s.rows + r * u.stride + 32 * smaller(half, 2 * u.words - 1);
      T low = from[0], high = low;
      if (half < 2 * u.words) widen_range(from, low, high);
      s.low[r * u.bounds + half] = low;
      s.high[r * u.bounds + half] = high;
    }
}

// Bits of eight half words between two rows, by one of their bounds there: lerp(w0, a, w1, b) >= cut, or > cut.
template <bool kEqual, class T>
inline uint32_t bounds_reach(const T* a, const T* b, T w0, T w1, T cut) {
  uint32_t bits = 0;
  for (int i = 0; i < 8; ++i) {
    const T v = lerp(w0, a[i], w1, b[i]);
    bits |= static_cast<uint32_t>(kEqual ? v >= cut : v > cut) << i;
  }
  return bits;
}

#if defined(FASTCAM_AVX512) || defined(FASTCAM_AVX2)
template <bool kEqual>
inline uint32_t bounds_reach(const float* a, const float* b, float w0, float w1, float cut) {
  const __m256 right = _mm256_mul_ps(_mm256_set1_ps(w1), _mm256_load_ps(b));
  const __m256 v = _mm256_fmadd_ps(_mm256_set1_ps(w0), _mm256_load_ps(a), right);
  const __m256 reached = _mm256_cmp_ps(v, _mm256_set1_ps(cut), kEqual ? _CMP_GE_OQ : _CMP_GT_OQ);
  return static_cast<uint32_t>(_mm256_movemask_ps(reached));
}
#endif

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
  const auto scan = [&](int64_t y, int64_t half) __attribute__((always_inline)) {
    output_row(u, s, y, 32 * half, 32 * half + 32, s.line);
    widen_range(s.line, low, high);
  };
  if (u.bicubic) {
    for (int64_t y = 0; y < u.H; ++y)
      for (int64_t half = 0; half < 2 * u.words; ++half) scan(y, half);
    return;
  }
  // The columns with the extremes of the expanded rows first, as near to these as there are pixels.
  bound_rows(u, s);
  int64_t at_low = 0, at_high = 0;
  for (int64_t i = 0; i < u.h * u.bounds; ++i) {
    at_low = s.low[i] < s.low[at_low] ? i : at_low;
    at_high = s.high[i] > s.high[at_high] ? i : at_high;
  }
  const int64_t promising[] = {at_low, at_high};
  for (int64_t i : promising) scan((2 * (i / u.bounds) + 1) * u.H / (2 * u.h), i % u.bounds);
  // Then what no bound rules out: mostly little.
  for (int64_t y = 0; y < u.H; ++y) {
    const int64_t a = u.y0[y] * u.bounds, b = u.y1[y] * u.bounds;
    const T w0 = u.wy0[y], w1 = u.wy1[y];
    for (int64_t half = 0; half < 2 * u.words; half += 8) {
      const uint32_t above = bounds_reach<false>(s.high + a + half, s.high + b + half, w0, w1, high);
      const uint32_t below = bounds_reach<true>(s.low + a + half, s.low + b + half, w0, w1, low) ^ 0xff;
      for (uint32_t open = above | below; open; open &= open - 1)
        scan(y, smaller(half + __builtin_ctz(open), 2 * u.words - 1));
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
