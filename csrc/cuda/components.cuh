// All components of a batch of masks, of any size, by many blocks. A thread takes a word of 32 pixels; its unit is the
// segment, a run of set pixels within a word. As with the runs of boxes_runs.cuh, a segment's parent is the first that
// touches it of those before it, the others that touch are joined by union-find, and the root is the component's first
// segment in raster order; each step is a kernel, which makes its writes visible to the next. Segments never start at
// neighbouring pixels, so half a row of slots has room for all of its segments, without counting them first. Traffic:
// a byte a pixel, and some words for each segment, of which 20 bytes are read and written at random for a component.
// Integers only, so that the order of additions does not matter, and components come out in raster order.
#pragma once

#include "union_find.cuh"

namespace fastcam {

// Masks [N, H, W] as rows one below another. Slots are numbered in raster order through the batch.
struct Batch {
  uint32_t* bits;                   // [N * H, words]
  int32_t* parent;                  // [N * H, half] slot of a segment before it
  int32_t *area, *x0, *x1, *y1;     // [N * H, half] sums and extents of components at their roots
  int32_t rows, H, W, words, half;  // rows: N * H; half: ceil(W / 2)
  int32_t reach;                    // 1 where diagonal neighbours are connected
};

// A word of the mask and those beside and above it; all 0 for threads that have none.
struct Around {
  uint32_t here = 0, left = 0, above = 0, above_left = 0, above_right = 0;
  int32_t row = 0, word = 0;

  __device__ Around(const Batch& b, int64_t item) {
    if (item >= static_cast<int64_t>(b.rows) * b.words) return;
    const uint32_t i = static_cast<uint32_t>(item), words = b.words;
    row = static_cast<int32_t>(i / words), word = static_cast<int32_t>(i % words);
    const uint32_t* at = b.bits + i;
    here = *at;
    if (here == 0) return;
    if (word > 0) left = at[-1];
    if (row % b.H == 0) return;
    at -= words;
    above = *at;
    if (word > 0) above_left = at[-1];
    if (word + 1 < b.words) above_right = at[1];
  }
};

__device__ inline int64_t item_of_thread(int threads) {
  return static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
}

// First bit of the segment that holds a bit.
__device__ inline int start_of(uint32_t m, int bit) {
  return 31 - __clz(static_cast<int>(m & ~(m << 1) & (0xffffffffu >> (31 - bit))));
}

// The bit after the segment that starts at a bit.
__device__ inline int end_of(uint32_t m, int start) {
  const uint32_t clear = ~m & ~((1u << start) - 1);
  return clear ? __ffs(static_cast<int>(clear)) - 1 : 32;
}

__device__ inline uint32_t from_bit(int bit) { return bit < 32 ? 0xffffffffu << bit : 0; }

__device__ inline int32_t slot_of(const Batch& b, int32_t row, int32_t word, int start) {
  return row * b.half + 16 * word + (start >> 1);
}

// Calls f(start, end) for the segments of a word, from the left.
template <class F>
__device__ inline void for_segments(uint32_t m, const F& f) {
  for (uint32_t rest = m; rest;) {
    const int start = __ffs(static_cast<int>(rest)) - 1, end = end_of(m, start);
    f(start, end);
    rest &= from_bit(end);
  }
}

// Calls f(slot) for the segments before [start, end) that touch it.
template <class F>
__device__ inline void for_touching(const Batch& b, const Around& a, int start, int end, const F& f) {
  if (start == 0 && a.left >> 31) f(slot_of(b, a.row, a.word - 1, start_of(a.left, 31)));
  if (b.reach && start == 0 && a.above_left >> 31) f(slot_of(b, a.row - 1, a.word - 1, start_of(a.above_left, 31)));
  const uint32_t near = a.above & from_bit(start > 0 ? start - b.reach : 0) & ~from_bit(end + b.reach);
  for (uint32_t rest = near; rest;) {
    const int touching = start_of(a.above, __ffs(static_cast<int>(rest)) - 1);
    f(slot_of(b, a.row - 1, a.word, touching));
    rest &= from_bit(end_of(a.above, touching));
  }
  if (b.reach && end == 32 && a.above_right & 1) f(slot_of(b, a.row - 1, a.word + 1, 0));
}

// The bits of four bytes: set where a byte is not 0.
__device__ inline uint32_t nonzero_bytes(uint32_t v) {
  const uint32_t high = (((v & 0x7f7f7f7fu) + 0x7f7f7f7fu) | v) & 0x80808080u;
  return (high >> 7) * 0x10204080u >> 28;
}

// A word's bits from 32 bytes, four at a time where they are aligned.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) mask_bits_kernel(const uint8_t* __restrict__ masks,  // [N, H, W]
                                                             Batch b, bool aligned) {
  const int64_t item = item_of_thread(kThreads);
  if (item >= static_cast<int64_t>(b.rows) * b.words) return;
  const int64_t row = item / b.words;
  const int32_t x = static_cast<int32_t>(item - row * b.words) * 32, count = b.W - x < 32 ? b.W - x : 32;
  const uint8_t* from = masks + row * b.W + x;
  uint32_t bits = 0;
  if (aligned) {  // W and the address are multiples of 4
    for (int i = 0; i < 32; i += 4)
      if (i < count) bits |= nonzero_bytes(*reinterpret_cast<const uint32_t*>(from + i)) << i;
  } else {
    for (int i = 0; i < count; ++i) bits |= static_cast<uint32_t>(from[i] != 0) << i;
  }
  b.bits[item] = bits;
}

// Every segment by itself: its extents, and as its parent the first of those before it that touch it.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) begin_segments_kernel(Batch b) {
  const Around a(b, item_of_thread(kThreads));
  for_segments(a.here, [&](int start, int end) {
    const int32_t slot = slot_of(b, a.row, a.word, start);
    int32_t parent = slot;
    for_touching(b, a, start, end, [&](int32_t touching) { parent = parent == slot ? touching : parent; });
    b.parent[slot] = parent;
    b.area[slot] = end - start;
    b.x0[slot] = 32 * a.word + start;
    b.x1[slot] = 32 * a.word + end;
    b.y1[slot] = a.row % b.H + 1;
  });
}

// Joins segments with the others that touch them.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) join_segments_kernel(Batch b) {
  const Around a(b, item_of_thread(kThreads));
  for_segments(a.here, [&](int start, int end) {
    const int32_t slot = slot_of(b, a.row, a.word, start);
    compress(b.parent, slot);
    bool first = true;  // which is the parent already
    for_touching(b, a, start, end, [&](int32_t touching) {
      if (!first) join(b.parent, slot, touching);
      first = false;
    });
  });
}

// Adds segments to their roots, those of a warp as one where they have the same root.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) sum_segments_kernel(Batch b) {
  const Around a(b, item_of_thread(kThreads));
  for (uint32_t rest = a.here; __any_sync(kAllLanes, rest != 0);) {
    int32_t root = -1, area = 0, x0 = b.W, x1 = 0, y1 = 0;
    if (rest) {
      const int start = __ffs(static_cast<int>(rest)) - 1, end = end_of(a.here, start);
      const int32_t slot = slot_of(b, a.row, a.word, start);
      rest &= from_bit(end);
      root = compress(b.parent, slot);
      if (root != slot) area = end - start, x0 = 32 * a.word + start, x1 = 32 * a.word + end, y1 = a.row % b.H + 1;
    }
    const unsigned members = __ballot_sync(kAllLanes, area > 0);
    if (members == 0) continue;
    const int32_t leader = __shfl_sync(kAllLanes, root, __ffs(static_cast<int>(members)) - 1);
    bool adds = area > 0;
    if (__all_sync(kAllLanes, !adds || root == leader)) {
      area = warp_reduce(area, Sum());
      x0 = warp_reduce(x0, Smaller());
      x1 = warp_reduce(x1, Larger());
      y1 = warp_reduce(y1, Larger());
      root = leader;
      adds = lane() == 0;
    }
    if (!adds) continue;
    atomicAdd(b.area + root, area);
    atomicMin(b.x0 + root, x0);
    atomicMax(b.x1 + root, x1);
    atomicMax(b.y1 + root, y1);
  }
}

// Calls f(slot) for the components that begin in a word, from the left; those that were dropped have no area.
template <class F>
__device__ inline void for_components(const Batch& b, const Around& a, const F& f) {
  for_segments(a.here, [&](int start, int) {
    const int32_t slot = slot_of(b, a.row, a.word, start);
    if (b.parent[slot] == slot && b.area[slot] > 0) f(slot);
  });
}

// Drops all but the components with most pixels of each mask, the first in raster order where they tie: one block a
// mask, and a bisection for the area of the last that stays.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) keep_largest_kernel(Batch b, int32_t most) {
  const int64_t items = static_cast<int64_t>(b.H) * b.words, begin = blockIdx.x * items;
  const auto count_from = [&](int32_t area) {  // how many components have as many pixels at least
    int32_t count = 0;
    for (int64_t i = threadIdx.x; i < items; i += kThreads)
      for_components(b, Around(b, begin + i), [&](int32_t slot) { count += b.area[slot] >= area; });
    return block_reduce<kThreads>(count, Sum());
  };
  if (count_from(1) <= most) return;
  int32_t least = 1, more = b.H * b.W + 1;  // enough have at least `least` pixels, too few have `more`
  while (more - least > 1) {
    const int32_t middle = least + (more - least) / 2;
    if (count_from(middle) >= most)
      least = middle;
    else
      more = middle;
  }
  int32_t ties = most - count_from(least + 1);
  for (int64_t base = 0; base < items; base += kThreads) {
    const int64_t i = base + threadIdx.x;
    const Around a(b, i < items ? begin + i : static_cast<int64_t>(b.rows) * b.words);
    int32_t equal = 0, total;
    for_components(b, a, [&](int32_t slot) { equal += b.area[slot] == least; });
    int32_t before = block_exclusive_sum<kThreads>(equal, &total);
    for_components(b, a, [&](int32_t slot) {
      const int32_t area = b.area[slot];
      if (area < least || (area == least && before++ >= ties)) b.area[slot] = 0;
    });
    ties -= total;
  }
}

// How many components begin in each block's words.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) count_components_kernel(Batch b, int64_t* __restrict__ counts) {
  const Around a(b, item_of_thread(kThreads));
  int32_t count = 0;
  for_components(b, a, [&](int32_t) { ++count; });
  count = block_reduce<kThreads>(count, Sum());
  if (threadIdx.x == 0) counts[blockIdx.x] = count;
}

// Turns counts into the sums of those before, in one block, and adds all to the total.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    offsets_kernel(int64_t* __restrict__ counts, int64_t count, int64_t* __restrict__ total) {
  int64_t sum = *total;
  for (int64_t base = 0; base < count; base += kThreads) {
    const int64_t i = base + threadIdx.x;
    int32_t here;
    const int32_t before = block_exclusive_sum<kThreads>(i < count ? static_cast<int32_t>(counts[i]) : 0, &here);
    if (i < count) counts[i] = sum + before;
    sum += here;
  }
  if (threadIdx.x == 0) *total = sum;
}

// The table of components, each at the place that its block's offset and a prefix sum in the block give it.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    write_components_kernel(Batch b, const int64_t* __restrict__ offsets, int64_t first_image,
                            int32_t* __restrict__ boxes,  // [M, 4]
                            int32_t* __restrict__ areas,  // [M]
                            int64_t* __restrict__ image)  // [M]
{
  const Around a(b, item_of_thread(kThreads));
  int32_t count = 0, total;
  for_components(b, a, [&](int32_t) { ++count; });
  int64_t to = offsets[blockIdx.x] + block_exclusive_sum<kThreads>(count, &total);
  for_components(b, a, [&](int32_t slot) {
    int32_t* box = boxes + 4 * to;
    box[0] = b.x0[slot], box[1] = a.row % b.H, box[2] = b.x1[slot], box[3] = b.y1[slot];
    areas[to] = b.area[slot];
    image[to++] = first_image + a.row / b.H;
  });
}

}  // namespace fastcam
