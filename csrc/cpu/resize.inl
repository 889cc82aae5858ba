// Pictures in another size, by Pillow's arithmetic to the bit: whole-number weights of 22 bits, one axis after the
// other, rounded to bytes between. Every output has the same number of taps, so that no branch depends on the place.
// Along rows a pixel's three channels (and a fourth lane that nobody reads) are one vector, four rows at a time, which
// share weights; along columns 32 bytes of a row are done together, whatever channel they are. A call does one axis of
// one picture. Traffic: the picture once, and what is between the passes twice. All integers, hence the same bits in
// any build. The rounded weights of millions of samples can add up to more than one: hence the limit.
#pragma once

#include "resize.h"
#include "simd.h"

namespace fastcam::FASTCAM_SIMD {
namespace {

// Sums begin with a half, so that cutting off the fraction rounds.
constexpr int32_t kHalf = 1 << (kResizeBits - 1);
constexpr int64_t kResizeRows = 4;

inline uint8_t resized(int32_t sum) {
  return static_cast<uint8_t>(sum >> kResizeBits < 255 ? sum >> kResizeBits : 255);
}

// Some rows, pixel by pixel: to [kRows, taps.count, 3].
template <int64_t kRows>
inline void resize_group(const uint8_t* from, int64_t pitch, const Taps& taps, uint8_t* to, int64_t to_pitch) {
  for (int64_t x = 0; x < taps.count; ++x) {
    const uint8_t* p = from + 3 * taps.first[x];
    const int32_t* weight = taps.weight + x * taps.most;
#if defined(FASTCAM_AVX2) || defined(FASTCAM_AVX512)
    __m128i sum[kRows];  // red, green, blue and the byte behind them, of each row
    for (int64_t r = 0; r < kRows; ++r) sum[r] = _mm_set1_epi32(kHalf);
    for (int32_t i = 0; i < taps.most; ++i, p += 3) {
      const __m128i w = _mm_set1_epi32(weight[i]);
      for (int64_t r = 0; r < kRows; ++r) {  // four bytes to four whole numbers, times the sample's weight
        int pixel;
        __builtin_memcpy(&pixel, p + r * pitch, 4);
        sum[r] = _mm_add_epi32(sum[r], _mm_mullo_epi32(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(pixel)), w));
      }
    }
    // Back to bytes. Weights are not negative, so that there is only an upper limit. Three bytes are stored, since the
    // fourth would be the next pixel's.
    const __m128i bytes = _mm_setr_epi8(0, 4, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    for (int64_t r = 0; r < kRows; ++r) {
      const __m128i value = _mm_min_epi32(_mm_srai_epi32(sum[r], kResizeBits), _mm_set1_epi32(255));
      const int pixel = _mm_cvtsi128_si32(_mm_shuffle_epi8(value, bytes));
      for (int c = 0; c < 3; ++c) to[r * to_pitch + 3 * x + c] = static_cast<uint8_t>(pixel >> (8 * c));
    }
#else
    for (int64_t r = 0; r < kRows; ++r) {
      const uint8_t* q = p + r * pitch;
      int32_t sum[3] = {kHalf, kHalf, kHalf};
      for (int32_t i = 0; i < taps.most; ++i, q += 3)
        for (int c = 0; c < 3; ++c) sum[c] += q[c] * weight[i];
      for (int c = 0; c < 3; ++c) to[r * to_pitch + 3 * x + c] = resized(sum[c]);
    }
#endif
  }
}

// to [rows, taps.count, 3] of from [rows, *, 3], whose rows are `pitch` bytes apart; one byte after each is read.
void resize_rows(const uint8_t* from, int64_t pitch, int64_t rows, const Taps& taps, uint8_t* to) {
  const int64_t to_pitch = 3 * taps.count;
  int64_t y = 0;
  for (; y + kResizeRows <= rows; y += kResizeRows)
    resize_group<kResizeRows>(from + y * pitch, pitch, taps, to + y * to_pitch, to_pitch);
  for (; y < rows; ++y) resize_group<1>(from + y * pitch, pitch, taps, to + y * to_pitch, to_pitch);
}

// to [taps.count, width] of from [*, width], bytes.
void resize_columns(const uint8_t* from, int64_t width, const Taps& taps, uint8_t* to) {
  constexpr int64_t kBlock = 32;  // bytes whose sums stay in registers over all taps
  for (int64_t y = 0; y < taps.count; ++y, to += width) {
    const uint8_t* p = from + taps.first[y] * width;
    const int32_t* weight = taps.weight + y * taps.most;
    int64_t x = 0;
    for (; x + kBlock <= width; x += kBlock) {
      int32_t sum[kBlock];
      for (int64_t l = 0; l < kBlock; ++l) sum[l] = kHalf;
      for (int32_t i = 0; i < taps.most; ++i) {
        const uint8_t* q = p + i * width + x;
        const int32_t w = weight[i];
        for (int64_t l = 0; l < kBlock; ++l) sum[l] += q[l] * w;
      }
      for (int64_t l = 0; l < kBlock; ++l) to[x + l] = resized(sum[l]);
    }
    for (; x < width; ++x) {
      int32_t sum = kHalf;
      for (int32_t i = 0; i < taps.most; ++i) sum += p[i * width + x] * weight[i];
      to[x] = resized(sum);
    }
  }
}

constexpr ResizeKernels resize_kernels = {resize_rows, resize_columns};

}  // namespace
}  // namespace fastcam::FASTCAM_SIMD
