// What the SIMD builds of kernels.inl offer to the operators, as plain data and function pointers: nothing from the
// standard library crosses this border, so that no inline function compiled for a newer processor can be linked into
// code that runs on an older one.
#pragma once

#include <cstdint>

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

// Columns [start, end) of a row of a mask.
struct Run {
  int32_t start, end, component;
};

struct Component {
  int32_t parent;          // an earlier component that it is part of; itself at the root
  int32_t x0, y0, x1, y1;  // half-open
  int32_t first_x;         // column of the first pixel in raster order, which is in row y0
  int32_t area;            // pixels
  int32_t contour2;        // doubled area of the contour polygon, right where there is no hole
  int32_t links;           // overlapping pairs of runs minus runs: above -1 where there is a hole
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
  Run* runs[2];           // [W / 2 + 1] of this row and the one above
  Component* components;  // [H * (W / 2 + 1)]
};

// A component of the mask q >= level. Pixels are packed as y << 16 | x.
struct Blob {
  int32_t parent;
  int32_t x0, y0, x1, y1;  // half-open
  int32_t contour2;        // doubled area of the contour polygon, right where there is no hole
  int32_t euler4;          // four times components minus holes: below 4 where there is a hole
  uint32_t first;          // first pixel in raster order
};

// Work space of a curve. Pixel arrays have a border of one pixel: rows of `pitch` elements, pixel (0, 0) at [pitch +
// 1].
struct Levels {
  int64_t H, W, pitch;
  int64_t offset[8];    // of the neighbours: north-west, north, north-east, west, east, south-west, south, south-east
  uint8_t* q;           // 8-bit levels, 0 on the border
  uint8_t* neighbours;  // bits of the neighbours that are added before a pixel
  int32_t* label;       // blob of a pixel, valid once it is added
  uint32_t* order;      // pixels from the brightest level down, in raster order within a level
  Blob* blobs;          // [ceil(H / 2) * ceil(W / 2)]: beginnings are no neighbours
  int32_t* live;        // as many: the roots, and blobs that have merged since the last level
};

// How to choose among the components of a mask.
struct Choice {
  int connectivity;  // 4 or 8
  bool contour;      // largest contour area, last in raster order; else most pixels, first in raster order
};

struct Kernels {
  const char* name;
  // out [Z] = sum_k weights[k] * features[k]; weights and out are double for double features, else float.
  void (*class_map)(const Features&, const void* weights, void* out);
  // out [Z] before ReLU; gradients have the features' layout and dtype; workspace [2 * K] of the dtype of out.
  void (*gradient_map)(const Features&, const void* gradients, Weighting, double eps, void* workspace, void* out);
  // Heatmap [H, W]; out is T, or uint8 when as_bytes.
  void (*heatmap_float)(const Plan<float>&, Scratch<float>&, const float* coarse, Normalize, bool as_bytes, void* out);
  void (*heatmap_double)(const Plan<double>&, Scratch<double>&, const double* coarse, Normalize, bool as_bytes,
                         void* out);
  // boxes [count, 4] of one coarse map at relative thresholds or absolute levels.
  void (*boxes)(const Plan<float>&, Scratch<float>&, const float* coarse, const float* levels, int64_t count,
                bool absolute, Choice, int32_t* out);
  // Labels the mask of bytes [H, W]; returns how many components were begun.
  int64_t (*components)(const Plan<float>&, Scratch<float>&, const uint8_t* mask, int connectivity);
  // curve [256, 4] of one map [H, W].
  void (*curve_float)(const Levels&, const float* map, int32_t* out);
  void (*curve_double)(const Levels&, const double* map, int32_t* out);
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
