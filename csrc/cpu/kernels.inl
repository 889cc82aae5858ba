// The CPU kernels, one image at a time. This file is compiled once for each instruction set (kernels_*.cpp). Sums run
// over 16 explicit lanes and every product is an explicit fma, so that each build gives the same bits; compilers turn
// the fixed-length loops into vector code, and only the comparison that makes mask bits is written with intrinsics.
//
// Boxes cost little because little is computed: the coarse rows are expanded along x once, and the extremes of each
// expanded row, 64 columns at a time, bound every pixel between two rows exactly (rounding is monotone). Minimum,
// maximum and mask then look only at the words that those bounds leave open.

namespace fastcam {
namespace FASTCAM_SIMD {
namespace {

constexpr int kLanes = 16;

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline float from_bits(uint32_t bits) {
  union {
    uint32_t i;
    float f;
  } u{bits};
  return u.f;
}

inline float value(float v) { return v; }
inline double value(double v) { return v; }
inline float value(BFloat16 v) { return from_bits(static_cast<uint32_t>(v.bits) << 16); }
inline float value(Half v) {
#ifdef FASTCAM_F16C
  return _cvtsh_ss(v.bits);
#else
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000) << 16, magnitude = v.bits & 0x7fff;
  if (magnitude >= 0x7c00) return from_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  // As a float's exponent and mantissa the value is 2^112 too small; the product is exact, subnormals included.
  const float small = from_bits(magnitude << 13) * from_bits(0x77800000);
  return sign ? -small : small;
#endif
}

// ---- weighted sums -------------------------------------------------------------------------------------------------

template <class Acc>
inline Acc lane_sum(Acc* lanes) {  // a fixed tree
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

template <class In, class Acc>
inline void widen(const In* p, int64_t count, Acc* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = value(p[i]);
}

// What a pass over channel-major planes or position-major rows adds up, each with terms t(a, g):
struct Products {  // hirescam
  template <class Acc>
  static inline Acc term(Acc a, Acc g, Acc sum) {
    return fused(g, a, sum);
  }
};
struct PositiveProducts {  // layercam
  template <class Acc>
  static inline Acc term(Acc a, Acc g, Acc sum) {
    return fused(g > Acc(0) ? g : g != g ? g : Acc(0), a, sum);
  }
};

template <class In, class Acc, class Term>
Acc lane_reduce(const In* a, const In* g, int64_t count) {
  Acc lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] = Term::term(Acc(value(a[i + l])), Acc(value(g[i + l])), lanes[l]);
  for (int l = 0; i + l < count; ++l) lanes[l] = Term::term(Acc(value(a[i + l])), Acc(value(g[i + l])), lanes[l]);
  return lane_sum(lanes);
}

template <class In, class Acc>
Acc lane_total(const In* a, int64_t count) {
  Acc lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] += value(a[i + l]);
  for (int l = 0; i + l < count; ++l) lanes[l] += value(a[i + l]);
  return lane_sum(lanes);
}

template <class In, class Acc>
Acc lane_dot(const In* a, const Acc* w, int64_t count) {
  Acc lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] = fused(w[i + l], Acc(value(a[i + l])), lanes[l]);
  for (int l = 0; i + l < count; ++l) lanes[l] = fused(w[i + l], Acc(value(a[i + l])), lanes[l]);
  return lane_sum(lanes);
}

template <class In, class Acc>
void weighted_sum(const In* a, const Acc* w, int64_t K, int64_t Z, bool channels_last, Acc* __restrict out) {
  if (channels_last) {
    for (int64_t z = 0; z < Z; ++z) out[z] = lane_dot(a + z * K, w, K);
    return;
  }
  for (int64_t z = 0; z < Z; ++z) out[z] = 0;
  for (int64_t k = 0; k < K; ++k) {
    const In* row = a + k * Z;
    const Acc wk = w[k];
    for (int64_t z = 0; z < Z; ++z) out[z] = fused(wk, Acc(value(row[z])), out[z]);
  }
}

// One position's share of the Grad-CAM++ weight: relu(g) * g^2 / (2 g^2 + sum(a) g^3 + eps); 0 where g is not positive.
template <class Acc>
inline Acc plus_plus(Acc g, Acc activation_sum, Acc eps) {
  const Acc g2 = g * g, g3 = g2 * g;
  const Acc twice = Acc(2) * g2, mixed = activation_sum * g3;
  const Acc denominator = (twice + mixed) + eps;
  const Acc share = g2 / denominator * g;
  return g > Acc(0) ? share : g != g ? g : Acc(0);
}

template <class In, class Acc>
void channel_weights(const In* a, const In* g, int64_t K, int64_t Z, bool channels_last, Weighting weighting, Acc eps,
                     Acc* __restrict sums, Acc* __restrict w) {
  for (int64_t k = 0; k < K; ++k) sums[k] = w[k] = 0;
  if (channels_last) {  // vectors along channels, positions in order
    for (int64_t z = 0; z < Z; ++z) {
      const In *az = a + z * K, *gz = g + z * K;
      if (weighting == Weighting::kGradCam)
        for (int64_t k = 0; k < K; ++k) w[k] += value(gz[k]);
      else
        for (int64_t k = 0; k < K; ++k) sums[k] += value(az[k]);
      if (weighting == Weighting::kXGradCam)
        for (int64_t k = 0; k < K; ++k) w[k] = fused(Acc(value(gz[k])), Acc(value(az[k])), w[k]);
    }
    if (weighting == Weighting::kGradCamPlusPlus)
      for (int64_t z = 0; z < Z; ++z)
        for (int64_t k = 0; k < K; ++k) w[k] += plus_plus(Acc(value(g[z * K + k])), sums[k], eps);
  } else {
    for (int64_t k = 0; k < K; ++k) {
      const In *ak = a + k * Z, *gk = g + k * Z;
      if (weighting == Weighting::kGradCam) {
        w[k] = lane_total<In, Acc>(gk, Z);
        continue;
      }
      sums[k] = lane_total<In, Acc>(ak, Z);
      if (weighting == Weighting::kXGradCam) {
        w[k] = lane_reduce<In, Acc, Products>(ak, gk, Z);
      } else {
        Acc lanes[kLanes] = {};
        for (int64_t z = 0; z < Z; ++z) lanes[z % kLanes] += plus_plus(Acc(value(gk[z])), sums[k], eps);
        w[k] = lane_sum(lanes);
      }
    }
  }
  if (weighting == Weighting::kGradCam)
    for (int64_t k = 0; k < K; ++k) w[k] /= static_cast<Acc>(Z);
  if (weighting == Weighting::kXGradCam)
    for (int64_t k = 0; k < K; ++k) w[k] /= sums[k] + eps;
}

template <class In, class Acc, class Term>
void elementwise_sum(const In* a, const In* g, int64_t K, int64_t Z, bool channels_last, Acc* __restrict out) {
  if (channels_last) {
    for (int64_t z = 0; z < Z; ++z) out[z] = lane_reduce<In, Acc, Term>(a + z * K, g + z * K, K);
    return;
  }
  for (int64_t z = 0; z < Z; ++z) out[z] = 0;
  for (int64_t k = 0; k < K; ++k)
    for (int64_t z = 0; z < Z; ++z) out[z] = Term::term(Acc(value(a[k * Z + z])), Acc(value(g[k * Z + z])), out[z]);
}

template <class In, class Acc>
void gradient_map_of(const Features& f, const void* gradients, Weighting weighting, double eps, void* workspace,
                     void* result) {
  const In *a = static_cast<const In*>(f.data), *g = static_cast<const In*>(gradients);
  Acc* out = static_cast<Acc*>(result);
  if (weighting == Weighting::kHiResCam)
    return elementwise_sum<In, Acc, Products>(a, g, f.K, f.Z, f.channels_last, out);
  if (weighting == Weighting::kLayerCam)
    return elementwise_sum<In, Acc, PositiveProducts>(a, g, f.K, f.Z, f.channels_last, out);
  Acc *sums = static_cast<Acc*>(workspace), *w = sums + f.K;
  channel_weights(a, g, f.K, f.Z, f.channels_last, weighting, static_cast<Acc>(eps), sums, w);
  weighted_sum(a, w, f.K, f.Z, f.channels_last, out);
}

template <class In, class Acc>
void class_map_of(const Features& f, const void* weights, void* out) {
  weighted_sum(static_cast<const In*>(f.data), static_cast<const Acc*>(weights), f.K, f.Z, f.channels_last,
               static_cast<Acc*>(out));
}

void class_map(const Features& f, const void* weights, void* out) {
  switch (f.dtype) {
    case DType::kFloat: return class_map_of<float, float>(f, weights, out);
    case DType::kDouble: return class_map_of<double, double>(f, weights, out);
    case DType::kHalf: return class_map_of<Half, float>(f, weights, out);
    case DType::kBFloat16: return class_map_of<BFloat16, float>(f, weights, out);
  }
}

void gradient_map(const Features& f, const void* g, Weighting weighting, double eps, void* workspace, void* out) {
  switch (f.dtype) {
    case DType::kFloat: return gradient_map_of<float, float>(f, g, weighting, eps, workspace, out);
    case DType::kDouble: return gradient_map_of<double, double>(f, g, weighting, eps, workspace, out);
    case DType::kHalf: return gradient_map_of<Half, float>(f, g, weighting, eps, workspace, out);
    case DType::kBFloat16: return gradient_map_of<BFloat16, float>(f, g, weighting, eps, workspace, out);
  }
}

// ---- upsampling ----------------------------------------------------------------------------------------------------

template <class T>
inline T larger(T a, T b) {
  return a > b ? a : b;
}
template <class T>
inline T smaller(T a, T b) {
  return a < b ? a : b;
}

// Copies the coarse map through ReLU; false when it is constant or holds a value that is not finite.
template <class T>
bool load_coarse(const Plan<T>& plan, Scratch<T>& s, const T* coarse) {
  const int64_t count = plan.h * plan.w;
  T low = rectified(coarse[0], plan.relu), high = low;
  bool usable = true;
  for (int64_t i = 0; i < count; ++i) {
    const T v = rectified(coarse[i], plan.relu);
    usable &= finite(v);
    low = smaller(v, low);
    high = larger(v, high);
    s.coarse[i] = v;
  }
  return usable && low < high;
}

template <class T>
void expand_rows(const Plan<T>& plan, Scratch<T>& s) {
  for (int64_t r = 0; r < plan.h; ++r) {
    const T* from = s.coarse + r * plan.w;
    if (plan.bicubic) {
      double* row = s.cubic_rows + r * plan.stride;
      for (int64_t x = 0; x < plan.stride; ++x) {
        const int64_t i = plan.cx[x];
        row[x] = mix4(plan.cwx + 4 * x, from[clamped(i, plan.w)], from[clamped(i + 1, plan.w)],
                      from[clamped(i + 2, plan.w)], from[clamped(i + 3, plan.w)]);
      }
      continue;
    }
    T* __restrict row = s.rows + r * plan.stride;
    for (int64_t x = 0; x < plan.stride; ++x)
      row[x] = lerp(plan.wx0[x], from[plan.x0[x]], plan.wx1[x], from[plan.x1[x]]);
  }
}

template <class T>
void bound_rows(const Plan<T>& plan, Scratch<T>& s) {
  for (int64_t i = 0; i < plan.h * plan.words; ++i) {
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
  for (int64_t r = 0; r < plan.h; ++r) {
    s.row_low[r] = s.low[r * plan.words];
    s.row_high[r] = s.high[r * plan.words];
    for (int64_t i = r * plan.words; i < (r + 1) * plan.words; ++i) {
      s.row_low[r] = smaller(s.low[i], s.row_low[r]);
      s.row_high[r] = larger(s.high[i], s.row_high[r]);
    }
  }
}

// Output row y, columns [begin, end).
template <class T>
inline void output_row(const Plan<T>& plan, const Scratch<T>& s, int64_t y, int64_t begin, int64_t end,
                       T* __restrict out) {
  if (plan.bicubic) {
    const int64_t i = plan.cy[y];
    const double* r0 = s.cubic_rows + clamped(i, plan.h) * plan.stride;
    const double* r1 = s.cubic_rows + clamped(i + 1, plan.h) * plan.stride;
    const double* r2 = s.cubic_rows + clamped(i + 2, plan.h) * plan.stride;
    const double* r3 = s.cubic_rows + clamped(i + 3, plan.h) * plan.stride;
    const float* w = plan.cwy + 4 * y;
    for (int64_t x = begin; x < end; ++x) out[x - begin] = static_cast<T>(mix4(w, r0[x], r1[x], r2[x], r3[x]));
    return;
  }
  const T *r0 = s.rows + plan.y0[y] * plan.stride, *r1 = s.rows + plan.y1[y] * plan.stride;
  const T w0 = plan.wy0[y], w1 = plan.wy1[y];
  for (int64_t x = begin; x < end; ++x) out[x - begin] = lerp(w0, r0[x], w1, r1[x]);
}

// Exact minimum and maximum over every output pixel.
template <class T>
void extremes(const Plan<T>& plan, Scratch<T>& s, T& low, T& high) {
  output_row(plan, s, 0, 0, 1, s.line);
  low = high = s.line[0];
  const auto scan = [&](int64_t y, int64_t begin, int64_t end) __attribute__((always_inline)) {
    output_row(plan, s, y, begin, end, s.line);
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
  if (plan.bicubic) {
    for (int64_t y = 0; y < plan.H; ++y) scan(y, 0, plan.stride);
    return;
  }
  // The row whose bound promises most first; then whatever still could exceed what was found.
  bound_rows(plan, s);
  int64_t y_high = 0, y_low = 0;
  T best_high = 0, best_low = 0;
  for (int64_t y = 0; y < plan.H; ++y) {
    const T up = lerp(plan.wy0[y], s.row_high[plan.y0[y]], plan.wy1[y], s.row_high[plan.y1[y]]);
    const T down = lerp(plan.wy0[y], s.row_low[plan.y0[y]], plan.wy1[y], s.row_low[plan.y1[y]]);
    if (y == 0 || up > best_high) best_high = up, y_high = y;
    if (y == 0 || down < best_low) best_low = down, y_low = y;
  }
  scan(y_high, 0, plan.stride);
  scan(y_low, 0, plan.stride);
  for (int64_t y = 0; y < plan.H; ++y) {
    const int64_t a = plan.y0[y], b = plan.y1[y];
    const T w0 = plan.wy0[y], w1 = plan.wy1[y];
    if (!(lerp(w0, s.row_high[a], w1, s.row_high[b]) > high || lerp(w0, s.row_low[a], w1, s.row_low[b]) < low))
      continue;
    for (int64_t word = 0; word < plan.words; ++word) {
      const int64_t i0 = a * plan.words + word, i1 = b * plan.words + word;
      if (lerp(w0, s.high[i0], w1, s.high[i1]) > high || lerp(w0, s.low[i0], w1, s.low[i1]) < low)
        scan(y, 64 * word, 64 * word + 64);
    }
  }
}

template <class T>
void heatmap(const Plan<T>& plan, Scratch<T>& s, const T* coarse, Normalize normalize, bool as_bytes, void* out) {
  const bool before = normalize == Normalize::kBefore || normalize == Normalize::kBoth;
  const bool after = normalize == Normalize::kAfter || normalize == Normalize::kBoth;
  const int64_t pixels = plan.H * plan.W;
  uint8_t* bytes = static_cast<uint8_t*>(out);
  T* floats = static_cast<T*>(out);
  bool usable = load_coarse(plan, s, coarse);
  T low = 0, range = 1;
  if (usable && before) {
    T high = low = s.coarse[0];
    for (int64_t i = 0; i < plan.h * plan.w; ++i) {
      low = smaller(s.coarse[i], low);
      high = larger(s.coarse[i], high);
    }
    range = high - low;
    usable = finite(range);
    for (int64_t i = 0; i < plan.h * plan.w; ++i) s.coarse[i] = normalised(s.coarse[i], low, range);
  }
  if (usable || normalize == Normalize::kNone) expand_rows(plan, s);
  if (usable && after) {
    T high;
    extremes(plan, s, low, high);
    range = high - low;
    usable = finite(range) && range > T(0);
  }
  if (!usable && normalize != Normalize::kNone) {
    if (as_bytes)
      for (int64_t i = 0; i < pixels; ++i) bytes[i] = 0;
    else
      for (int64_t i = 0; i < pixels; ++i) floats[i] = 0;
    return;
  }
  for (int64_t y = 0; y < plan.H; ++y) {
    T* __restrict line = as_bytes ? s.line : floats + y * plan.W;
    output_row(plan, s, y, 0, plan.W, line);
    if (after)
      for (int64_t x = 0; x < plan.W; ++x) line[x] = normalised(line[x], low, range);
    if (as_bytes)
      for (int64_t x = 0; x < plan.W; ++x) bytes[y * plan.W + x] = quantised(line[x]);
  }
}

// ---- masks ---------------------------------------------------------------------------------------------------------

// Bits of 64 pixels: lerp(w0, r0, w1, r1) >= cut.
inline uint64_t mask_word(const float* r0, const float* r1, float w0, float w1, float cut) {
  uint64_t bits = 0;
#if defined(FASTCAM_AVX512)
  const __m512 a = _mm512_set1_ps(w0), b = _mm512_set1_ps(w1), c = _mm512_set1_ps(cut);
  for (int i = 0; i < 4; ++i) {
    const __m512 right = _mm512_mul_ps(b, _mm512_loadu_ps(r1 + 16 * i));
    const __m512 v = _mm512_fmadd_ps(a, _mm512_loadu_ps(r0 + 16 * i), right);
    bits |= static_cast<uint64_t>(_mm512_cmp_ps_mask(v, c, _CMP_GE_OQ)) << (16 * i);
  }
#elif defined(FASTCAM_AVX2)
  const __m256 a = _mm256_set1_ps(w0), b = _mm256_set1_ps(w1), c = _mm256_set1_ps(cut);
  for (int i = 0; i < 8; ++i) {
    const __m256 right = _mm256_mul_ps(b, _mm256_loadu_ps(r1 + 8 * i));
    const __m256 v = _mm256_fmadd_ps(a, _mm256_loadu_ps(r0 + 8 * i), right);
    const uint32_t byte = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(v, c, _CMP_GE_OQ)));
    bits |= static_cast<uint64_t>(byte) << (8 * i);
  }
#else
  for (int i = 0; i < 64; ++i) bits |= static_cast<uint64_t>(lerp(w0, r0[i], w1, r1[i]) >= cut) << i;
#endif
  return bits;
}

// Bits of 64 bytes: q > level.
inline uint64_t mask_word(const uint8_t* q, uint8_t level) {
  uint64_t bits = 0;
#if defined(FASTCAM_AVX512)
  bits = _mm512_cmpgt_epu8_mask(_mm512_loadu_si512(q), _mm512_set1_epi8(static_cast<char>(level)));
#elif defined(FASTCAM_AVX2)
  const __m256i least = _mm256_set1_epi8(static_cast<char>(level + 1));  // level < 255
  for (int i = 0; i < 2; ++i) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + 32 * i));
    const int word = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(v, least), v));
    bits |= static_cast<uint64_t>(static_cast<uint32_t>(word)) << (32 * i);
  }
#else
  for (int i = 0; i < 64; ++i) bits |= static_cast<uint64_t>(q[i] > level) << i;
#endif
  return bits;
}

inline uint64_t columns_in(int64_t W, int64_t word) {
  const int64_t left = W - 64 * word;
  return left >= 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
}

void threshold(const Plan<float>& plan, Scratch<float>& s, float cut) {
  for (int64_t y = 0; y < plan.H; ++y) {
    uint64_t* row = s.mask + y * plan.words;
    if (plan.bicubic) {
      output_row(plan, s, y, 0, plan.stride, s.line);
      for (int64_t word = 0; word < plan.words; ++word)
        row[word] = mask_word(s.line + 64 * word, s.line + 64 * word, 1.0f, 0.0f, cut) & columns_in(plan.W, word);
      continue;
    }
    const int64_t a = plan.y0[y] * plan.words, b = plan.y1[y] * plan.words;
    const float w0 = plan.wy0[y], w1 = plan.wy1[y];
    for (int64_t word = 0; word < plan.words; ++word) {
      uint64_t bits;
      if (lerp(w0, s.high[a + word], w1, s.high[b + word]) < cut)
        bits = 0;
      else if (lerp(w0, s.low[a + word], w1, s.low[b + word]) >= cut)
        bits = ~uint64_t{0};
      else
        bits = mask_word(s.rows + 64 * (a + word), s.rows + 64 * (b + word), w0, w1, cut);
      row[word] = bits & columns_in(plan.W, word);
    }
  }
}

// ---- connected components ------------------------------------------------------------------------------------------

inline int32_t root_of(int32_t* parents, int32_t i) {
  while (parents[i] != i) {
    parents[i] = parents[parents[i]];
    i = parents[i];
  }
  return i;
}

// Joins two components; the earlier run stays the root, so that roots are first pixels in raster order.
inline int32_t join(int32_t* parents, Component* components, int32_t a, int32_t b) {
  const int32_t root = a < b ? a : b, other = a < b ? b : a;
  parents[other] = root;
  Component &to = components[root], &from = components[other];
  to.x0 = smaller(to.x0, from.x0);
  to.x1 = larger(to.x1, from.x1);
  to.y1 = larger(to.y1, from.y1);
  to.area += from.area;
  to.contour2 += from.contour2;
  to.links += from.links;
  return root;
}

// Writes the columns where one row of the mask changes, which are its runs' starts and ends in turn; returns how many
// runs.
inline int64_t find_runs(const uint64_t* row, int64_t words, int64_t W, Run* runs) {
  int32_t *const columns = &runs->start, *to = columns;
  uint64_t carry = 0;
  for (int64_t word = 0; word < words; ++word) {
    const uint64_t m = row[word];
    uint64_t edges = m ^ (m << 1 | carry);
    carry = m >> 63;
    for (; edges; edges &= edges - 1) *to++ = static_cast<int32_t>(64 * word + __builtin_ctzll(edges));
  }
  if ((to - columns) & 1) *to++ = static_cast<int32_t>(W);
  return (to - columns) / 2;
}

// Labels the runs of the mask's rows [first_row, last_row); returns how many there are. Runs of one row are in order,
// rows follow each other. A row that repeats the one above adds no runs: those above grow.
int64_t label(const Plan<float>& plan, Scratch<float>& s, int64_t first_row, int64_t last_row, int connectivity) {
  const int32_t reach = connectivity == 8 ? 1 : 0;
  Run* runs = s.runs;
  int32_t* parents = s.parents;
  Component* components = s.components;
  int64_t count = 0, above_begin = 0, above_end = 0;
  for (int64_t y = first_row; y < last_row; ++y) {
    const uint64_t* row = s.mask + y * plan.words;
    const int32_t bottom = static_cast<int32_t>(y + 1);
    uint64_t changed = y == first_row;
    for (int64_t word = 0; !changed && word < plan.words; ++word) changed = row[word] ^ row[word - plan.words];
    if (!changed) {
      for (int64_t j = above_begin; j < above_end; ++j) {
        Component& c = components[root_of(parents, static_cast<int32_t>(j))];
        const int32_t length = runs[j].end - runs[j].start;
        c.y1 = bottom;
        c.area += length;
        c.contour2 += 2 * length - 2;
      }
      continue;
    }
    const int64_t begin = count;
    count += find_runs(row, plan.words, plan.W, runs + begin);
    int64_t above = above_begin;
    for (int64_t i = begin; i < count; ++i) {
      const Run run = runs[i];
      while (above < above_end && runs[above].end + reach <= run.start) ++above;
      if (above == above_end || runs[above].start >= run.end + reach) {  // nothing above: a component begins
        parents[i] = static_cast<int32_t>(i);
        components[i] = {run.start, static_cast<int32_t>(y), run.end, bottom, run.end - run.start, 0, -1};
        continue;
      }
      int32_t root = root_of(parents, static_cast<int32_t>(above));
      int64_t contour2 = 0, links = -1;
      for (int64_t j = above; j < above_end && runs[j].start < run.end + reach; ++j) {
        const int32_t overlap = smaller(run.end, runs[j].end) - larger(run.start, runs[j].start);
        contour2 += 2 * overlap - 2 + (run.start != runs[j].start) + (run.end != runs[j].end);
        links += 1;
        if (j == above) continue;
        const int32_t other = root_of(parents, static_cast<int32_t>(j));
        if (other != root) root = join(parents, components, root, other);
      }
      parents[i] = root;
      Component& c = components[root];
      c.x0 = smaller(run.start, c.x0);
      c.x1 = larger(run.end, c.x1);
      c.y1 = bottom;
      c.area += run.end - run.start;
      c.contour2 += contour2;
      c.links += links;
    }
    above_begin = begin;
    above_end = count;
  }
  return count;
}

// Doubled area inside a component's outer border, between what is known without following it: contour2 (holes left
// out) and the area of its box.
inline int64_t area2_bound(const Component& c) {
  return c.links > -1 ? 2 * static_cast<int64_t>(c.x1 - c.x0 - 1) * (c.y1 - c.y0 - 1) : c.contour2;
}

// The component with the largest area inside its outer border, the last in raster order where they tie. Borders are
// followed only of components with holes, and only where more than one component can win.
const Component* largest_contour(const Plan<float>& plan, const Scratch<float>& s, int64_t runs) {
  int64_t least = -1, candidates = 0;
  for (int64_t i = 0; i < runs; ++i)
    if (s.parents[i] == i) least = larger(s.components[i].contour2, least);
  const Component* winner = nullptr;
  for (int64_t i = 0; i < runs; ++i) {
    if (s.parents[i] != i || area2_bound(s.components[i]) < least) continue;
    winner = s.components + i;
    ++candidates;
  }
  if (candidates <= 1) return winner;
  int64_t best = least;
  for (int64_t i = 0; i < runs; ++i) {
    const Component& c = s.components[i];
    if (s.parents[i] != i || area2_bound(c) < best) continue;
    const int64_t area2 = c.links == -1 ? c.contour2
                                        : outer_area2(s.mask, plan.words, static_cast<int>(plan.W),
                                                      static_cast<int>(plan.H), s.runs[i].start, c.y0);
    if (area2 >= best) best = area2, winner = &c;
  }
  return winner;
}

// The component with most pixels, the first in raster order where they tie.
const Component* most_pixels(const Scratch<float>& s, int64_t runs) {
  int64_t best = -1;
  const Component* winner = nullptr;
  for (int64_t i = 0; i < runs; ++i)
    if (s.parents[i] == i && s.components[i].area > best) best = s.components[i].area, winner = s.components + i;
  return winner;
}

// Labels the mask's rows [first_row, last_row) and writes the chosen component's box, half-open; zeros without one.
void largest_box(const Plan<float>& plan, Scratch<float>& s, int64_t first_row, int64_t last_row, Choice choice,
                 int32_t* out) {
  const int64_t runs = label(plan, s, first_row, last_row, choice.connectivity);
  const Component* winner = choice.contour ? largest_contour(plan, s, runs) : most_pixels(s, runs);
  out[0] = winner ? winner->x0 : 0;
  out[1] = winner ? winner->y0 : 0;
  out[2] = winner ? winner->x1 : 0;
  out[3] = winner ? winner->y1 : 0;
}

void boxes(const Plan<float>& plan, Scratch<float>& s, const float* coarse, const float* levels, int64_t count,
           bool absolute, Choice choice, int32_t* out) {
  bool usable = load_coarse(plan, s, coarse);
  float low = 0, high = 0;
  if (usable) {
    expand_rows(plan, s);
    if (!absolute) {
      extremes(plan, s, low, high);
      usable = finite(high - low) && high > low;
    } else if (!plan.bicubic) {
      bound_rows(plan, s);
    }
  }
  for (int64_t t = 0; t < count; ++t, out += 4) {
    const float cut = !usable ? INFINITY : absolute ? above(levels[t]) : cutoff(low, high, levels[t]);
    if (cut == INFINITY) {
      out[0] = out[1] = out[2] = out[3] = 0;
      continue;
    }
    threshold(plan, s, cut);
    largest_box(plan, s, 0, plan.H, choice, out);
  }
}

int64_t components(const Plan<float>& plan, Scratch<float>& s, const uint8_t* mask, int connectivity) {
  for (int64_t y = 0; y < plan.H; ++y) {
    for (int64_t word = 0; word < plan.words; ++word) {
      const uint8_t* from = mask + y * plan.W + 64 * word;
      uint64_t bits = 0;
      if (64 * word + 64 <= plan.W)
        bits = mask_word(from, 0);
      else
        for (int64_t i = 0; i < plan.W - 64 * word; ++i) bits |= static_cast<uint64_t>(from[i] > 0) << i;
      s.mask[y * plan.words + word] = bits;
    }
  }
  return label(plan, s, 0, plan.H, connectivity);
}

// Largest contour box of every mask q > level. A level that no pixel has gives the mask of the level below.
template <class T>
void curve(const Plan<float>& plan, Scratch<float>& s, const T* map, uint8_t* q, int32_t* out) {
  uint8_t* row_high = q + plan.H * plan.stride;
  bool present[256] = {};
  int highest = 0;
  for (int64_t y = 0; y < plan.H; ++y) {
    uint8_t* row = q + y * plan.stride;
    for (int64_t x = 0; x < plan.W; ++x) row[x] = quantised(map[y * plan.W + x]);
    for (int64_t x = plan.W; x < plan.stride; ++x) row[x] = 0;
    uint8_t high = 0;
    for (int64_t x = 0; x < plan.W; ++x) {
      high = larger(row[x], high);
      present[row[x]] = true;
    }
    row_high[y] = high;
    highest = larger<int>(high, highest);
  }
  for (int level = 0; level < 256; ++level) {
    int32_t* box = out + 4 * level;
    if (level >= highest || (level > 0 && !present[level])) {
      for (int i = 0; i < 4; ++i) box[i] = level >= highest ? 0 : box[i - 4];
      continue;
    }
    int64_t first = plan.H, last = 0;
    for (int64_t y = 0; y < plan.H; ++y) {
      uint64_t* row = s.mask + y * plan.words;
      if (row_high[y] > level) {
        if (first == plan.H) first = y;
        last = y + 1;
        for (int64_t word = 0; word < plan.words; ++word)
          row[word] = mask_word(q + y * plan.stride + 64 * word, static_cast<uint8_t>(level));
      } else {
        for (int64_t word = 0; word < plan.words; ++word) row[word] = 0;
      }
    }
    largest_box(plan, s, first, last, {8, true}, box);
    box[2] = smaller<int32_t>(box[2], static_cast<int32_t>(plan.W - 1));
    box[3] = smaller<int32_t>(box[3], static_cast<int32_t>(plan.H - 1));
  }
}

}  // namespace

const Kernels kernels = {FASTCAM_SIMD_NAME, class_map,    gradient_map, heatmap<float>, heatmap<double>, boxes,
                         components,        curve<float>, curve<double>};

}  // namespace FASTCAM_SIMD
}  // namespace fastcam
