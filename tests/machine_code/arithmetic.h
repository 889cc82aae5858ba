// What single instructions compute in one lane, where C++ has no word for it.
#pragma once

#include <bit>
#include <cfenv>
#include <cmath>
#include <cstdint>
#include <limits>

namespace machine {

inline float to_float(uint32_t v) { return std::bit_cast<float>(v); }
inline uint32_t to_bits(float v) { return std::bit_cast<uint32_t>(v); }
inline double to_double(uint64_t v) { return std::bit_cast<double>(v); }
inline uint64_t to_bits(double v) { return std::bit_cast<uint64_t>(v); }
inline uint64_t pair(uint32_t low, uint32_t high) { return low | static_cast<uint64_t>(high) << 32; }

constexpr uint32_t kNotANumber = 0x7fffffff;  // the one that arithmetic gives

// Subnormal numbers become zeros.
inline float flushed(float v) { return (to_bits(v) & 0x7f800000u) == 0 ? to_float(to_bits(v) & 0x80000000u) : v; }
// To [0, 1]; NaN and -0 become 0.
inline float saturated(float v) { return v > 0 ? (v < 1 ? v : 1.f) : 0.f; }

// f() in another direction of rounding: 0 nearest, 1 down, 2 up, 3 to zero.
template <class F>
auto rounded(int direction, const F& f) {
  constexpr int kDirections[] = {FE_TONEAREST, FE_DOWNWARD, FE_UPWARD, FE_TOWARDZERO};
  std::fesetround(kDirections[direction]);
  volatile auto result = f();
  std::fesetround(FE_TONEAREST);
  return +result;
}

// The smaller or the larger; NaN loses, unless it is to win, and -0 is smaller than 0.
inline float extreme(float a, float b, bool smaller, bool nan) {
  if (a != a || b != b) {
    if (nan || (a != a && b != b)) return to_float(kNotANumber);
    return a != a ? b : a;
  }
  if (a == b) return (to_bits(a) >> 31 != 0) == smaller ? a : b;
  return (a < b) == smaller ? a : b;
}
template <class T>
T extreme(T a, T b, bool smaller) {
  return (a < b) == smaller ? a : b;
}

// Any function of three bits: bit 4a + 2b + c of the table.
inline uint32_t logic(int table, uint32_t a, uint32_t b, uint32_t c) {
  uint32_t result = 0;
  for (int i = 0; i < 8; ++i)
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  return result;
}

inline uint64_t shifted_left(uint64_t v, uint32_t by) { return by > 63 ? 0 : v << by; }
inline uint64_t shifted_right(uint64_t v, uint32_t by) { return by > 63 ? 0 : v >> by; }
inline uint64_t shifted_right(int64_t v, uint32_t by) { return static_cast<uint64_t>(v >> (by > 63 ? 63 : by)); }

// Four bytes out of the eight of a and b, by the selector's digits; a digit's 8 asks for the byte's sign.
inline uint32_t permuted(uint32_t a, uint32_t selector, uint32_t b) {
  const uint64_t bytes = pair(a, b);
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t digit = selector >> 4 * i & 15;
    uint32_t byte = static_cast<uint32_t>(bytes >> 8 * (digit & 7)) & 0xff;
    if (digit & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << 8 * i;
  }
  return result;
}

inline uint32_t reversed(uint32_t v) {
  uint32_t r = 0;
  for (int i = 0; i < 32; ++i) r |= (v >> i & 1) << (31 - i);
  return r;
}
// Place of the leading one, or how far it is from the top; all ones without any.
inline uint32_t leading_one(uint32_t v, bool from_top) {
  if (v == 0) return ~0u;
  const uint32_t zeros = static_cast<uint32_t>(std::countl_zero(v));
  return from_top ? zeros : 31 - zeros;
}

// The device's own are good to one or two units in the last place; what builds on them may not depend on that.
inline float reciprocal(float v) { return flushed(1.f / flushed(v)); }
inline float reciprocal_root(float v) { return v != v ? to_float(kNotANumber) : 1.f / std::sqrt(flushed(v)); }
inline uint32_t reciprocal_high(uint32_t high) {
  return static_cast<uint32_t>(to_bits(1.0 / to_double(pair(0, high))) >> 32);
}
// Whether a division needs the slow path: operands near the ends of the range.
inline bool division_is_hard(float a, float b) {
  const int ea = to_bits(a) >> 23 & 255, eb = to_bits(b) >> 23 & 255;
  return eb == 0 || eb >= 253 || ea == 255 || ea <= 24 || ea - eb > 126 || ea - eb < -125;
}

// To an integer type: NaN becomes 0 (the lowest of 64 bits), what is too large the nearest there is.
template <class T>
T to_integer(double v) {
  constexpr double kLow = static_cast<double>(std::numeric_limits<T>::min());
  constexpr double kHigh = static_cast<double>(std::numeric_limits<T>::max());
  if (v != v) return sizeof(T) == 8 ? static_cast<T>(uint64_t{1} << 63) : T{0};
  if (v >= kHigh) return std::numeric_limits<T>::max();
  if (v <= kLow) return std::numeric_limits<T>::min();
  return static_cast<T>(v);
}
inline double whole(double v, int direction) {
  return direction == 1   ? std::floor(v)
         : direction == 2 ? std::ceil(v)
         : direction == 3 ? std::trunc(v)
                          : std::nearbyint(v);
}
template <class T>
float rounded_up(T v) {
  const float f = static_cast<float>(v);
  return static_cast<__int128>(f) < static_cast<__int128>(v) ? std::nextafter(f, INFINITY) : f;
}

inline float from_half(uint32_t v) {
  const int exponent = v >> 10 & 31, fraction = v & 1023;
  const double magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                           : exponent     ? std::ldexp(1024 + fraction, exponent - 25)
                                          : std::ldexp(fraction, -24);
  return static_cast<float>(v >> 15 & 1 ? -magnitude : magnitude);
}

// The lane that a shuffle reads, and whether it lies in the lane's segment; else the lane itself is read.
enum Shuffle { kIndex, kUp, kDown, kButterfly };
inline bool shuffle_source(int mode, int lane, uint32_t by, uint32_t clamp, int& source) {
  const int b = by & 31, limit = clamp & 31, segment = clamp >> 8 & 31;
  const int highest = (lane & segment) | (limit & ~segment), lowest = lane & segment;
  bool inside;
  if (mode == kUp)
    source = lane - b, inside = source >= highest;
  else if (mode == kDown)
    source = lane + b, inside = source <= highest;
  else if (mode == kButterfly)
    source = lane ^ b, inside = source <= highest;
  else
    source = lowest | (b & ~segment), inside = source <= highest;
  if (!inside) source = lane;
  return inside;
}

}  // namespace machine
