// The standard evaluator's boxes, or their IoU with the truth, at all 255 levels of a map. A block takes a map: it
// quantises it, builds the tree of its components (curves_tree.cuh, curves_nodes.cuh), and then threads take these,
// each at each of its levels, for the largest contour of a level by cpu/curves.inl's rule, following borders only of
// components with holes that may yet win, or for the best IoU of all boxes. Holes are the components of the inverted
// picture, 4-connected, that do not touch its frame: the same tree once more. Traffic: the map once, and its 256
// entries. All integers but the IoU, whose maximum is free of order. Maps that find room are done in shared memory; the
// others are left to a second launch that works in global memory.
#pragma once

#include <type_traits>

#include "../contour.h"
#include "../iou.h"
#include "curves_nodes.cuh"

namespace fastcam {

enum class Curve { kBoxes, kLargestIou, kBestIou };

struct CurveArguments {
  const void* maps;       // [N, H, W]
  const double* truths;   // [M, 4], for IoU only
  const int64_t* starts;  // [N + 1] where the truths of a map begin
  int32_t* boxes;         // [N, 256, 4]
  double* ious;           // [N, 256]
  int32_t* unfinished;    // [N] 1: no room in shared memory. Null where that is so of all maps
  unsigned char* space;   // [blocks, plan.bytes], for global memory only
  int64_t N;
  bool is_double;
  Curve kind;
  TreePlan plan;
};

// The map's 8-bit levels and the zeros around them. A warp takes a row.
template <int kThreads, class T, class Size>
__device__ __forceinline__ void load_levels(const Tree<Size>& t, const T* __restrict__ map) {
  for (int row = warp(); row < t.height + 2; row += kThreads / 32) {
    const int y = row - 1;
    for (int i = lane(); i < t.pitch; i += 32) {
      const int x = i - 4;
      const bool inside = x >= 0 && x < t.width && y >= 0 && y < t.height;
      t.levels[row * t.pitch + i] = inside ? quantised(map[static_cast<int64_t>(y) * t.width + x]) : 0;
    }
  }
}

// A component's first pixel in raster order, y << 16 | x.
template <class Size>
__device__ inline uint32_t first_pixel(const Tree<Size>& t, typename Size::Id branch, int level) {
  const uint32_t at = t.node(branch, level);
  const int y = static_cast<int>(t.y[at] & 0xffff);
  int x = static_cast<int>(t.x[at] & 0xffff);
  while (t.level(x, y) < level || t.branch_at(t.link[t.hill(x, y)], level) != branch) ++x;
  return static_cast<uint32_t>(y) << 16 | static_cast<uint32_t>(x);
}

// Areas, or values, with what decides between equal ones below them. Larger than 0, which stands for none.
__device__ inline Rank ranked(uint32_t area2, uint32_t preference) { return (area2 + Rank{1}) << 32 | preference; }

// Values from 0 on in the order of their bits.
__device__ inline Rank scored(double value) {
  const union {
    double value;
    Rank bits;
  } u{value};
  return u.bits + 1;
}
__device__ inline double score_of(Rank rank) {
  union {
    Rank bits;
    double value;
  } u{rank - 1};
  return u.value;
}

__device__ inline void raise(Rank* to, Rank rank) {
  for (Rank old = load_relaxed(to), found; old < rank; old = found)
    if ((found = atomicCAS(to, old, rank)) == old) return;
}

// The doubled area of a node without what is inside its holes, and the most that the area inside its border can be.
template <class Size>
__device__ inline uint32_t sum2(const Tree<Size>& t, uint32_t node) {
  return static_cast<uint32_t>(t.count[node] & ((typename Size::Word{1} << Size::kEulerShift) - 1));
}
template <class Size>
__device__ inline bool is_solid(const Tree<Size>& t, uint32_t node) {
  return t.count[node] >> Size::kEulerShift == 1;
}
template <class Size>
__device__ inline uint32_t bound2(const Tree<Size>& t, uint32_t node) {
  if (is_solid(t, node)) return sum2(t, node);
  const uint32_t x = t.x[node], y = t.y[node];
  return 2 * ((x >> 16) - (x & 0xffff) - 1) * ((y >> 16) - (y & 0xffff) - 1);
}

// What components of a level are chosen by: the area inside the outer border, then the first pixel.
template <class Size>
__device__ inline Rank rank_of(const Tree<Size>& t, typename Size::Id branch, int level) {
  const uint32_t node = t.node(branch, level), first = first_pixel(t, branch, level);
  const LevelMask mask{&t.level(0, 0), t.pitch, level};
  const uint32_t area2 =
      is_solid(t, node)
          ? sum2(t, node)
          : static_cast<uint32_t>(outer_area2(mask, static_cast<int>(first & 0xffff), static_cast<int>(first >> 16)));
  return ranked(area2, first);
}

// The box of a component, dilated by one pixel where it is a hole; the right and lower edges stay inside the picture.
template <class Size>
__device__ __forceinline__ void box_of(const Tree<Size>& t, typename Size::Id branch, int level, int dilation,
                                       int32_t* box) {
  const uint32_t at = t.node(branch, level);
  const int x1 = static_cast<int>(t.x[at] >> 16) + dilation, y1 = static_cast<int>(t.y[at] >> 16) + dilation;
  box[0] = static_cast<int>(t.x[at] & 0xffff) - dilation;
  box[1] = static_cast<int>(t.y[at] & 0xffff) - dilation;
  box[2] = x1 < t.width - 1 ? x1 : t.width - 1;
  box[3] = y1 < t.height - 1 ? y1 : t.height - 1;
}

// visit(branch, level) for all components of the levels from low to high. A thread takes a branch at a level; lanes
// have levels side by side, where a branch changes little, so that what they do takes them about as long.
template <int kThreads, class Size, class Visit>
__device__ __forceinline__ void for_components(const Tree<Size>& t, int branches, int low, int high,
                                               const Visit& visit) {
  const int bits = 32 - __clz(high - low), mask = (1 << bits) - 1;
  for (int64_t i = threadIdx.x; i < static_cast<int64_t>(branches) << bits; i += kThreads) {
    const int branch = static_cast<int>(i >> bits), level = low + (static_cast<int>(i) & mask);
    if (level <= high && t.alive(branch, level)) visit(static_cast<typename Size::Id>(branch), level);
  }
  __syncthreads();
}

// The component with the largest area inside its outer border, the last in raster order where they tie, of each level
// from low to high. The leader has the largest area without what is inside holes, and the others win only by what is
// inside theirs: mostly none can. Of those that can, the borders are followed, each by one thread, and only where one
// of them reaches the leader's area is the leader's own, the longest. write(level, branch); -1 for none.
template <int kThreads, class Size, class Write>
__device__ __forceinline__ void for_largest(const Tree<Size>& t, int branches, int low, int high, const Write& write) {
  using Id = typename Size::Id;
  for (int level = low + static_cast<int>(threadIdx.x); level <= high; level += kThreads)
    t.leader[level] = t.rival[level] = 0;
  __syncthreads();
  for_components<kThreads>(t, branches, low, high, [&](Id branch, int level) {
    raise(t.leader + level, ranked(sum2(t, t.node(branch, level)), branch));
  });
  for_components<kThreads>(t, branches, low, high, [&](Id branch, int level) {
    const Rank leader = t.leader[level];
    if (branch == static_cast<Id>(leader) || ranked(bound2(t, t.node(branch, level)), ~0u) < leader) return;
    const Rank rank = rank_of(t, branch, level);
    if (rank >> 32 >= leader >> 32) raise(t.rival + level, rank);
  });
  for (int level = low + static_cast<int>(threadIdx.x); level <= high; level += kThreads) {
    const Rank leader = t.leader[level], rival = t.rival[level];
    Id winner = static_cast<Id>(leader);
    if (rival != 0 && rival > rank_of(t, winner, level)) {
      const int x = static_cast<int>(rival & 0xffff), y = static_cast<int>(rival >> 16 & 0xffff);
      winner = t.branch_at(t.link[t.hill(x, y)], level);
    }
    write(level, leader == 0 ? -1 : static_cast<int>(winner));
  }
}

// Entries of the levels from low to high of map n; those of holes are added to what is there.
template <int kThreads, class Size>
__device__ __forceinline__ void write_levels(const CurveArguments& a, const Tree<Size>& t, int branches, int low,
                                             int high, bool holes, int64_t n) {
  const double* truths = a.kind == Curve::kBoxes ? nullptr : a.truths + 4 * a.starts[n];
  const int64_t count = a.kind == Curve::kBoxes ? 0 : a.starts[n + 1] - a.starts[n];
  using Id = typename Size::Id;
  const int32_t nothing[4] = {0, 0, 0, 0};
  // The mask level >= L is q > L - 1; inverted, 255 - q >= L, it is the background of q > 255 - L.
  const auto entry = [&](int level) { return 256 * n + (holes ? 255 - level : level - 1); };
  if (a.kind != Curve::kBestIou) {
    for_largest<kThreads>(t, branches, low, high, [&](int level, int winner) {
      int32_t box[4] = {0, 0, 0, 0};
      if (winner >= 0) box_of(t, static_cast<Id>(winner), level, 0, box);
      for (int i = 0; i < 4 && a.kind == Curve::kBoxes; ++i) a.boxes[4 * entry(level) + i] = box[i];
      if (a.kind == Curve::kLargestIou) a.ious[entry(level)] = best_iou(box, truths, count);
    });
  } else {
    // The best of all components of the level: where there are none, the box of nothing counts.
    for (int level = low + static_cast<int>(threadIdx.x); level <= high; level += kThreads)
      t.leader[level] = holes ? scored(a.ious[entry(level)]) : 0;
    __syncthreads();
    for_components<kThreads>(t, branches, low, high, [&](Id branch, int level) {
      const uint32_t at = t.node(branch, level), x = t.x[at], y = t.y[at];
      if (holes && ((x & 0xffff) == 0 || (y & 0xffff) == 0 || static_cast<int>(x >> 16) == t.width ||
                    static_cast<int>(y >> 16) == t.height))
        return;
      int32_t box[4];
      box_of(t, branch, level, holes, box);
      raise(t.leader + level, scored(best_iou(box, truths, count)));
    });
    for (int level = low + static_cast<int>(threadIdx.x); level <= high; level += kThreads)
      a.ious[entry(level)] = t.leader[level] != 0 ? score_of(t.leader[level]) : best_iou(nothing, truths, count);
  }
  if (threadIdx.x != 0 || holes || high < 255) return;
  for (int i = 0; i < 4 && a.kind == Curve::kBoxes; ++i) a.boxes[4 * (256 * n + 255) + i] = 0;  // the mask q > 255
  if (a.kind != Curve::kBoxes) a.ious[256 * n + 255] = best_iou(nothing, truths, count);
}

// Returns false where there was no room.
template <int kThreads, class Size>
__device__ __forceinline__ bool write_curve(const CurveArguments& a, const Tree<Size>& t, int64_t n) {
  __shared__ int alive[256];
  const int64_t pixels = static_cast<int64_t>(t.width) * t.height;
  if (a.is_double)
    load_levels<kThreads>(t, static_cast<const double*>(a.maps) + n * pixels);
  else
    load_levels<kThreads>(t, static_cast<const float*>(a.maps) + n * pixels);
  // The second tree, of the inverted picture and 4-connected, is for holes.
  const int trees = a.kind == Curve::kBestIou ? 2 : 1;
  for (int tree = 0; tree < trees; ++tree) {
    const bool holes = tree == 1;
    __syncthreads();
    for (int y = warp(); holes && y < t.height; y += kThreads / 32)
      for (int x = lane(); x < t.width; x += 32) t.level(x, y) = static_cast<uint8_t>(255 - t.level(x, y));
    const int hills = find_hills<kThreads>(t);
    if (hills > t.most_hills) return false;
    const int branches = link_hills<kThreads>(t, hills, holes ? 0 : 1);
    if (branches > t.most_branches) return false;
    connect_branches<kThreads>(t, !holes);
    const BranchSummary all = order_branches<kThreads>(t, branches);
    // Where there is no room for the nodes of all levels, they are done in bands of as many as there is room for.
    if (all.nodes > t.most_nodes) count_components<kThreads>(t, branches, alive);
    for (int high = 255, low; high > 0; high = low - 1) {
      low = 1;
      if (all.nodes > t.most_nodes) {
        int room = t.most_nodes;
        for (low = high + 1; low > 1 && alive[low - 1] <= room; --low) room -= alive[low - 1];
        if (low > high) return false;
      }
      place_nodes<kThreads>(t, branches, low, high);
      measure<kThreads>(t, low, high, a.kind == Curve::kBestIou ? 256 : all.contested);
      sum_nodes<kThreads>(t, branches, all.deepest, low, high);
      write_levels<kThreads>(a, t, branches, low, high, holes, n);
    }
  }
  return true;
}

// A block takes every gridDim.x-th map. The bounds leave a thread 64 registers, so that two blocks of 512 run together.
template <int kThreads, class Size>
__global__ void __launch_bounds__(kThreads, 1024 / kThreads) curves_kernel(CurveArguments a) {
  constexpr bool kShared = std::is_same_v<Size, SmallTree>;
  FASTCAM_DYNAMIC_SHARED(shared);
  const Tree<Size> tree(a.plan, kShared ? shared : a.space + blockIdx.x * a.plan.bytes);
  for (int64_t n = blockIdx.x; n < a.N; n += gridDim.x) {
    if (!kShared && a.unfinished != nullptr && a.unfinished[n] == 0) continue;
    __syncthreads();
    const bool finished = write_curve<kThreads>(a, tree, n);
    if (kShared && threadIdx.x == 0) a.unfinished[n] = !finished;
  }
}

}  // namespace fastcam
