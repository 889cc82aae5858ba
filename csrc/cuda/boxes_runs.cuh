// One block labels one mask and finds its largest component. The mask is bits; its unit is the run, a stretch of set
// pixels of a row. A thread takes rows, and a prefix sum numbers their runs in raster order. Then a thread
// takes a run: its parent is the first run above that touches it, pointer jumping leads to a root, and the few runs
// that touch several join these with atomicMin, so that a component ends at its first run, whatever the order.
// Pixels, contour areas and links are added up at the roots: integers only, hence the same for any number of threads.
// Work: a few dozen operations a run and ten barriers; traffic: none but the room's, which may be shared memory.
#pragma once

#include "../contour.h"
#include "../options.h"
#include "union_find.cuh"

namespace fastcam {

// Where a block labels a mask. Index is 16 bits wide in shared memory, where it counts.
template <class Index>
struct Room {
  uint32_t* mask;            // [H, words], 32 columns a word, lowest bit leftmost
  int32_t* first;            // [H + 1] the first run of a row
  Index *start, *end, *row;  // [capacity] a run's columns [start, end), and its row
  int32_t *parent, *size;    // [capacity] a run before it; pixels, or doubled contour area
  int32_t *links, *extents;  // [capacity] touching pairs minus runs; [capacity / 4, 3]; for contours only
  int32_t H, W, words, capacity;
};

// Calls f(i) for this thread's share of the runs.
template <int kThreads, class F>
__device__ inline void for_runs(int32_t count, const F& f) {
#pragma unroll 1
  for (int32_t i = threadIdx.x; i < count; i += kThreads) f(i);
}

// The bits of a word at which runs of its row start, and those at which they have ended; `before` is the word on the
// left, 0 at the beginning of a row.
__device__ inline uint32_t edges_of(uint32_t word, uint32_t before) { return word ^ (word << 1 | before >> 31); }
__device__ inline uint32_t starts_of(uint32_t word, uint32_t before) { return word & edges_of(word, before); }

// Calls f(y) for this thread's share of the rows.
template <int kThreads, class F>
__device__ inline void for_rows(int32_t H, const F& f) {
#pragma unroll 1
  for (int32_t y = threadIdx.x; y < H; y += kThreads) f(y);
}

// Counts the runs of each row, where the number of its first run will be.
template <int kThreads, class Index>
__device__ void count_runs(const Room<Index>& room) {
  for_rows<kThreads>(room.H, [&](int32_t y) {
    const uint32_t* words = room.mask + static_cast<int64_t>(y) * room.words;
    uint32_t before = 0;
    int32_t runs = 0;
#pragma unroll 1
    for (int32_t k = 0; k < room.words; ++k) {
      runs += __popc(starts_of(words[k], before));
      before = words[k];
    }
    room.first[y] = runs;
  });
}

// Lists the runs and returns how many the mask has; none is listed when they are more than the room's capacity. The
// rows of a thread's share are as it has left them, and their runs counted.
template <int kThreads, class Index>
__device__ int32_t find_runs(const Room<Index>& room) {
  int32_t total = 0;
#pragma unroll 1
  for (int32_t top = 0; top < room.H; top += kThreads) {
    const int32_t y = top + static_cast<int32_t>(threadIdx.x);
    int32_t count;
    const int32_t run = total + block_exclusive_sum<kThreads>(y < room.H ? room.first[y] : 0, &count);
    if (y < room.H) room.first[y] = run;
    total += count;
  }
  if (total > room.capacity) return total;
  for_rows<kThreads>(room.H, [&](int32_t y) {
    const uint32_t* words = room.mask + static_cast<int64_t>(y) * room.words;
    int32_t run = room.first[y];
    uint32_t before = 0;
#pragma unroll 1
    for (int32_t k = 0; k < room.words; ++k) {
      const uint32_t word = words[k];
#pragma unroll 1
      for (uint32_t edges = edges_of(word, before); edges; edges &= edges - 1) {
        const uint32_t edge = edges & -edges;
        const Index x = static_cast<Index>(32 * k + __ffs(static_cast<int>(edges)) - 1);
        if (word & edge)
          room.start[run] = x, room.row[run] = static_cast<Index>(y);
        else
          room.end[run++] = x;
      }
      before = word;
    }
    if (before >> 31) room.end[run] = static_cast<Index>(room.W);
  });
  if (threadIdx.x == 0) room.first[room.H] = total;
  __syncthreads();
  return total;
}

// Calls f(j) for the runs of the row above that touch run i, from the left; with reach 1, diagonally too.
template <class Index, class F>
__device__ inline void for_touching(const Room<Index>& room, int32_t i, int32_t reach, const F& f) {
  const int32_t y = room.row[i];
  if (y == 0) return;
  const int32_t start = room.start[i], end = room.end[i] + reach, last = room.first[y];
  int32_t j = room.first[y - 1];
#pragma unroll 1
  for (int32_t high = last; j < high;) {
    const int32_t middle = (j + high) / 2;
    if (room.end[middle] + reach <= start)
      j = middle + 1;
    else
      high = middle;
  }
#pragma unroll 1
  for (; j < last && room.start[j] < end; ++j) f(j);
}

// Labels the runs: parents are roots, and the roots hold the sums over their components.
template <int kThreads, class Index>
__device__ void label_runs(const Room<Index>& room, int32_t count, Choice choice) {
  const int32_t reach = choice.connectivity == 8 ? 1 : 0;
  // Which of this thread's runs touch several; where it has more than 32, the last bit is for all the others.
  uint32_t several = 0;
  const auto bit_of = [](int32_t i) { return 1u << smaller(i / kThreads, 31); };
  for_runs<kThreads>(count, [&](int32_t i) {
    const int32_t start = room.start[i], end = room.end[i];
    int32_t parent = i, contour2 = 0, links = -1;
    for_touching(room, i, reach, [&](int32_t j) {
      if (parent == i) parent = j;
      ++links;
      if (!choice.contour) return;
      const int32_t left = room.start[j], right = room.end[j];
      contour2 += 2 * ((end < right ? end : right) - (start > left ? start : left)) - 2;
      contour2 += (start != left) + (end != right);
    });
    room.parent[i] = parent;
    room.size[i] = choice.contour ? contour2 : end - start;
    if (choice.contour) room.links[i] = links;
    if (links > 0) several |= bit_of(i);
  });
  __syncthreads();
  for_runs<kThreads>(count, [&](int32_t i) {
    compress(room.parent, i);
    if ((several & bit_of(i)) == 0) return;
    bool first = true;  // which is the parent already
    for_touching(room, i, reach, [&](int32_t j) {
      if (!first) join(room.parent, i, j);
      first = false;
    });
  });
  __syncthreads();
#pragma unroll 1
  for (int32_t base = static_cast<int32_t>(threadIdx.x) - lane(); base < count; base += kThreads) {
    const int32_t i = base + lane();
    const int32_t root = i < count ? compress(room.parent, i) : -1;
    const bool adds = root >= 0 && root != i;
    const int32_t leader = __shfl_sync(kAllLanes, root, 0);
    const bool together = __all_sync(kAllLanes, root < 0 || root == leader);
    add_at(room.size, root, adds ? room.size[i] : 0, together);
    if (choice.contour) add_at(room.links, root, adds ? room.links[i] : 0, together);
  }
  __syncthreads();
}

// Sizes with the rule for ties below them.
__device__ inline uint64_t ranked(int32_t size, uint32_t preference) {
  return static_cast<uint64_t>(static_cast<uint32_t>(size) + 1u) << 32 | preference;
}

// The rank of the largest contour where components may have holes, which the sums leave out; `leader` has the largest
// sum and is the last of these. A component with holes fills at most its box, so that mostly none but the leader can
// win. Of the others that can, the borders are followed, each by one thread, and only where one of them reaches the
// leader's sum is the leader's own, the longest.
template <int kThreads, class Index>
__device__ uint64_t largest_with_holes(const Room<Index>& room, int32_t count, uint64_t leader) {
  __shared__ int32_t holed;
  if (threadIdx.x == 0) holed = 0;
  __syncthreads();
  const auto extents_of = [&](int32_t root) { return room.extents + 3 * room.links[root]; };
  for_runs<kThreads>(count, [&](int32_t i) {
    if (room.parent[i] != i || room.links[i] == -1) return;
    room.links[i] = atomicAdd(&holed, 1);  // from here on, where its extents are: four runs at least are around a hole
    int32_t* extents = extents_of(i);
    extents[0] = room.start[i], extents[1] = room.end[i], extents[2] = room.row[i] + 1;
  });
  __syncthreads();
  for_runs<kThreads>(count, [&](int32_t i) {
    const int32_t root = room.parent[i];
    if (root == i || room.links[root] == -1) return;
    int32_t* extents = extents_of(root);
    atomicMin(extents, static_cast<int32_t>(room.start[i]));
    atomicMax(extents + 1, static_cast<int32_t>(room.end[i]));
    atomicMax(extents + 2, room.row[i] + 1);
  });
  __syncthreads();
  const int32_t first = static_cast<int32_t>(leader), least = static_cast<int32_t>((leader >> 32) - 1);
  const Bits<uint32_t> mask{room.mask, room.words, room.H};
  const auto area2_of = [&](int32_t i) {
    return room.links[i] == -1 ? room.size[i] : static_cast<int32_t>(outer_area2(mask, room.start[i], room.row[i]));
  };
  uint64_t best = 0;
  for_runs<kThreads>(count, [&](int32_t i) {
    if (i == first || room.parent[i] != i) return;
    if (room.links[i] != -1) {
      const int32_t* extents = extents_of(i);
      if (2 * (extents[1] - extents[0] - 1) * (extents[2] - room.row[i] - 1) < least) return;
    }
    const int32_t area2 = area2_of(i);
    if (area2 >= least) best = larger(best, ranked(area2, i));
  });
  best = block_reduce<kThreads>(best, Larger());
  if (best == 0) return leader;  // no rival
  if (threadIdx.x == 0) best = larger(best, ranked(area2_of(first), first));
  return block_reduce<kThreads>(best, Larger());
}

// The chosen component's box, half-open; zeros without one. The mask must be visible to all threads; they may change it
// again after the next barrier.
template <int kThreads, class Index>
__device__ void largest_box(const Room<Index>& room, int32_t count, Choice choice, int32_t* __restrict__ box) {
  __shared__ int32_t extents[3];
  if (threadIdx.x == 0) extents[0] = room.W, extents[1] = extents[2] = 0;
  label_runs<kThreads>(room, count, choice);
  uint64_t best = 0;
  int32_t links = -1;
  for_runs<kThreads>(count, [&](int32_t i) {
    if (room.parent[i] != i) return;
    const uint64_t rank = ranked(room.size[i], choice.contour ? i : ~i);
    best = rank > best ? rank : best;
    if (choice.contour && room.links[i] > links) links = room.links[i];
  });
  best = block_reduce<kThreads>(best, Larger());
  if (choice.contour && block_reduce<kThreads>(links, Larger()) > -1)
    best = largest_with_holes<kThreads>(room, count, best);
  const int32_t preference = static_cast<int32_t>(static_cast<uint32_t>(best));
  const int32_t winner = choice.contour ? preference : ~preference;
  int32_t x0 = room.W, x1 = 0, y1 = 0;
  for_runs<kThreads>(best != 0 ? count : 0, [&](int32_t i) {
    if (room.parent[i] != winner) return;
    x0 = room.start[i] < x0 ? room.start[i] : x0;
    x1 = room.end[i] > x1 ? room.end[i] : x1;
    y1 = room.row[i] + 1;  // rows come in order
  });
  if (__any_sync(kAllLanes, y1 > 0)) {
    x0 = warp_reduce(x0, Smaller());
    x1 = warp_reduce(x1, Larger());
    y1 = warp_reduce(y1, Larger());
    if (lane() == 0) {
      atomicMin(extents, x0);
      atomicMax(extents + 1, x1);
      atomicMax(extents + 2, y1);
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    box[0] = best ? extents[0] : 0;
    box[1] = best ? room.row[winner] : 0;
    box[2] = extents[1];
    box[3] = extents[2];
  }
}

}  // namespace fastcam
