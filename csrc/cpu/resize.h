// Pictures in another size (resize.inl): the taps of both axes, and the two passes in either order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "memory.h"

namespace fastcam {

// Where the outputs along an axis come from: `most` samples each, from `first` on, with weights that add up to about
// 1 << kResizeBits.
constexpr int kResizeBits = 22;
struct Taps {
  int64_t count;
  int32_t most;
  int64_t* first;   // [count]
  int32_t* weight;  // [count, most]
};

struct ResizeKernels {
  // to [rows, taps.count, 3] of from [rows, *, 3], whose rows are `pitch` bytes apart; a byte after each is read.
  void (*resize_rows)(const uint8_t* from, int64_t pitch, int64_t rows, const Taps&, uint8_t* to);
  // to [taps.count, width] of from [*, width].
  void (*resize_columns)(const uint8_t* from, int64_t width, const Taps&, uint8_t* to);
};

// Taps of outputs [begin, begin + count) of an axis of `in` pixels that becomes one of `out`. Pillow's
// precompute_coeffs and normalize_coeffs_8bpc with its bilinear filter, a triangle that widens as the axis shrinks;
// then moved so that all have equally many taps within the axis.
inline Taps resize_taps(Arena& arena, int64_t in, int64_t out, int64_t begin, int64_t count) {
  const double scale = static_cast<double>(in) / static_cast<double>(out), support = scale < 1.0 ? 1.0 : scale;
  const double inverse = 1.0 / support;
  const int64_t size = 2 * static_cast<int64_t>(std::ceil(support)) + 1;
  int64_t* first = arena.array<int64_t>(count);
  int64_t* taps = arena.array<int64_t>(count);
  double* value = arena.array<double>(size);
  int64_t most = 1;
  for (int64_t i = 0; i < count; ++i) {
    const double centre = (static_cast<double>(begin + i) + 0.5) * scale;
    first[i] = std::max<int64_t>(static_cast<int64_t>(centre - support + 0.5), 0);
    taps[i] = std::min<int64_t>(static_cast<int64_t>(centre + support + 0.5), in) - first[i];
    most = std::max(most, taps[i]);
  }
  int32_t* weight = arena.array<int32_t>(count * most);
  for (int64_t i = 0; i < count; ++i) {
    const double centre = (static_cast<double>(begin + i) + 0.5) * scale;
    double total = 0.0;
    for (int64_t k = 0; k < taps[i]; ++k) {
      const double place = std::fabs((static_cast<double>(k + first[i]) - centre + 0.5) * inverse);
      value[k] = place < 1.0 ? 1.0 - place : 0.0;
      total += value[k];
    }
    const int64_t moved = std::max<int64_t>(first[i] + most - in, 0);
    int32_t* own = weight + i * most;
    for (int64_t k = 0; k < most; ++k) own[k] = 0;
    for (int64_t k = 0; k < taps[i]; ++k) {
      const double share = total != 0.0 ? value[k] / total : value[k];
      own[k + moved] = static_cast<int32_t>(0.5 + share * (1 << kResizeBits));
    }
    first[i] -= moved;
  }
  return {count, static_cast<int32_t>(most), first, weight};
}

// The part of a picture [H, W, 3] in size height x width that begins at (top, left): out [rows, columns, 3].
inline void resize_picture(const ResizeKernels& k, const uint8_t* from, int64_t H, int64_t W, int64_t height,
                           int64_t width, int64_t top, int64_t left, int64_t rows, int64_t columns, bool columns_first,
                           uint8_t* out) {
  Arena arena(true);
  const int64_t pitch = 3 * W;
  const Taps across = resize_taps(arena, W, width, left, columns), down = resize_taps(arena, H, height, top, rows);
  const int64_t begin = down.first[0], end = down.first[rows - 1] + down.most;
  for (int64_t y = 0; y < rows; ++y) down.first[y] -= begin;
  if (columns_first) {
    uint8_t* low = arena.array<uint8_t>(rows * pitch + 1);
    k.resize_columns(from + begin * pitch, pitch, down, low);
    k.resize_rows(low, pitch, rows, across, out);
  } else {
    uint8_t* narrow = arena.array<uint8_t>((end - begin) * 3 * columns);
    uint8_t* last = arena.array<uint8_t>(pitch + 1);  // the picture's memory ends with its last row
    std::memcpy(last, from + (end - 1) * pitch, static_cast<size_t>(pitch));
    k.resize_rows(from + begin * pitch, pitch, end - begin - 1, across, narrow);
    k.resize_rows(last, pitch, 1, across, narrow + (end - begin - 1) * 3 * columns);
    k.resize_columns(narrow, 3 * columns, down, out);
  }
}

}  // namespace fastcam
