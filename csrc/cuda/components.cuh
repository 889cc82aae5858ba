// All components of a batch of masks, of any size, by many blocks. A thread takes a word of 32 pixels; its unit is the
// segment, a run of set pixels within a word. A block first joins the segments of its own words by union-find in shared
// memory: where two segments touch is read off the bits, each has the first that it touches before it as its parent,
// and the rest goes through a list that the lanes of a warp share evenly. What is one within a block has its sums at
// one root, in global memory; there the roots of several blocks are joined, and their sums added. Each step is a
// kernel, which makes its writes visible to the next. A set's root is its first segment in raster order, so that
// components come out in that order; integers only, so that the order of additions does not matter. Segments never
// start at neighbouring pixels, so half a row of slots has room for all of its segments, without counting them first.
// Traffic: a byte a pixel, a word for each segment, and of a component some 20 bytes, read and written at random.
#pragma once

#include "union_find.cuh"

namespace fastcam {

// Masks [N, H, W] as rows one below another. Slots are numbered in raster order through the batch.
struct Batch {
  uint32_t* bits;                   // [N * H, words]
  uint32_t* roots;                  // [N * H, words] first bits of the segments that are roots
  int32_t* parent;                  // [N * H, half] slot of a segment before it
  int32_t *area, *x0, *x1, *y1;     // [N * H, half] sums and extents of components at their roots; area 0: dropped
  int32_t rows, H, W, words, half;  // rows: N * H; half: ceil(W / 2)
  int32_t reach;                    // 1 where diagonal neighbours are connected
};

__device__ inline int64_t item_of_thread(int threads) {
  return static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
}

// A word of the batch: where it is, if it is there.
struct Word {
  int64_t index;
  int32_t row, word;
  bool there;

  __device__ Word(const Batch& b, int64_t i) : index(i), row(0), word(0), there(i < int64_t{b.rows} * b.words) {
    if (!there) return;
    const uint32_t at = static_cast<uint32_t>(i), words = b.words;
    row = static_cast<int32_t>(at / words), word = static_cast<int32_t>(at % words);
  }

  __device__ int32_t first_slot(const Batch& b) const { return row * b.half + 16 * word; }
  __device__ int32_t y(const Batch& b) const { return row % b.H; }
};

// A word of the mask and those beside and above it, 0 where there are none. bits(n) is the word n before this one.
struct Around {
  uint32_t here = 0, left = 0, above = 0, above_left = 0;

  template <class F>
  __device__ Around(const Batch& b, const Word& item, const F& bits) {
    if (!item.there) return;
    here = bits(0);
    if (item.word > 0) left = bits(1);
    if (item.y(b) == 0) return;
    above = bits(b.words);
    if (item.word > 0) above_left = bits(b.words + 1);
  }
};

// First bit of the segment that holds a bit.
__device__ inline int start_of(uint32_t m, int bit) {
  return 31 - __clz(static_cast<int>(m & ~(m << 1) & (0xffffffffu >> (31 - bit))));
}

// The bit after the segment that starts at a bit.
__device__ inline int end_of(uint32_t m, int start) {
  const uint32_t clear = ~m & ~((1u << start) - 1);
  return clear ? __ffs(static_cast<int>(clear)) - 1 : 32;
}

// Calls f(start) for the segments of a word, or for those of them that a word of first bits names.
template <class F>
__device__ inline void for_starts(uint32_t starts, const F& f) {
  for (; starts; starts &= starts - 1) f(__ffs(static_cast<int>(starts)) - 1);
}

__device__ inline uint32_t starts_of(uint32_t m) { return m & ~(m << 1); }

// A segment by its word, so many before the one at hand, and its first bit.
struct Segment {
  int32_t back, start;
};

// Calls f(there, here, before) for pairs of segments that touch, the latter before the former in raster order, so that
// all that touch are connected; the pairs of a segment of this word come one after the other. All lanes of a warp call
// it, and f as often as any lane has a pair. Of two segments that touch one above the other, one starts where the other
// has a pixel (or, diagonally, had one just before): these are the bits looped over. A run that goes on into the next
// word is a pair of its own and starts once only.
template <class F>
__device__ inline void for_pairs(const Batch& b, const Around& a, const F& f) {
  const uint32_t before = a.here << 1 | a.left >> 31, before_above = a.above << 1 | a.above_left >> 31;
  const uint32_t starts = a.here & ~before, starts_above = a.above & ~before_above;
  const uint32_t under = starts & (b.reach ? before_above : a.above);
  const uint32_t over = starts_above & (b.reach ? a.here | before : a.here & ~starts);
  uint32_t rest = under | over;
  bool beside = a.here & a.left >> 31;
  while (__any_sync(kAllLanes, beside || rest != 0)) {
    const bool there = beside || rest != 0;
    Segment here{0, 0}, earlier{1, 0};
    if (beside) {
      earlier.start = start_of(a.left, 31);
      beside = false;
    } else if (rest) {
      const int bit = __ffs(static_cast<int>(rest)) - 1;
      rest &= rest - 1;
      const int above = bit - (b.reach & static_cast<int>(under >> bit & 1)), own = bit - !(a.here >> bit & 1);
      earlier =
          above < 0 ? Segment{b.words + 1, start_of(a.above_left, 31)} : Segment{b.words, start_of(a.above, above)};
      here = own < 0 ? Segment{1, start_of(a.left, 31)} : Segment{0, start_of(a.here, own)};
    }
    f(there, here, earlier);
  }
}

// The bits of four bytes: set where a byte is not 0.
__device__ inline uint32_t nonzero_bytes(uint32_t v) {
  const uint32_t high = (((v & 0x7f7f7f7fu) + 0x7f7f7f7fu) | v) & 0x80808080u;
  return (high >> 7) * 0x10204080u >> 28;
}

// The columns that a word has, of which the last of a row may have fewer than 32.
__device__ inline int columns_of(const Batch& b, const Word& item) {
  const int32_t rest = b.W - 32 * item.word;
  return rest < 32 ? rest : 32;
}

__device__ inline uint32_t inverted(const Batch& b, const Word& item, uint32_t bits) {
  return ~bits & (0xffffffffu >> (32 - columns_of(b, item)));
}

// A word's bits from 32 bytes, four at a time where they are aligned.
__device__ inline uint32_t bits_of_bytes(const Batch& b, const Word& item, const uint8_t* __restrict__ masks,
                                         bool aligned) {
  const int count = columns_of(b, item);
  const uint8_t* from = masks + int64_t{item.row} * b.W + 32 * item.word;
  uint32_t bits = 0;
  if (aligned) {  // W and the address are multiples of 4
#pragma unroll
    for (int i = 0; i < 32; i += 4)
      if (i < count) bits |= nonzero_bytes(*reinterpret_cast<const uint32_t*>(from + i)) << i;
  } else {
    for (int i = 0; i < count; ++i) bits |= static_cast<uint32_t>(from[i] != 0) << i;
  }
  return bits;
}

// Adds sums of segments, or of what is connected of them, to a root: those of a warp as one where they have the same
// root. Lanes without any give area 0. All lanes call it.
__device__ inline void add_to_root(const Batch& b, int32_t root, int32_t area, int32_t x0, int32_t x1, int32_t y1) {
  const unsigned members = __ballot_sync(kAllLanes, area > 0);
  if (members == 0) return;
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
  if (!adds) return;
  atomicAdd(b.area + root, area);
  atomicMin(b.x0 + root, x0);
  atomicMax(b.x1 + root, x1);
  atomicMax(b.y1 + root, y1);
}

// What a block's own words have in common: bits, roots, the parents of segments, and sums at the roots. The bits are
// those of the masks, inverted if so wanted, or without masks those that are there already.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    label_blocks_kernel(const uint8_t* __restrict__ masks, Batch b, bool aligned, bool invert) {
  constexpr int kSlots = 17;  // of a word: 16, and one that spreads them over the banks
  __shared__ uint32_t bits[kThreads], pairs[kThreads * 16];
  __shared__ int32_t parent[kThreads * kSlots], first_slot[kThreads];
  const int t = static_cast<int>(threadIdx.x);
  const Word item(b, item_of_thread(kThreads));
  uint32_t here = 0;
  if (item.there) {
    here = masks ? bits_of_bytes(b, item, masks, aligned) : b.bits[item.index];
    if (invert) here = inverted(b, item, here);
    b.bits[item.index] = here;
  }
  bits[t] = here;
  first_slot[t] = item.first_slot(b);
#pragma unroll
  for (int i = 0; i < kSlots; ++i) parent[t + i * kThreads] = t + i * kThreads;
  __syncthreads();

  const auto slot = [&](const Segment& s) { return (t - s.back) * kSlots + (s.start >> 1); };
  uint32_t* const list = pairs + warp() * 512;
  int listed = 0, last = -1;
  // Words of other blocks count as empty.
  for_pairs(b, Around(b, item, [&](int back) { return back <= t ? bits[t - back] : 0; }),
            [&](bool there, const Segment& own, const Segment& earlier) {
              const int one = slot(own), other = slot(earlier);
              const bool is_first = own.back == 0 && one != last, is_listed = there && !is_first;
              if (there && is_first) parent[one] = other, last = one;
              const unsigned voters = __ballot_sync(kAllLanes, is_listed);
              if (is_listed)
                list[listed + __popc(voters & ((1u << lane()) - 1))] = static_cast<uint32_t>(one) << 16 | other;
              listed += __popc(voters);
            });
  __syncthreads();
  for (int i = lane(); i < listed; i += 32)
    join(parent, static_cast<int32_t>(list[i] >> 16), static_cast<int32_t>(list[i] & 0xffff));
  __syncthreads();

  uint32_t roots = 0;
  for_starts(starts_of(here), [&](int start) {
    const int32_t own = t * kSlots + (start >> 1), root = compress(parent, own), to = first_slot[t] + (start >> 1);
    b.parent[to] = first_slot[root / kSlots] + root % kSlots;
    if (root != own) return;
    const int end = end_of(here, start);
    roots |= 1u << start;
    b.area[to] = end - start;
    b.x0[to] = 32 * item.word + start;
    b.x1[to] = 32 * item.word + end;
    b.y1[to] = item.y(b) + 1;
  });
  if (item.there) b.roots[item.index] = roots;
  __syncthreads();

  for (uint32_t rest = starts_of(here) & ~roots; __any_sync(kAllLanes, rest != 0); rest &= rest - 1) {
    int32_t root = -1, area = 0, x0 = b.W, x1 = 0, y1 = 0;
    if (rest) {
      const int start = __ffs(static_cast<int>(rest)) - 1, end = end_of(here, start);
      const int32_t local = parent[t * kSlots + (start >> 1)];
      root = first_slot[local / kSlots] + local % kSlots;
      area = end - start, x0 = 32 * item.word + start, x1 = 32 * item.word + end, y1 = item.y(b) + 1;
    }
    add_to_root(b, root, area, x0, x1, y1);
  }
}

// Joins what touches across the borders of the blocks before.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) join_blocks_kernel(Batch b) {
  const int t = static_cast<int>(threadIdx.x);
  if (warp() * 32 > b.words) return;  // all within the block
  const Word item(b, item_of_thread(kThreads));
  const auto slot = [&](const Segment& s) { return Word(b, item.index - s.back).first_slot(b) + (s.start >> 1); };
  for_pairs(b, Around(b, item, [&](int back) { return b.bits[item.index - back]; }),
            [&](bool there, const Segment& own, const Segment& earlier) {
              if (there && (own.back > t || earlier.back > t)) join(b.parent, slot(own), slot(earlier));
            });
}

// Adds blocks' roots that are no longer roots to those that they have now.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) sum_blocks_kernel(Batch b) {
  const Word item(b, item_of_thread(kThreads));
  uint32_t roots = item.there ? b.roots[item.index] : 0;
  const int32_t first = item.first_slot(b);
  for (uint32_t rest = roots; __any_sync(kAllLanes, rest != 0); rest &= rest - 1) {
    int32_t root = -1, area = 0, x0 = b.W, x1 = 0, y1 = 0;
    if (rest) {
      const int start = __ffs(static_cast<int>(rest)) - 1;
      const int32_t own = first + (start >> 1);
      root = compress(b.parent, own);
      if (root != own) {
        roots &= ~(1u << start);
        area = b.area[own], x0 = b.x0[own], x1 = b.x1[own], y1 = b.y1[own];
      }
    }
    add_to_root(b, root, area, x0, x1, y1);
  }
  if (item.there) b.roots[item.index] = roots;
}

// The root of a segment, once sum_blocks_kernel is done: its block's, or the one that this has now.
__device__ inline int32_t root_of(const Batch& b, int32_t slot) { return b.parent[b.parent[slot]]; }

// Turns the bits of a background into those of the mask with its holes filled: what does not touch the border.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) fill_holes_kernel(Batch b) {
  const Word item(b, item_of_thread(kThreads));
  if (!item.there) return;
  const uint32_t background = b.bits[item.index];
  uint32_t rest = background;
  for_starts(starts_of(background), [&](int start) {
    const int32_t root = root_of(b, item.first_slot(b) + (start >> 1));
    if (b.x0[root] == 0 || root / b.half % b.H == 0 || b.x1[root] == b.W || b.y1[root] == b.H) return;
    const int end = end_of(background, start);
    rest &= ~((0xffffffffu >> (32 - (end - start))) << start);
  });
  b.bits[item.index] = inverted(b, item, rest);
}

// Calls f(slot, start) for the components that begin in a word, from the left.
template <class F>
__device__ inline void for_components(const Batch& b, const Word& item, const F& f) {
  const int32_t first = item.first_slot(b);
  for_starts(item.there ? b.roots[item.index] : 0, [&](int start) { f(first + (start >> 1), start); });
}

// Drops all but the components with most pixels of each mask, the first in raster order where they tie: one block a
// mask, and a bisection for the area of the last that stays.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) keep_largest_kernel(Batch b, int32_t most) {
  const int64_t items = static_cast<int64_t>(b.H) * b.words, begin = blockIdx.x * items;
  const auto count_from = [&](int32_t area) {  // how many components have as many pixels at least
    int32_t count = 0;
    for (int64_t i = threadIdx.x; i < items; i += kThreads)
      for_components(b, Word(b, begin + i), [&](int32_t slot, int) { count += b.area[slot] >= area; });
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
    const Word item(b, i < items ? begin + i : int64_t{b.rows} * b.words);
    int32_t equal = 0, total;
    for_components(b, item, [&](int32_t slot, int) { equal += b.area[slot] == least; });
    int32_t before = block_exclusive_sum<kThreads>(equal, &total);
    for_components(b, item, [&](int32_t slot, int) {
      const int32_t area = b.area[slot];
      if (area < least || (area == least && before++ >= ties)) b.area[slot] = 0;
    });
    ties -= total;
  }
}

// How many components begin in each block's words; those of fewer pixels than `least` are dropped before.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    count_components_kernel(Batch b, int32_t least, int64_t* __restrict__ counts) {
  const Word item(b, item_of_thread(kThreads));
  uint32_t roots = item.there ? b.roots[item.index] : 0;
  if (least > 0) {
    for_components(b, item, [&](int32_t slot, int start) {
      if (b.area[slot] >= least) return;
      b.area[slot] = 0;
      roots &= ~(1u << start);
    });
    if (item.there) b.roots[item.index] = roots;
  }
  const int32_t count = block_reduce<kThreads>(__popc(roots), Sum());
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

// The table of components, each at the place that its block's offset and a prefix sum in the block give it. For a label
// image, `begins` gets the place of each mask's first, and a component's x1 makes room for its own; both are counted
// from the first of the batch.
template <int kThreads>
__global__ void __launch_bounds__(kThreads)
    write_components_kernel(Batch b, const int64_t* __restrict__ offsets, int64_t first_image,
                            int32_t* __restrict__ boxes,   // [M, 4]
                            int32_t* __restrict__ areas,   // [M]
                            int64_t* __restrict__ image,   // [M]
                            int32_t* __restrict__ begins)  // [N] or null
{
  const Word item(b, item_of_thread(kThreads));
  int32_t total;
  const int32_t count = item.there ? __popc(b.roots[item.index]) : 0;
  int64_t to = offsets[blockIdx.x] + block_exclusive_sum<kThreads>(count, &total);
  if (begins && item.there && item.word == 0 && item.y(b) == 0)
    begins[item.row / b.H] = static_cast<int32_t>(to - offsets[0]);
  for_components(b, item, [&](int32_t slot, int) {
    int32_t* box = boxes + 4 * to;
    box[0] = b.x0[slot], box[1] = item.y(b), box[2] = b.x1[slot], box[3] = b.y1[slot];
    areas[to] = b.area[slot];
    image[to] = first_image + item.row / b.H;
    if (begins) b.x1[slot] = static_cast<int32_t>(to - offsets[0]);
    ++to;
  });
}

// The label image: the lanes of a warp paint each of its words together.
template <int kThreads>
__global__ void __launch_bounds__(kThreads) paint_labels_kernel(Batch b, const int32_t* __restrict__ begins,
                                                                int32_t* __restrict__ labels)  // [N, H, W]
{
  const Word item(b, item_of_thread(kThreads));
  const uint32_t own = item.there ? b.bits[item.index] : 0;
  const int32_t first_slot = item.first_slot(b), columns = item.there ? columns_of(b, item) : 0;
  const int32_t begin = item.there ? begins[item.row / b.H] : 0;
  const int64_t pixel = int64_t{item.row} * b.W + 32 * item.word;
  for (int i = 0; i < 32; ++i) {
    const uint32_t bits = __shfl_sync(kAllLanes, own, i);
    const int32_t first = __shfl_sync(kAllLanes, first_slot, i), before = __shfl_sync(kAllLanes, begin, i);
    const int64_t to = __shfl_sync(kAllLanes, pixel, i);
    if (lane() >= __shfl_sync(kAllLanes, columns, i)) continue;
    int32_t label = 0;
    if (bits >> lane() & 1) {
      const int32_t root = root_of(b, first + (start_of(bits, lane()) >> 1));
      if (b.area[root] > 0) label = b.x1[root] - before + 1;
    }
    labels[to + lane()] = label;
  }
}

}  // namespace fastcam
