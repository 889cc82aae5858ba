// Outer border of one 8-connected component of a mask, followed pixel by pixel, for the area inside it. Shared by CPU
// and CUDA. The polygon runs through pixel centres as in cv2.findContours, so that the doubled area is
// 2 * cv2.contourArea: an integer, the same on every device. Work: one step per border pixel, in which all eight
// neighbours are read at once, since none of these reads has to wait for another.
#pragma once

#include "exact.h"

namespace fastcam {

// The eight neighbours of a pixel as bits, clockwise on the screen from west, made of three rows of three pixels whose
// lowest bit is leftmost.
FASTCAM_HD uint32_t clockwise(uint32_t above, uint32_t here, uint32_t below) {
  return (here & 1) | above << 1 | (here & 4) << 2 | (below & 4) << 3 | (below & 2) << 5 | (below & 1) << 7;
}

// A mask as bits [height, row_words], lowest bit leftmost, zeros behind the last column.
template <class Word>
struct Bits {
  static constexpr int kWide = 8 * sizeof(Word);
  const Word* words;
  int row_words, height;

  FASTCAM_HD uint32_t three(int x, int y) const {  // columns x - 1 to x + 1
    if (y < 0 || y >= height) return 0;
    const Word* row = words + static_cast<int64_t>(y) * row_words;
    const int word = x > 0 ? (x - 1) / kWide : -1, bit = (x - 1) & (kWide - 1);
    const Word left = word >= 0 ? row[word] : 0, right = word + 1 < row_words ? row[word + 1] : 0;
    return static_cast<uint32_t>(left >> bit | right << 1 << (kWide - 1 - bit)) & 7;
  }
  FASTCAM_HD uint32_t around(int x, int y) const { return clockwise(three(x, y - 1), three(x, y), three(x, y + 1)); }
};

// The mask of what reaches a level, at least 1, in bytes with a frame of zeros around them.
struct LevelMask {
  const uint8_t* first;  // pixel (0, 0)
  int pitch, level;

  FASTCAM_HD uint32_t bit(uint8_t q, int place) const { return static_cast<uint32_t>(q >= level) << place; }
  FASTCAM_HD uint32_t around(int x, int y) const {
    const uint8_t *here = first + static_cast<int64_t>(y) * pitch + x, *above = here - pitch, *below = here + pitch;
    return bit(here[-1], 0) | bit(above[-1], 1) | bit(above[0], 2) | bit(above[1], 3) | bit(here[1], 4) |
           bit(below[1], 5) | bit(below[0], 6) | bit(below[-1], 7);
  }
};

// The index of the lowest bit; v is not 0.
FASTCAM_HD int lowest_bit(uint32_t v) {
#ifdef __CUDA_ARCH__
  return __ffs(static_cast<int>(v)) - 1;
#else
  return __builtin_ctz(v);
#endif
}

// (x, y) must be the component's first pixel in raster order.
template <class Mask>
FASTCAM_HD int64_t outer_area2(const Mask& mask, int x, int y) {
  // Steps into the eight directions, plus 1, two bits each.
  constexpr uint32_t kRight = 0x1a90, kDown = 0xa901;
  int cx = x, cy = y, from = 0, first = -1;  // the first pixel has background in the west: the search begins there
  int64_t area2 = 0;
  while (true) {
    // The next set neighbour clockwise, from behind the one that was left: the lowest bit after a rotation.
    const uint32_t neighbours = mask.around(cx, cy), begin = (from + 1) & 7;
    if (neighbours == 0) return 0;  // a single pixel
    const int step = static_cast<int>((begin + lowest_bit((neighbours | neighbours << 8) >> begin)) & 7);
    if (cx == x && cy == y && step == first) break;  // about to repeat the first step: the border is closed
    if (first < 0) first = step;
    const int right = static_cast<int>(kRight >> 2 * step & 3) - 1, down = static_cast<int>(kDown >> 2 * step & 3) - 1;
    area2 += static_cast<int64_t>(cx) * down - static_cast<int64_t>(right) * cy;
    cx += right;
    cy += down;
    from = (step + 4) & 7;  // back to the pixel that was left
  }
  return area2 < 0 ? -area2 : area2;
}

}  // namespace fastcam
