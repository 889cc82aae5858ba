// Weighted sums over channels: class maps and gradient maps, for float, double and the half types. A call does some
// positions, or some channels, of one image. Channels first, 64 positions at a time keep their sums in registers over
// all channels, which are added in order; channels last, a position's channels are added in 16 interleaved lanes and
// these by a fixed tree. So the order follows from the layout alone, and neither batch, threads nor processor change a
// bit. Traffic: activations once, and gradients once or twice.
#pragma once

#include <type_traits>

#include "../weightings.h"
#include "simd.h"
#include "sums.h"

namespace fastcam::FASTCAM_SIMD {
namespace {

// The half types as they lie in memory; all arithmetic is in float.
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

template <class Acc>
inline Acc lane_sum(Acc* lanes) {  // a fixed tree
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

// Half values are converted 16 at a time where the processor can; what else value() does, compilers make vectors of.
#if defined(FASTCAM_F16C)
constexpr bool kWidensHalf = true;
inline void widen(const Half* p, float* lanes) {
  for (int l = 0; l < kLanes; l += 8)
    _mm256_storeu_ps(lanes + l, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + l))));
}
#else
constexpr bool kWidensHalf = false;
inline void widen(const Half*, float*) {}
#endif
template <class In>
constexpr bool kWidens = kWidensHalf && std::is_same_v<In, Half>;

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
    return fused(positive_part(g), a, sum);
  }
};

template <class In, class Acc, class Term>
Acc lane_reduce(const In* a, const In* g, int64_t count) {
  Acc lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    if constexpr (kWidens<In>) {
      float x[kLanes], y[kLanes];
      widen(a + i, x);
      widen(g + i, y);
      for (int l = 0; l < kLanes; ++l) lanes[l] = Term::term(x[l], y[l], lanes[l]);
    } else {
      for (int l = 0; l < kLanes; ++l) lanes[l] = Term::term(Acc(value(a[i + l])), Acc(value(g[i + l])), lanes[l]);
    }
  }
  for (int l = 0; i + l < count; ++l) lanes[l] = Term::term(Acc(value(a[i + l])), Acc(value(g[i + l])), lanes[l]);
  return lane_sum(lanes);
}

template <class In, class Acc>
Acc lane_total(const In* a, int64_t count) {
  Acc lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    if constexpr (kWidens<In>) {
      float x[kLanes];
      widen(a + i, x);
      for (int l = 0; l < kLanes; ++l) lanes[l] += x[l];
    } else {
      for (int l = 0; l < kLanes; ++l) lanes[l] += value(a[i + l]);
    }
  }
  for (int l = 0; i + l < count; ++l) lanes[l] += value(a[i + l]);
  return lane_sum(lanes);
}

template <class In, class Acc>
Acc lane_dot(const In* a, const Acc* w, int64_t count) {
  Acc lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    if constexpr (kWidens<In>) {
      float x[kLanes];
      widen(a + i, x);
      for (int l = 0; l < kLanes; ++l) lanes[l] = fused(w[i + l], x[l], lanes[l]);
    } else {
      for (int l = 0; l < kLanes; ++l) lanes[l] = fused(w[i + l], Acc(value(a[i + l])), lanes[l]);
    }
  }
  for (int l = 0; i + l < count; ++l) lanes[l] = fused(w[i + l], Acc(value(a[i + l])), lanes[l]);
  return lane_sum(lanes);
}

// Sums at the 16 positions from each of the offsets, which stay in registers over all channels.
template <int kVectors, class In, class Acc>
inline void sum_vectors(const In* a, const Acc* w, int64_t K, int64_t Z, const int64_t* offset, Acc* __restrict out) {
  Acc sum[kVectors][kLanes] = {};
  for (int64_t k = 0; k < K; ++k)
    for (int v = 0; v < kVectors; ++v) {
      if constexpr (kWidens<In>) {
        float x[kLanes];
        widen(a + k * Z + offset[v], x);
        for (int l = 0; l < kLanes; ++l) sum[v][l] = fused(w[k], x[l], sum[v][l]);
      } else {
        for (int l = 0; l < kLanes; ++l) sum[v][l] = fused(w[k], Acc(value(a[k * Z + offset[v] + l])), sum[v][l]);
      }
    }
  for (int v = 0; v < kVectors; ++v)
    for (int l = 0; l < kLanes; ++l) out[offset[v] + l] = sum[v][l];
}

// Positions [begin, end).
template <class In, class Acc>
void weighted_sum(const Features& f, const Acc* w, int64_t begin, int64_t end, Acc* __restrict out) {
  const In* a = static_cast<const In*>(f.data);
  if (f.channels_last) {
    for (int64_t z = begin; z < end; ++z) out[z] = lane_dot(a + z * f.K, w, f.K);
    return;
  }
  if (end - begin < kLanes) {
    for (int64_t z = begin; z < end; ++z) out[z] = 0;
    for (int64_t k = 0; k < f.K; ++k)
      for (int64_t z = begin; z < end; ++z) out[z] = fused(w[k], Acc(value(a[k * f.Z + z])), out[z]);
    return;
  }
  // Four vectors of positions at a time, or two at the end.
  for (int64_t z = begin; z < end; z += 4 * kLanes) {
    int64_t offset[4];  // what is beyond the end is done twice instead
    for (int v = 0; v < 4; ++v) offset[v] = smaller(z + v * kLanes, end - kLanes);
    if (end - z > 2 * kLanes)
      sum_vectors<4>(a, w, f.K, f.Z, offset, out);
    else
      sum_vectors<2>(a, w, f.K, f.Z, offset, out);
  }
}

// Weights of channels [begin, end), each from what lies at all positions of its channel.
template <class In, class Acc>
void channel_weights(const Features& f, const In* g, Weighting weighting, Acc eps, int64_t begin, int64_t end,
                     Acc* __restrict sums, Acc* __restrict w) {
  const In* a = static_cast<const In*>(f.data);
  const int64_t K = f.K, Z = f.Z;
  for (int64_t k = begin; k < end; ++k) sums[k] = w[k] = 0;
  if (f.channels_last) {  // vectors along channels, positions in order
    for (int64_t z = 0; z < Z; ++z) {
      const In *az = a + z * K, *gz = g + z * K;
      if (weighting == Weighting::kGradCam)
        for (int64_t k = begin; k < end; ++k) w[k] += value(gz[k]);
      else
        for (int64_t k = begin; k < end; ++k) sums[k] += value(az[k]);
      if (weighting == Weighting::kXGradCam)
        for (int64_t k = begin; k < end; ++k) w[k] = fused(Acc(value(gz[k])), Acc(value(az[k])), w[k]);
    }
    if (weighting == Weighting::kGradCamPlusPlus)
      for (int64_t z = 0; z < Z; ++z)
        for (int64_t k = begin; k < end; ++k) w[k] += plus_plus(Acc(value(g[z * K + k])), sums[k], eps);
  } else {
    for (int64_t k = begin; k < end; ++k) {
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
    for (int64_t k = begin; k < end; ++k) w[k] /= static_cast<Acc>(Z);
  if (weighting == Weighting::kXGradCam)
    for (int64_t k = begin; k < end; ++k) w[k] /= ratio_base(sums[k], eps);
}

// Positions [begin, end).
template <class In, class Acc, class Term>
void elementwise_sum(const Features& f, const In* g, int64_t begin, int64_t end, Acc* __restrict out) {
  const In* a = static_cast<const In*>(f.data);
  if (f.channels_last) {
    for (int64_t z = begin; z < end; ++z) out[z] = lane_reduce<In, Acc, Term>(a + z * f.K, g + z * f.K, f.K);
    return;
  }
  for (int64_t z = begin; z < end; ++z) out[z] = 0;
  for (int64_t k = 0; k < f.K; ++k)
    for (int64_t z = begin; z < end; ++z)
      out[z] = Term::term(Acc(value(a[k * f.Z + z])), Acc(value(g[k * f.Z + z])), out[z]);
}

void class_map(const Features& f, const void* weights, int64_t begin, int64_t end, void* out) {
  with_dtype<Half, BFloat16>(f.dtype, [&](auto type) {
    using In = typename decltype(type)::type;
    using Acc = Accumulator<In>;
    weighted_sum<In>(f, static_cast<const Acc*>(weights), begin, end, static_cast<Acc*>(out));
  });
}

void gradient_weights(const Features& f, const void* gradients, Weighting weighting, double eps, int64_t begin,
                      int64_t end, void* sums, void* weights) {
  with_dtype<Half, BFloat16>(f.dtype, [&](auto type) {
    using In = typename decltype(type)::type;
    using Acc = Accumulator<In>;
    channel_weights(f, static_cast<const In*>(gradients), weighting, static_cast<Acc>(eps), begin, end,
                    static_cast<Acc*>(sums), static_cast<Acc*>(weights));
  });
}

void product_map(const Features& f, const void* gradients, bool positive, int64_t begin, int64_t end, void* out) {
  with_dtype<Half, BFloat16>(f.dtype, [&](auto type) {
    using In = typename decltype(type)::type;
    using Acc = Accumulator<In>;
    const In* g = static_cast<const In*>(gradients);
    if (positive)
      elementwise_sum<In, Acc, PositiveProducts>(f, g, begin, end, static_cast<Acc*>(out));
    else
      elementwise_sum<In, Acc, Products>(f, g, begin, end, static_cast<Acc*>(out));
  });
}

constexpr SumsKernels sums_kernels = {class_map, gradient_weights, product_map};

}  // namespace
}  // namespace fastcam::FASTCAM_SIMD
