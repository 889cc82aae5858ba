// Outer border of one 8-connected component in a bit mask, followed pixel by pixel, for the area inside it. Shared by
// CPU and CUDA. The polygon runs through pixel centres as in cv2.findContours, so that the doubled area is
// 2 * cv2.contourArea: an integer, the same on every device. Work: one step per border pixel.
#pragma once

#include "exact.h"

namespace fastcam {

// Bits of a mask [height, row_words], 64 columns a word, lowest bit leftmost.
struct Bits {
  const uint64_t* words;
  int64_t row_words;
  FASTCAM_HD bool operator()(int x, int y) const { return words[y * row_words + (x >> 6)] >> (x & 63) & 1; }
};

// set(x, y) tells whether a pixel is set; (x, y) must be the component's first pixel in raster order.
template <class Set>
FASTCAM_HD int64_t outer_area2(const Set& set, int width, int height, int x, int y) {
  // Clockwise on the screen from west, the side on which the first pixel has background.
  const int dx[8] = {-1, -1, 0, 1, 1, 1, 0, -1};
  const int dy[8] = {0, -1, -1, -1, 0, 1, 1, 1};
  int cx = x, cy = y, from = 0, first = -1;
  int64_t area2 = 0;
  while (true) {
    int step = -1;
    for (int turn = 1; turn <= 8; ++turn) {
      const int d = (from + turn) & 7, nx = cx + dx[d], ny = cy + dy[d];
      if (nx < 0 || ny < 0 || nx >= width || ny >= height) continue;
      if (set(nx, ny)) {
        step = d;
        break;
      }
    }
    if (step < 0) return 0;                          // a single pixel
    if (cx == x && cy == y && step == first) break;  // about to repeat the first step: the border is closed
    if (first < 0) first = step;
    const int nx = cx + dx[step], ny = cy + dy[step];
    area2 += static_cast<int64_t>(cx) * ny - static_cast<int64_t>(nx) * cy;
    cx = nx;
    cy = ny;
    from = (step + 4) & 7;  // search on from the pixel that was left
  }
  return area2 < 0 ? -area2 : area2;
}

}  // namespace fastcam
