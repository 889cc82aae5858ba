// What the SIMD builds of kernels.inl offer to the operators, as plain data and function pointers: nothing from the
// standard library crosses this border, so that no inline function compiled for a newer processor can be linked into
// code that runs on an older one.
#pragma once

#include <cstdint>

#include "../bins.h"
#include "../options.h"

namespace fastcam {

// Geometry of one operator call and the taps of its two axes; filled once, read by every thread.
// Columns are padded to whole words of 64; padding repeats the last column, and masks cut it off.
template <class T>
struct Plan {
  int64_t h, w, H, W;
  int64_t words;   // mask words in a row: ceil(W / 64)
  int64_t stride;  // 64 * words
  bool relu, bicubic;
  int32_t *x0, *x1, *y0, *y1;  // [stride] and [H] sample indices (bilinear)
  T *wx0, *wx1, *wy0, *wy1;    // their weights
  int32_t *cx, *cy;            // [stride], [H] first of four samples (bicubic)
  float *cwx, *cwy;            // [stride, 4], [H, 4] weights
};

constexpr int kOvershoot = 2;  // edges are written in pairs, past their end

// The runs of set pixels in a row of a mask, by the columns where it changes: run i is [edge[2 i], edge[2 i + 1]).
struct Runs {
  int32_t* edge;       // [2 count + kOvershoot]
  int32_t* component;  // [count + kOvershoot]
  uint64_t* bits;      // [words + 1] of the edges
  int32_t* before;     // [words + 1] edges in the words before
};

// x0, y0, -x1, -y1, half-open, so that one vector minimum grows all four.
typedef int32_t Corners __attribute__((vector_size(16)));

struct Component {
  Corners corners;
  int32_t area;      // pixels
  int32_t contour2;  // doubled area of the contour polygon, right where there is no hole
  int32_t links;     // overlapping pairs of runs minus runs: above -1 where there is a hole
  int32_t first_x;   // column of the first pixel in raster order
};

// Work space of one thread.
template <class T>
struct Scratch {
  T* coarse;              // [h, w] after ReLU
  T* rows;                // [h, stride] expanded along x (bilinear)
  double* cubic_rows;     // [h, stride] (bicubic)
  T *high, *low;          // [h, words] extremes of rows, word by word
  T *row_high, *row_low;  // [h] and over whole rows
  T* line;                // [stride] one output row
  uint64_t* mask;         // [H, words]
  Runs runs[2];           // of this row and the one above
  int32_t* joins;         // pairs of components of this row that are one
  int32_t* parent;        // [most_begun + 1] an earlier component that a component is part of; itself at the root
  Component* components;  // [most_begun + 1]
};

// Inclusive extents as x0, y0, ~x1, ~y1, so that one vector minimum grows all four; the other lanes say nothing.
typedef uint16_t Reach __attribute__((vector_size(16)));

// Two sums in one word: size, the doubled area of the contour polygon, right where there is no hole, or pixels of the
// background; and euler4, four times components minus holes, below 4 where there is a hole.
struct Sums {
  int64_t word;
  int32_t euler4() const { return static_cast<int32_t>(word); }
  int64_t size() const { return (word - euler4()) >> 32; }
};

// What grew from one beginning; its component, where it is the root.
struct Region {
  Reach reach;
  Sums sums;
  double iou;      // best of the component's box, where the pass asks for it
  int32_t parent;  // another region that it is part of; itself at the root
  int32_t level;   // that it last grew at
  int32_t place;   // in Levels::live
};

// What adding a pixel does, by the eight neighbours that are there already.
struct Growth {
  Sums sums;
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

// How to choose among the components of a mask.
struct Choice {
  int connectivity;  // 4 or 8
  bool contour;      // largest contour area, last in raster order; else most pixels, first in raster order
};

// Counters of score histograms: so many times one that is not looked at, and one for each bin of both masks.
constexpr int32_t kHistogramCopies = 4;
FASTCAM_HD int32_t histogram_slots(const Bins& bins) { return 1 + 2 * bins.all(); }

// Where the outputs along an axis come from: `most` samples each, from `first` on, with weights that add up to about
// 1 << kResizeBits.
constexpr int kResizeBits = 22;
struct Taps {
  int64_t count;
  int32_t most;
  int64_t* first;   // [count]
  int32_t* weight;  // [count, most]
};

struct Kernels {
  const char* name;
  // out [Z] = sum_k weights[k] * features[k] at positions [begin, end); weights and out are double for double features,
  // else float.
  void (*class_map)(const Features&, const void* weights, int64_t begin, int64_t end, void* out);
  // weights [K] of channels [begin, end); gradients have the features' layout and dtype; sums [K] is work space.
  void (*gradient_weights)(const Features&, const void* gradients, Weighting, double eps, int64_t begin, int64_t end,
                           void* sums, void* weights);
  // out [Z] = sum_k gradients[k] * features[k] at positions [begin, end); positive: of positive gradients only.
  void (*product_map)(const Features&, const void* gradients, bool positive, int64_t begin, int64_t end, void* out);
  // Rows [begin, end) of a heatmap [H, W]; out is T, or uint8 when as_bytes.
  void (*heatmap_float)(const Plan<float>&, Scratch<float>&, const float* coarse, Normalize, bool as_bytes,
                        int64_t begin, int64_t end, void* out);
  void (*heatmap_double)(const Plan<double>&, Scratch<double>&, const double* coarse, Normalize, bool as_bytes,
                         int64_t begin, int64_t end, void* out);
  // boxes [count, 4] of one coarse map at relative thresholds or absolute levels.
  void (*boxes)(const Plan<float>&, Scratch<float>&, const float* coarse, const float* levels, int64_t count,
                bool absolute, Choice, int32_t* out);
  // Labels the mask of bytes [H, W]; returns how many components were begun. Those that are their own parents are the
  // mask's, in raster order.
  int64_t (*components)(const Plan<float>&, Scratch<float>&, const uint8_t* mask, int connectivity);
  void (*growths)(const Levels&);  // fills Levels::growth
  // Sorts the pixels of one map [H, W] by level, for the two that follow.
  void (*sort_levels_float)(const Levels&, const float* map);
  void (*sort_levels_double)(const Levels&, const double* map);
  // Boxes [256, 4] of the largest contour at each level.
  void (*curve)(const Levels&, int32_t* out);
  // Best IoU [256] of any contour's box, holes included, with any of the truth boxes [count, 4].
  void (*contours)(const Levels&, const double* truths, int64_t count, double* out);
  // Pixels in each bin, out [2, bins.all()], where the mask is 0 and where it is 1; other pixels do not count.
  // `counters` is work space of kHistogramCopies * histogram_slots(bins).
  void (*score_histogram_float)(const float* map, const uint8_t* mask, int64_t pixels, const Bins& bins,
                                uint32_t* counters, int64_t* out);
  void (*score_histogram_double)(const double* map, const uint8_t* mask, int64_t pixels, const Bins& bins,
                                 uint32_t* counters, int64_t* out);
  // to [rows, taps.count, 3] of from [rows, *, 3], whose rows are `pitch` bytes apart; a byte after each is read.
  void (*resize_rows)(const uint8_t* from, int64_t pitch, int64_t rows, const Taps&, uint8_t* to);
  // to [taps.count, width] of from [*, width].
  void (*resize_columns)(const uint8_t* from, int64_t width, const Taps&, uint8_t* to);
};

namespace portable {
extern const Kernels kernels;
}
#ifdef __x86_64__
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif

// The fastest build that this processor runs, or the one that FASTCAM_SIMD names (portable, avx2, avx512).
const Kernels& kernels();

}  // namespace fastcam
