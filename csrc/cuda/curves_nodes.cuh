// The nodes of a merge tree (curves_tree.cuh), which are its branches at each level, for a band of levels: doubled
// contour area, Euler number and extents of the components. All are sums, minima or maxima of what single places add to
// one node and hence to all below it, free of order. A 2x2 quad adds half a unit of area where its third pixel is set,
// and where its fourth is. The Euler number of an 8-connected component is its number of quads with the upper left
// pixel alone, minus those with the upper right and lower left but without the lower right. Columns and rows add
// extents where they peak. Work: a lane has four columns and goes down them, some hundred warp instructions for 32
// quads of each; then one step of a thread for each node. Traffic: the levels once more, and an atomic addition or two
// for a quad, all in shared memory where there is room. Integers only, so that the order of additions does not matter.
#pragma once

#include "curves_tree.cuh"

namespace fastcam {

// How many components each level has, in alive[256].
template <int kThreads, class Size>
__device__ __forceinline__ void count_components(const Tree<Size>& t, int branches, int* alive) {
  __syncthreads();
  for (int i = threadIdx.x; i < 256; i += kThreads) alive[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < branches; i += kThreads)
    for (int level = t.level_of(t.branch[i].merge) + 1; level <= t.top[i]; ++level) atomicAdd(alive + level, 1);
  __syncthreads();
}

// Gives each branch its nodes of the levels from low to high, empty. The nodes of a branch lie one behind the other,
// from its highest level down, and `node` is such that level L has node - L; which branch comes first does not matter.
template <int kThreads, class Size>
__device__ __forceinline__ void place_nodes(const Tree<Size>& t, int branches, int low, int high) {
  __shared__ int placed;
  __syncthreads();
  if (threadIdx.x == 0) placed = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < branches; i += kThreads) {
    const int end = t.level_of(t.branch[i].merge);
    const int first = t.top[i] < high ? t.top[i] : high, last = end < low ? low : end + 1;
    if (first >= last) t.branch[i].node = static_cast<uint32_t>(atomicAdd(&placed, first - last + 1) + first);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < placed; i += kThreads) {
    t.count[i] = 0;
    t.x[i] = t.y[i] = t.kNowhere;
  }
  __syncthreads();
}

// A row's levels and branches in four columns of this lane, and in the one to their right.
struct Five {
  int level[5];
  uint32_t branch[5];
};

// Columns x to x + 4; x is a multiple of 4, and the next lane has x + 4.
template <class Size>
__device__ __forceinline__ Five five_of(const Tree<Size>& t, int x, int y) {
  Five five{};
  // Four levels as one word; behind the last column lie zeros.
  const uint32_t four = x < t.width ? *reinterpret_cast<const uint32_t*>(&t.level(x, y)) : 0;
  if (four != 0) {
    // The hill of the first column is counted, those of the others are the same or the next one. x is a multiple of 4,
    // so that all four are in one word.
    const int word = y * t.row_words + (x >> 5);
    const uint32_t starts = t.starts[word], up_to_x = (2u << (x & 31)) - 1, more = starts & ~up_to_x;
    const auto* link = t.link + (t.base[word] + __popc(starts & up_to_x));
    five.branch[0] = *link;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      five.level[i] = static_cast<int>(four >> 8 * i & 0xff);
      if (i == 0) continue;
      const bool begins = more >> ((x & 31) + i) & 1;
      link += begins;
      five.branch[i] = begins ? *link : five.branch[i - 1];
    }
  }
  five.level[4] = __shfl_down_sync(kAllLanes, five.level[0], 1);
  five.branch[4] = __shfl_down_sync(kAllLanes, five.branch[0], 1);
  return five;
}

// What nodes have by themselves, without the levels above them; areas and Euler numbers not below level `least`, where
// they are of no use. A warp takes 4 x 31 columns and goes down some rows; its last lane only serves the one before.
template <int kThreads, class Size>
__device__ __forceinline__ void measure(const Tree<Size>& t, int low, int high, int least) {
  using Id = typename Size::Id;
  using Word = typename Size::Word;
  constexpr int kColumns = 4 * 31, kWarps = kThreads / 32;
  constexpr Word kEuler = Word{1} << Size::kEulerShift;
  const int lowest = low > least ? low : least;
  // Adds at a level to what holds branch b there, which b becomes: levels are added to from the highest down, so that
  // each look begins where the last one ended.
  const auto add = [&](typename Tree<Size>::Branch& b, int level, Word value) {
    while (t.level_of(b.merge) >= level) b = t.branch[static_cast<Id>(b.merge)];
    if (level <= high) atomicAdd(t.count + (b.node - static_cast<uint32_t>(level)), value);
  };
  // Warps take chunks of at least 8 rows, in strips of columns; each reads one row of the next chunk.
  const int strips = (t.width + kColumns - 1) / kColumns, share = (t.height * strips + kWarps - 1) / kWarps;
  const int rows = share > 8 ? share : 8, chunks = (t.height + rows - 1) / rows;
  for (int i = warp(); i < strips * chunks; i += kWarps) {
    const int chunk = i / strips, x = kColumns * (i - chunk * strips) + 4 * lane(), y0 = rows * chunk;
    const int y1 = y0 + rows < t.height ? y0 + rows : t.height;
    bool rises[4] = {true, true, true, true};  // whether the level rose when it last changed, going down the column
    Five upper = five_of(t, x, y0);
    for (int y = y0; y < y1; ++y) {
      const Five lower = five_of(t, x, y + 1);
#pragma unroll
      for (int k = 0; k < 4 && lane() < 31; ++k) {
        // A column reaches into a component where it peaks; one peak too many does no harm.
        const int here = upper.level[k], below = lower.level[k];
        if (rises[k] && below < here && low <= here && here <= high) {
          const uint32_t column = static_cast<uint32_t>(x + k);
          extend(t.x + t.node_at(static_cast<Id>(upper.branch[k]), here), column | (column + 1) << 16);
        }
        if (here != below) rises[k] = here < below;
        if (lowest > high) continue;
        // The pixels of the quad, a b above c d, by level; where equal, such that little has to be added. The last two
        // bits tell which pixel it is: a 0, c 1, d 2, b 3, and the larger comes first. Levels are those >> 2.
        const int a = 4 * here, b = 4 * upper.level[k + 1] + 3, c = 4 * below + 1, d = 4 * lower.level[k + 1] + 2;
        const int less_ab = a < b ? a : b, more_ab = a < b ? b : a, less_cd = c < d ? c : d, more_cd = c < d ? d : c;
        const int more_less = less_ab < less_cd ? less_cd : less_ab, less_more = more_ab < more_cd ? more_ab : more_cd;
        const int first = more_ab < more_cd ? more_cd : more_ab, fourth = less_ab < less_cd ? less_ab : less_cd;
        const int second = more_less < less_more ? less_more : more_less;
        const int third = more_less < less_more ? more_less : less_more;
        // How the quad fills as the level falls: a alone at first; b and c, on a diagonal, before the others (both are
        // odd); d last of all.
        const bool a_alone = first == a, b_and_c = first & second & 1, d_last = fourth == d;
        // The branch of a pixel that is set when the third one comes: all that are set then are connected.
        auto at = t.branch[a >= third ? upper.branch[k] : lower.branch[k + 1]];
        // Euler number: one more where a is alone, until another pixel joins it.
        if (a_alone && first >> 2 >= lowest) {
          add(at, first >> 2, kEuler);
          if (second >> 2 >= lowest) add(at, second >> 2, Word{0} - kEuler);
        }
        // One less while b and c are set and d is not: from the second pixel on where these are the first two, else,
        // below, from the third; until d comes.
        if (b_and_c && second >> 2 >= lowest) {
          auto at_b = t.branch[upper.branch[k + 1]];
          add(at_b, second >> 2, Word{0} - kEuler);
        }
        if (third >> 2 < lowest) continue;
        // Half a unit of area with the third pixel and with the fourth, in one addition where these have one level.
        const bool flat = third >> 2 == fourth >> 2;
        const Word fourth_value = 1 + (d_last ? kEuler : 0);
        add(at, third >> 2, 1 + (b_and_c ? kEuler : 0) - (d_last ? kEuler : 0) + (flat ? fourth_value : 0));
        if (!flat && fourth >> 2 >= lowest) add(at, fourth >> 2, fourth_value);
      }
      upper = lower;
    }
  }
  // A row reaches into a component where a hill peaks.
  for_peaks<kThreads>(t, [&](int hill, int x, int y) {
    const int level = t.level(x, y);
    if (low <= level && level <= high)
      extend(t.y + t.node_at(t.link[hill], level), static_cast<uint32_t>(y) | (y + 1u) << 16);
  });
  __syncthreads();
}

// Adds to every node what is above it. A thread follows a branch down, after all that end in it: the deepest in the
// tree first, a barrier after each depth. What a branch has at the lower end of the band is kept for the next band.
template <int kThreads, class Size>
__device__ __forceinline__ void sum_nodes(const Tree<Size>& t, int branches, int deepest, int low, int high) {
  using Id = typename Size::Id;
  for (int depth = deepest; depth >= 0; --depth) {
    for (int i = threadIdx.x; i < branches; i += kThreads) {
      if (t.depth[i] != depth) continue;
      const auto merge = t.branch[i].merge;
      const int top = t.top[i], end = t.level_of(merge);
      if (top < low || end > high || top == end) continue;
      const bool begun = top > high;  // in a band above this one
      typename Size::Word count = begun ? t.kept[i] : 0;
      uint32_t x = begun ? t.kept_x[i] : t.kNowhere, y = begun ? t.kept_y[i] : t.kNowhere;
      for (int level = begun ? high : top; level > end && level >= low; --level) {
        const uint32_t at = t.branch[i].node - static_cast<uint32_t>(level);
        t.count[at] = count += t.count[at];
        t.x[at] = x = hull(x, t.x[at]);
        t.y[at] = y = hull(y, t.y[at]);
      }
      if (end < low) {  // it goes on below the band
        t.kept[i] = count;
        t.kept_x[i] = x;
        t.kept_y[i] = y;
        continue;
      }
      // It ends within the band: the branch that goes on takes over its sums at that level.
      const uint32_t at = t.branch[static_cast<Id>(merge)].node - static_cast<uint32_t>(end);
      atomicAdd(t.count + at, count);
      extend(t.x + at, x);
      extend(t.y + at, y);
    }
    __syncthreads();
  }
}

}  // namespace fastcam
