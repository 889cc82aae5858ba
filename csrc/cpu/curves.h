// Contours at all 8-bit levels (curves.inl): what a pass over the pixels keeps of each region.
#pragma once

#include "memory.h"
#include "simd.h"

namespace fastcam {

// Inclusive extents as x0, y0, ~x1, ~y1, so that one vector minimum grows all four; the other lanes say nothing.
typedef uint16_t Extents __attribute__((vector_size(16)));

// Two sums in one word: size, the doubled area of the contour polygon, right where there is no hole, or pixels of the
// background; and euler4, four times components minus holes, below 4 where there is a hole.
struct Measure {
  int64_t word;
  FASTCAM_HD int32_t euler4() const { return static_cast<int32_t>(word); }
  FASTCAM_HD int64_t size() const { return (word - euler4()) >> 32; }
};

// What grew from one beginning; its component, where it is the root.
struct Region {
  Extents extents;
  Measure measure;
  double iou;      // best of the component's box, where the pass asks for it
  int32_t parent;  // another region that it is part of; itself at the root
  int32_t level;   // that it last grew at
  int32_t place;   // in Levels::live
};

// What adding a pixel does, by the eight neighbours that are there already.
struct Growth {
  Measure measure;
  int32_t offset;  // of a neighbour whose region grows
  int32_t groups;  // of neighbours that are connected without the pixel
};

// Work space of curves. Pixel arrays have a border of one pixel: rows of `pitch` elements, pixel (0, 0) at [pitch + 1].
struct Levels {
  int64_t H, W, pitch;
  int64_t offset[8];      // of the neighbours: north-west, north, north-east, west, east, south-west, south, south-east
  Growth* growth[2];      // [256] of the mask, and of the background
  int64_t* count;         // [256] pixels of each level
  uint8_t* q;             // 8-bit levels, 0 on the border
  uint8_t* neighbours;    // bits of the neighbours that are added to the mask before a pixel
  int32_t* label;         // region of a pixel, valid once it is added
  void* order;            // pixels from the brightest level down, in raster order within a level
  Region* regions;        // as many as pixels can begin one
  int32_t *live, *grown;  // as many: the roots, and the regions that grew at this level
};

// Sorts the pixels of one map [H, W] by level, for the kernels that follow.
template <class T>
using SortLevels = void(const Levels&, const T* map);

struct CurvesKernels {
  void (*growths)(const Levels&);  // fills Levels::growth
  FloatOrDouble<SortLevels> sort_levels;
  // Boxes [256, 4] of the largest contour at each level.
  void (*curve)(const Levels&, int32_t* out);
  // Best IoU [256] of any contour's box, holes included, with any of the truth boxes [count, 4].
  void (*contours)(const Levels&, const double* truths, int64_t count, double* out);
};

// background: room for passes over the background too.
inline Levels make_levels(Arena& arena, const CurvesKernels& kernels, int64_t H, int64_t W, bool background) {
  Levels l{};
  l.H = H, l.W = W, l.pitch = (W + 63) / 64 * 64 + 2;
  int64_t* next = l.offset;
  for (int64_t dy = -1; dy <= 1; ++dy)
    for (int64_t dx = -1; dx <= 1; ++dx)
      if (dy != 0 || dx != 0) *next++ = dy * l.pitch + dx;
  const int64_t bordered = l.pitch * (H + 2);
  // Beginnings are no neighbours of each other; the background has few neighbours, and a frame.
  const int64_t most = background ? (H * W + 1) / 2 + 1 : ((H + 1) / 2) * ((W + 1) / 2);
  for (Growth*& g : l.growth) g = arena.array<Growth>(256);
  l.count = arena.array<int64_t>(256);
  l.q = arena.array<uint8_t>(bordered + 64), l.neighbours = arena.array<uint8_t>(bordered);
  l.label = arena.array<int32_t>(bordered);
  l.order = H <= 4096 && W <= 4096 ? arena.array<uint32_t>(H * W) : static_cast<void*>(arena.array<uint64_t>(H * W));
  l.regions = arena.array<Region>(most);
  l.live = arena.array<int32_t>(most), l.grown = arena.array<int32_t>(most + 1);
  kernels.growths(l);
  return l;
}

}  // namespace fastcam
