// The arithmetic that CPU and CUDA share bit for bit: where an output pixel lies between coarse samples, and how they
// are mixed. Every operation here is rounded on its own except where fma stands, which needs a build without
// contraction (-ffp-contract=off, -fmad=false). Both backends, and the tests' NumPy twin, follow these lines.
#pragma once

#include <cmath>
#include <cstdint>

#ifdef __CUDACC__
#define FASTCAM_HD __host__ __device__ __forceinline__
#else
#define FASTCAM_HD inline __attribute__((always_inline))
#endif

namespace fastcam {

template <class T>
FASTCAM_HD T smaller(T a, T b) {
  return a < b ? a : b;
}

template <class T>
FASTCAM_HD T larger(T a, T b) {
  return a > b ? a : b;
}

FASTCAM_HD float fused(float a, float b, float c) {
#ifdef __CUDA_ARCH__
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

FASTCAM_HD double fused(double a, double b, double c) {
#ifdef __CUDA_ARCH__
  return __fma_rn(a, b, c);
#else
  return __builtin_fma(a, b, c);
#endif
}

// Bilinear, align_corners=False: output i lies between samples i0 and i1 with weights w0 and w1.
template <class T>
struct Linear {
  int32_t i0, i1;
  T w0, w1;
};

// Index: what the processor at hand counts in; i, in and out fit in any case.
template <class T, class Index = int64_t>
FASTCAM_HD Linear<T> linear(Index i, Index in, Index out) {
  const T scale = static_cast<T>(in) / static_cast<T>(out);
  const T scaled = scale * (static_cast<T>(i) + T(0.5));
  const T shifted = scaled - T(0.5);
  const T r = shifted > T(0) ? shifted : T(0);
  const Index floor = static_cast<Index>(r);
  const Index i0 = floor < in - 1 ? floor : in - 1;
  const Index i1 = i0 + 1 < in - 1 ? i0 + 1 : in - 1;
  const T w1 = r - static_cast<T>(i0);
  return {static_cast<int32_t>(i0), static_cast<int32_t>(i1), T(1) - w1, w1};
}

template <class T>
FASTCAM_HD T lerp(T w0, T a, T w1, T b) {
  const T right = w1 * b;
  return fused(w0, a, right);
}

// Bicubic as OpenCV's INTER_CUBIC: Keys' kernel with A = -0.75, float32 weights, clamped edges. The first of the four
// samples is i; indices outside the map are clamped by the reader.
struct Cubic {
  int32_t i;
  float w[4];
};

FASTCAM_HD Cubic cubic(int64_t i, int64_t in, int64_t out) {
  const double scale = 1.0 / (static_cast<double>(out) / static_cast<double>(in));
  const float position = static_cast<float>((static_cast<double>(i) + 0.5) * scale - 0.5);
  const float base = floorf(position);
  const float t = position - base, u = 1.0f - t, far = t + 1.0f, A = -0.75f;
  Cubic c;
  c.i = static_cast<int32_t>(base) - 1;
  c.w[0] = ((A * far - 5.0f * A) * far + 8.0f * A) * far - 4.0f * A;
  c.w[1] = ((A + 2.0f) * t - (A + 3.0f)) * t * t + 1.0f;
  c.w[2] = ((A + 2.0f) * u - (A + 3.0f)) * u * u + 1.0f;
  c.w[3] = 1.0f - c.w[0] - c.w[1] - c.w[2];
  return c;
}

FASTCAM_HD int64_t clamped(int64_t i, int64_t count) { return i < 0 ? 0 : i < count ? i : count - 1; }

// Four samples under float32 weights, summed from the left in double.
FASTCAM_HD double mix4(const float w[4], double a, double b, double c, double d) {
  const double p0 = a * w[0], p1 = b * w[1], p2 = c * w[2], p3 = d * w[3];
  return ((p0 + p1) + p2) + p3;
}

// ReLU that keeps NaN and turns -0 into 0, so that minimum and maximum have one bit pattern.
template <class T>
FASTCAM_HD T rectified(T v, bool relu) {
  return (relu && v < T(0) ? T(0) : v) + T(0);
}

template <class T>
FASTCAM_HD bool finite(T v) {
  return v - v == T(0);
}

template <class T>
FASTCAM_HD T normalised(T v, T low, T range) {
  const T offset = v - low;
  return offset / range + T(0);
}

// 8-bit level of a normalised value, truncated; what lies outside [0, 1] saturates and NaN gives 0.
template <class T>
FASTCAM_HD uint8_t quantised(T v) {
  const T positive = v > T(0) ? v : T(0), most_one = positive < T(1) ? positive : T(1);
  return static_cast<uint8_t>(static_cast<int32_t>(T(255) * most_one));
}

// Floats in their order as integers, for the bisection in cutoff().
FASTCAM_HD int32_t ordered(float v) {
  union {
    float f;
    int32_t i;
  } u{v};
  return u.i >= 0 ? u.i : static_cast<int32_t>(0x80000000u - static_cast<uint32_t>(u.i));
}

FASTCAM_HD float unordered(int32_t i) {
  union {
    int32_t i;
    float f;
  } u{i >= 0 ? i : static_cast<int32_t>(0x80000000u - static_cast<uint32_t>(i))};
  return u.f;
}

// The smallest float v in [low, high] with (v - low) / (high - low) > threshold, or +infinity when there is none.
// Subtraction and division are monotone, so that one comparison with this value replaces both for every pixel.
FASTCAM_HD float cutoff(float low, float high, float threshold) {
  const float range = high - low;
  if (!(normalised(high, low, range) > threshold)) return INFINITY;
  int64_t fails = static_cast<int64_t>(ordered(low)) - 1, passes = ordered(high);
  while (passes - fails > 1) {
    const int64_t middle = fails + (passes - fails) / 2;
    if (normalised(unordered(static_cast<int32_t>(middle)), low, range) > threshold)
      passes = middle;
    else
      fails = middle;
  }
  return unordered(static_cast<int32_t>(passes));
}

// The smallest float above an absolute level: v > level is v >= above(level). NaN gives +infinity: nothing passes.
FASTCAM_HD float above(float level) {
  if (!(level < INFINITY)) return INFINITY;
  return level == -INFINITY ? -INFINITY : unordered(ordered(level == 0 ? 0.0f : level) + 1);
}

}  // namespace fastcam
