// Vectors that are registers of each build, and 8-bit levels of normalised values: quantised() of exact.h for whole
// rows, whose values are read and bytes written once.
#pragma once

#include "simd.h"

namespace fastcam::FASTCAM_SIMD {
namespace {

// What a vector register holds. Longer vectors compilers take to pieces, element by element.
#if defined(FASTCAM_AVX512) || defined(FASTCAM_AVX2)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
template <class T>
using Vector __attribute__((vector_size(kVectorBytes))) = T;

template <class T>
inline Vector<T> load_vector(const T* from) {
  Vector<T> v;
  __builtin_memcpy(&v, from, sizeof(v));
  return v;
}

// Some values at a time, and a loop for each step: of all steps in one, compilers make branches instead of vectors.
template <class T>
inline void quantise(const T* from, int64_t count, uint8_t* __restrict to) {
  constexpr int kBlock = 32;
  T v[kBlock];
  int64_t i = 0;
  for (; i + kBlock <= count; i += kBlock) {
    for (int l = 0; l < kBlock; ++l) v[l] = larger(from[i + l], T(0));  // 0 for NaN
    for (int l = 0; l < kBlock; ++l) v[l] = smaller(v[l], T(1));
    for (int l = 0; l < kBlock; ++l) to[i + l] = static_cast<uint8_t>(static_cast<int32_t>(T(255) * v[l]));
  }
  for (; i < count; ++i) to[i] = quantised(from[i]);
}

}  // namespace
}  // namespace fastcam::FASTCAM_SIMD
