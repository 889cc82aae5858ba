// Components of masks (components.inl): runs of set pixels, and what they add up to.
#pragma once

#include "memory.h"
#include "simd.h"

namespace fastcam {

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

// The runs of a row that were kept, for what is to be painted or filled.
struct Row {
  const int32_t *edge, *component;  // as those of Runs; the row above's where the two are alike
  int32_t edges;                    // how many
};

// Where a thread labels masks [H, W].
struct Room {
  int64_t H, W;
  int64_t words;          // of a row of the mask: ceil(W / 64)
  uint64_t* mask;         // [H, words] 64 columns a word, lowest bit leftmost; three words more for writers of fours
  Runs runs[2];           // of this row and the one above
  int32_t* joins;         // pairs of components of this row that are one
  int32_t* parent;        // [most_begun + 1] an earlier component that a component is part of; itself at the root
  Component* components;  // [most_begun + 1]
  Row* rows;              // [H] where runs are kept, else null
  Runs kept;              // edges and components of all rows, one behind the other
};

struct ComponentsKernels {
  // Labels the mask of bytes [H, W], its holes filled if so wanted; returns how many components were begun. Those that
  // are their own parents are the mask's, in raster order. Filling takes a room that keeps runs.
  int64_t (*components)(Room&, const uint8_t* mask, int connectivity, bool fill_holes);
  // Paints the runs that were kept, each with number[component].
  void (*paint_runs)(const Room&, const int32_t* number, int32_t* labels);  // [H, W]
};

inline Room make_room(Arena& arena, int64_t H, int64_t W, bool keep_runs = false) {
  Room room{};
  room.H = H, room.W = W, room.words = (W + 63) / 64;
  room.mask = arena.array<uint64_t>(H * room.words + 3);
  const int64_t most_runs = W / 2 + 1, most_begun = H * most_runs;
  for (Runs& runs : room.runs) {
    runs.edge = arena.array<int32_t>(2 * most_runs + kOvershoot);
    runs.component = arena.array<int32_t>(most_runs + kOvershoot);
    runs.bits = arena.array<uint64_t>(room.words + 1), runs.before = arena.array<int32_t>(room.words + 1);
  }
  room.joins = arena.array<int32_t>(2 * (most_runs + kOvershoot));
  room.parent = arena.array<int32_t>(most_begun + 1);
  room.components = arena.array<Component>(most_begun + 1);
  if (!keep_runs) return room;
  room.rows = arena.array<Row>(H);
  room.kept.edge = arena.array<int32_t>(H * (2 * most_runs + kOvershoot));
  room.kept.component = arena.array<int32_t>(H * (most_runs + kOvershoot));
  return room;
}

}  // namespace fastcam
