// From a coarse map to the box of its largest component: the bits of its mask, their components (components.inl), and
// the choice among these. The picture is not made for it: most words of 64 pixels are all ones or all zeros by the
// bounds of the two expanded rows that they lie between, and the others become bits as they are computed. A call does
// one map, at some thresholds in turn. Traffic: the coarse map, and work space that stays in the cache. Bits have one
// exact value, and all that follows is integers.
#pragma once

#include "../contour.h"
#include "boxes.h"
#include "components.inl"
#include "heatmap.inl"

namespace fastcam::FASTCAM_SIMD {
namespace {

// Bits of 32 pixels: lerp(w0, r0, w1, r1) >= cut. NaN is not.
inline uint32_t mask_half(const float* r0, const float* r1, float w0, float w1, float cut) {
#if defined(FASTCAM_AVX512)
  const __m512 a = _mm512_set1_ps(w0), b = _mm512_set1_ps(w1), c = _mm512_set1_ps(cut);
  const auto reached = [&](int i) __attribute__((always_inline)) {
    const __m512 right = _mm512_mul_ps(b, _mm512_loadu_ps(r1 + i));
    return _mm512_cmp_ps_mask(_mm512_fmadd_ps(a, _mm512_loadu_ps(r0 + i), right), c, _CMP_GE_OQ);
  };
  return static_cast<uint32_t>(reached(0)) | static_cast<uint32_t>(reached(16)) << 16;
#elif defined(FASTCAM_AVX2)
  const __m256 a = _mm256_set1_ps(w0), b = _mm256_set1_ps(w1), c = _mm256_set1_ps(cut);
  const auto reached = [&](int i) __attribute__((always_inline)) {
    const __m256 right = _mm256_mul_ps(b, _mm256_loadu_ps(r1 + i));
    return _mm256_castps_si256(_mm256_cmp_ps(_mm256_fmadd_ps(a, _mm256_loadu_ps(r0 + i), right), c, _CMP_GE_OQ));
  };
  // Packing takes halves of registers in turn: four bytes of each of the four, and four again, to be put in order.
  const __m256i low = _mm256_packs_epi32(reached(0), reached(8)), high = _mm256_packs_epi32(reached(16), reached(24));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  const __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
  return static_cast<uint32_t>(_mm256_movemask_epi8(bytes));
#else
  uint32_t bits = 0;
  for (int i = 0; i < 32; ++i) bits |= static_cast<uint32_t>(lerp(w0, r0[i], w1, r1[i]) >= cut) << i;
  return bits;
#endif
}

// Bits of a word's columns that are in the picture, not padding.
inline uint64_t columns_in(int64_t W, int64_t word) {
  const int64_t left = W - 64 * word;
  return left >= 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
}

// The mask of pixels that reach the cut.
void threshold(const Upsampling<float>& u, Surface<float>& s, Room& room, float cut) {
  const uint64_t first = 0xffffffff, halves[4] = {0, first, first << 32, first << 32 | first};
  const int64_t words = u.words, stride = u.stride, bounds = u.bounds;
  const uint64_t last = columns_in(u.W, words - 1);
  static const float kZeros[32] = {};  // what a row is mixed with that is complete: 0 times an infinity would be NaN
  for (int64_t y = 0; y < u.H; ++y) {
    uint64_t* row = room.mask + y * words;
    const auto put = [&](int64_t half, uint64_t bits) { row[half / 2] |= bits << (32 * (half % 2)); };
    if (u.bicubic) {  // no bounds: a cubic may overshoot. The row is made and compared.
      output_row(u, s, y, 0, stride, s.line);
      for (int64_t word = 0; word < words; ++word) row[word] = 0;
      for (int64_t half = 0; half < 2 * words; ++half)
        put(half, mask_half(s.line + 32 * half, kZeros, 1.0f, 0.0f, cut));
    } else {
      // Rounding is monotone, so that the mix of two upper bounds bounds every mix of what is below them.
      const int64_t a = u.y0[y], b = u.y1[y];
      const float w0 = u.wy0[y], w1 = u.wy1[y];
      for (int64_t word = 0; word < words; word += 4) {
        const int64_t i = a * bounds + 2 * word, j = b * bounds + 2 * word;
        const uint32_t some = bounds_reach<true>(s.high + i, s.high + j, w0, w1, cut);
        const uint32_t all = bounds_reach<true>(s.low + i, s.low + j, w0, w1, cut);
        for (int k = 0; k < 4; ++k) row[word + k] = halves[all >> (2 * k) & 3];
        for (uint32_t open = some & ~all; open; open &= open - 1) {
          const int64_t half = 2 * word + __builtin_ctz(open);
          put(half, mask_half(s.rows + a * stride + 32 * half, s.rows + b * stride + 32 * half, w0, w1, cut));
        }
      }
    }
    row[words - 1] &= last;
  }
}

// Doubled area inside a component's outer border: at most this, without following it.
inline int64_t area2_bound(const Component& c) {
  const int64_t across = -c.corners[2] - c.corners[0] - 1, down = -c.corners[3] - c.corners[1] - 1;
  return c.links > -1 ? 2 * across * down : c.contour2;
}

// The component with the largest area inside its outer border, the last in raster order where they tie. Borders are
// followed only of components with holes, and only where more than one component can win.
const Component* largest_contour(const Room& room, int64_t begun) {
  // The winner has at least the largest area of all without what is inside their holes; mostly one can reach it.
  int64_t least = -1, candidates = 0;
  for (int64_t i = 0; i < begun; ++i)
    if (room.parent[i] == i) least = larger<int64_t>(room.components[i].contour2, least);
  const Component* winner = nullptr;
  for (int64_t i = 0; i < begun; ++i) {
    if (room.parent[i] != i || area2_bound(room.components[i]) < least) continue;
    winner = room.components + i;
    ++candidates;
  }
  if (candidates <= 1) return winner;
  int64_t best = least;
  const Bits<uint64_t> mask{room.mask, static_cast<int>(room.words), static_cast<int>(room.H)};
  for (int64_t i = 0; i < begun; ++i) {
    const Component& c = room.components[i];
    if (room.parent[i] != i || area2_bound(c) < best) continue;
    const int64_t area2 = c.links == -1 ? c.contour2 : outer_area2(mask, c.first_x, c.corners[1]);
    if (area2 >= best) best = area2, winner = &c;
  }
  return winner;
}

// The component with most pixels, the first in raster order where they tie.
const Component* most_pixels(const Room& room, int64_t begun) {
  int64_t best = -1;
  const Component* winner = nullptr;
  for (int64_t i = 0; i < begun; ++i)
    if (room.parent[i] == i && room.components[i].area > best)
      best = room.components[i].area, winner = room.components + i;
  return winner;
}

// Labels the mask and writes the chosen component's box, half-open; zeros without one.
void largest_box(Room& room, Choice choice, int32_t* out) {
  const int32_t reach = choice.connectivity == 8 ? 1 : 0;
  const int64_t begun = choice.contour ? label_mask<true>(room, reach) : label_mask<false>(room, reach);
  const Component* winner = choice.contour ? largest_contour(room, begun) : most_pixels(room, begun);
  const Corners corners = winner ? winner->corners : Corners{};
  out[0] = corners[0];
  out[1] = corners[1];
  out[2] = -corners[2];
  out[3] = -corners[3];
}

// Zeros for a map that is constant or not finite, and where nothing is above the threshold.
void boxes(const Upsampling<float>& u, Surface<float>& s, Room& room, const float* coarse, const float* levels,
           int64_t count, bool absolute, Choice choice, int32_t* out) {
  bool usable = load_coarse(u, s, coarse);
  float low = 0, high = 0;
  if (usable) {
    expand_rows(u, s);
    if (!absolute) {
      extremes(u, s, low, high);
      usable = finite(high - low) && high > low;
    } else if (!u.bicubic) {
      bound_rows(u, s);
    }
  }
  for (int64_t t = 0; t < count; ++t, out += 4) {
    const float cut = !usable ? INFINITY : absolute ? above(levels[t]) : cutoff(low, high, levels[t]);
    if (cut == INFINITY) {
      out[0] = out[1] = out[2] = out[3] = 0;
      continue;
    }
    threshold(u, s, room, cut);
    largest_box(room, choice, out);
  }
}

constexpr BoxesKernels boxes_kernels = {boxes};

}  // namespace
}  // namespace fastcam::FASTCAM_SIMD
