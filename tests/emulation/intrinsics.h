// The part of CUDA C++ that the kernels are written in: barriers, shuffles, votes, atomics, bits, vector and half
// types.
#pragma once

#include "emulation.h"

using emulation::Place;

inline void __syncthreads(Place place = Place::current()) { emulation::meet(emulation::machine.block, true, place); }
inline void __syncwarp(unsigned = 0xffffffffu, Place place = Place::current()) {
  emulation::meet(emulation::machine.warps[threadIdx.x / 32], true, place);
}
inline void __nanosleep(unsigned) {}
// A quotient that may be off by a bit or two, and is on a GPU; here it is, so that nothing can rest on its last bits.
inline float __fdividef(float a, float b) { return a / b * 1.0000002f; }
inline void __threadfence() {
  emulation::acquire(&emulation::machine.fence);
  emulation::release(&emulation::machine.fence);
}

template <class T>
T __shfl_sync(unsigned mask, T v, int from, int width = 32, Place place = Place::current()) {
  const unsigned lane = threadIdx.x % 32;
  return emulation::gather(mask, v, place)[(lane & ~(width - 1)) + (from & (width - 1))];
}
template <class T>
T __shfl_up_sync(unsigned mask, T v, unsigned by, int width = 32, Place place = Place::current()) {
  const unsigned lane = threadIdx.x % 32;
  return emulation::gather(mask, v, place)[(lane & (width - 1)) >= by ? lane - by : lane];
}
template <class T>
T __shfl_down_sync(unsigned mask, T v, unsigned by, int width = 32, Place place = Place::current()) {
  const unsigned lane = threadIdx.x % 32;
  return emulation::gather(mask, v, place)[(lane & (width - 1)) + by < static_cast<unsigned>(width) ? lane + by : lane];
}
template <class T>
T __shfl_xor_sync(unsigned mask, T v, int with, int width = 32, Place place = Place::current()) {
  const unsigned lane = threadIdx.x % 32, from = lane ^ with;
  return emulation::gather(mask, v, place)[from / width <= lane / width ? from : lane];
}
inline unsigned __ballot_sync(unsigned mask, int predicate, Place place = Place::current()) {
  const auto lanes = emulation::gather(mask, predicate != 0, place);
  unsigned votes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) votes |= static_cast<unsigned>(lanes[lane]) << lane;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate, Place place = Place::current()) {
  return __ballot_sync(mask, predicate, place) != 0;
}
inline int __all_sync(unsigned mask, int predicate, Place place = Place::current()) {
  return __ballot_sync(mask, predicate, place) == 0xffffffffu;
}

template <class T, class Op>
T __reduce_sync(unsigned mask, T v, Op op, Place place) {
  const auto lanes = emulation::gather(mask, v, place);
  T result = lanes[0];
  for (unsigned lane = 1; lane < 32; ++lane) result = op(result, static_cast<T>(lanes[lane]));
  return result;
}
template <class T>
T __reduce_min_sync(unsigned mask, T v, Place place = Place::current()) {
  return __reduce_sync(mask, v, [](T a, T b) { return b < a ? b : a; }, place);
}
template <class T>
T __reduce_max_sync(unsigned mask, T v, Place place = Place::current()) {
  return __reduce_sync(mask, v, [](T a, T b) { return b > a ? b : a; }, place);
}
template <class T>
T __reduce_add_sync(unsigned mask, T v, Place place = Place::current()) {
  return __reduce_sync(mask, v, [](T a, T b) { return static_cast<T>(a + b); }, place);
}

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> v) {
  return emulation::update(p, [v](T old) { return old + v; });
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> v) {
  return emulation::update(p, [v](T old) { return v < old ? v : old; });
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> v) {
  return emulation::update(p, [v](T old) { return v > old ? v : old; });
}
template <class T>
T atomicOr(T* p, std::type_identity_t<T> v) {
  return emulation::update(p, [v](T old) { return old | v; });
}
template <class T>
T atomicAnd(T* p, std::type_identity_t<T> v) {
  return emulation::update(p, [v](T old) { return old & v; });
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> v) {
  return emulation::update(p, [v](T) { return v; });
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> v) {
  return emulation::update(p, [=](T old) { return old == expected ? v : old; });
}

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
inline int __clzll(long long v) { return v == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(v)); }
inline unsigned __brev(unsigned v) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (v >> bit & 1) << (31 - bit);
  return reversed;
}
inline unsigned __funnelshift_lc(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) << (shift < 32 ? shift : 32) >> 32);
}
inline int __float_as_int(float v) { return std::bit_cast<int>(v); }
inline float __int_as_float(int v) { return std::bit_cast<float>(v); }
inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
template <class T>
T __ldg(const T* p) {
  return *p;
}

struct alignas(8) int2 {
  int x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) double2 {
  double x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

struct alignas(2) __half {
  uint16_t bits;
};
struct alignas(2) __nv_bfloat16 {
  uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};
struct alignas(4) __nv_bfloat162 {
  __nv_bfloat16 x, y;
};
inline float __half2float(__half v) {
  const unsigned magnitude = v.bits & 0x7fffu;
  const float scaled = __uint_as_float(magnitude << 13) * 0x1p112f;  // exact; Inf and NaN come out as 2^16 and above
  return __uint_as_float(__float_as_uint(scaled) | (magnitude >= 0x7c00u ? 0x7f800000u : 0) | (v.bits & 0x8000u) << 16);
}
inline float __bfloat162float(__nv_bfloat16 v) { return __uint_as_float(static_cast<unsigned>(v.bits) << 16); }
inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {__bfloat162float(v.x), __bfloat162float(v.y)}; }
