// The components of a picture at all 8-bit levels, as a merge tree of a few branches. A block builds it in two steps.
//
// First, rows are cut into hills, which rise and then fall, so that every pixel is connected to its hill's peak by
// pixels as bright as itself. A hill whose peak touches a higher hill is linked to it. Where links end are the regional
// maxima: a branch begins there. A smooth map has few, whatever its size.
//
// Second, where hills of two branches touch, these are connected from the darker pixel's level down. The younger
// branch, with the lower peak, ends there and the elder goes on: a triplet merge tree (Smirnov, Morozov 2017), into
// which all threads put connections at once, by compare-and-swap.
//
// A branch at a level is a component of the mask level >= L. Work: a warp instruction or two a pixel, on any map, and
// some hundred for each place where branches touch; nothing is done level by level. Traffic: the levels, a byte a pixel
// and read a few times, and two bits a pixel for the hills, all in shared memory where there is room. Numbers of hills
// and branches depend on the order of threads; the components that they stand for do not.
#pragma once

#include "../exact.h"
#include "block.cuh"

namespace fastcam {

// A picture of less than 2^16 pixels, in shared memory: a node's doubled area takes 17 bits, its Euler number the rest.
struct SmallTree {
  using Id = uint16_t;
  using Word = uint32_t;
  static constexpr int kLevelShift = 16, kEulerShift = 17;
};

// A picture of less than 2^30 pixels.
struct LargeTree {
  using Id = uint32_t;
  using Word = unsigned long long;
  static constexpr int kLevelShift = 32, kEulerShift = 32;
};

using Rank = unsigned long long;  // of components of a level, see curves.cuh

// How many there is room for, and where in a block's memory the arrays of Tree begin, in bytes.
struct TreePlan {
  int32_t width, height, pitch, row_words, hills, branches, nodes;
  int64_t levels, starts, ends, base, link, peak, branch, kept, kept_x, kept_y, top, depth, count, x, y, leader, rival;
  int64_t bytes;
};

template <class Size>
inline TreePlan plan_tree(int64_t width, int64_t height, int64_t hills, int64_t branches, int64_t nodes) {
  TreePlan p{};
  p.width = static_cast<int32_t>(width), p.height = static_cast<int32_t>(height);
  p.pitch = (p.width + 5 + 3) / 4 * 4, p.row_words = p.width / 32 + 1;
  p.hills = static_cast<int32_t>(hills), p.branches = static_cast<int32_t>(branches);
  p.nodes = static_cast<int32_t>(nodes);
  const int64_t words = height * p.row_words;
  const auto take = [&p](int64_t elements, size_t size) {
    const int64_t at = p.bytes;
    p.bytes += (elements * static_cast<int64_t>(size) + 15) / 16 * 16;
    return at;
  };
  constexpr size_t kId = sizeof(typename Size::Id), kWord = sizeof(typename Size::Word);
  p.levels = take((height + 2) * p.pitch, 1);
  p.starts = take(words, 4), p.ends = take(words, 4);
  p.base = take(words, kId), p.link = take(hills, kId), p.peak = take(hills, 1);
  p.branch = take(branches, 2 * kWord), p.kept = take(branches, kWord);
  p.kept_x = take(branches, 4), p.kept_y = take(branches, 4);
  p.top = take(branches, 1), p.depth = take(branches, 1);
  p.count = take(nodes, kWord), p.x = take(nodes, 4), p.y = take(nodes, 4);
  p.leader = take(256, sizeof(Rank)), p.rival = take(256, sizeof(Rank));
  return p;
}

template <class Size>
struct Tree {
  using Id = typename Size::Id;
  using Word = typename Size::Word;
  static constexpr int kLevelShift = Size::kLevelShift, kEulerShift = Size::kEulerShift;
  static constexpr uint32_t kNowhere = 0xffff;  // extents of nothing: begin | end << 16

  struct alignas(2 * sizeof(Word)) Branch {
    Word merge;     // the level at which it ends << kLevelShift | a branch that goes on; 0: never
    uint32_t node;  // the index of its node at level L, plus L
  };

  int width, height, pitch, row_words, most_hills, most_branches, most_nodes;
  uint8_t* levels;          // [height + 2, pitch] with a border of zeros
  uint32_t *starts, *ends;  // [height, row_words] columns that begin a hill, and columns that first fall behind a peak
  Id *base, *link;       // [height, row_words] the hill in which a word begins; [hills] a hill above, then the branch
  uint8_t* peak;         // [hills] highest level
  Branch* branch;        // [branches]
  uint8_t *top, *depth;  // [branches] highest level; how many branches it goes through to the one that never ends
  Word* kept;            // [branches] its sum above the band of levels
  uint32_t *kept_x, *kept_y;
  Word* count;           // [nodes] doubled contour area | Euler number << kEulerShift
  uint32_t *x, *y;       // [nodes] extents, half-open
  Rank *leader, *rival;  // [256] of a level's components

  __device__ __forceinline__ Tree(const TreePlan& p, unsigned char* at)
      : width(p.width),
        height(p.height),
        pitch(p.pitch),
        row_words(p.row_words),
        most_hills(p.hills),
        most_branches(p.branches),
        most_nodes(p.nodes),
        levels(at + p.levels),
        starts(reinterpret_cast<uint32_t*>(at + p.starts)),
        ends(reinterpret_cast<uint32_t*>(at + p.ends)),
        base(reinterpret_cast<Id*>(at + p.base)),
        link(reinterpret_cast<Id*>(at + p.link)),
        peak(at + p.peak),
        branch(reinterpret_cast<Branch*>(at + p.branch)),
        top(at + p.top),
        depth(at + p.depth),
        kept(reinterpret_cast<Word*>(at + p.kept)),
        kept_x(reinterpret_cast<uint32_t*>(at + p.kept_x)),
        kept_y(reinterpret_cast<uint32_t*>(at + p.kept_y)),
        count(reinterpret_cast<Word*>(at + p.count)),
        x(reinterpret_cast<uint32_t*>(at + p.x)),
        y(reinterpret_cast<uint32_t*>(at + p.y)),
        leader(reinterpret_cast<Rank*>(at + p.leader)),
        rival(reinterpret_cast<Rank*>(at + p.rival)) {}

  static __device__ __forceinline__ int level_of(Word merge) { return static_cast<int>(merge >> kLevelShift); }

  // Columns and rows from -1 to width and height.
  __device__ __forceinline__ uint8_t& level(int column, int row) const {
    return levels[(row + 1) * pitch + column + 4];
  }

  __device__ __forceinline__ int hill(int column, int row) const {
    const int word = row * row_words + (column >> 5);
    return base[word] + __popc(starts[word] & ((2u << (column & 31)) - 1));
  }

  // The branch that branch b belongs to at a level, once all of them are merged.
  __device__ __forceinline__ Id branch_at(Id b, int at_level) const {
    for (Word m; level_of(m = branch[b].merge) >= at_level;) b = static_cast<Id>(m);
    return b;
  }

  __device__ __forceinline__ uint32_t node(Id b, int at_level) const {
    return branch[b].node - static_cast<uint32_t>(at_level);
  }
  __device__ __forceinline__ uint32_t node_at(Id b, int at_level) const {
    return node(branch_at(b, at_level), at_level);
  }

  __device__ __forceinline__ bool alive(int b, int at_level) const {
    return level_of(branch[b].merge) < at_level && at_level <= top[b];
  }
};

// Extents that include both.
FASTCAM_HD uint32_t hull(uint32_t a, uint32_t b) {
  const uint32_t begin_a = a & 0xffff, begin_b = b & 0xffff, end_a = a >> 16, end_b = b >> 16;
  return (begin_a < begin_b ? begin_a : begin_b) | (end_a > end_b ? end_a : end_b) << 16;
}

__device__ __forceinline__ void extend(uint32_t* extents, uint32_t by) {
  uint32_t old = load_relaxed(extents);
  for (uint32_t wanted; (wanted = hull(old, by)) != old;) {
    const uint32_t found = atomicCAS(extents, old, wanted);
    if (found == old) return;
    old = found;
  }
}

// Hills of all rows, a warp a row and a lane a column, 32 columns at a time; returns how many, which may be more than
// there is room for. A row's first hill begins with it, the others in columns that rise after a fall; a peak ends in
// the column before the first fall after a rise. Levels that stay the same are part of what came before.
template <int kThreads, class Size>
__device__ __forceinline__ int find_hills(const Tree<Size>& t) {
  __shared__ int hills;
  __syncthreads();
  if (threadIdx.x == 0) hills = 0;
  __syncthreads();
  for (int y = warp(); y < t.height; y += kThreads / 32) {
    int begun = 0;
    bool falls = false;  // the level's last change
    for (int word = 0; word < t.row_words; ++word) {
      const int x = 32 * word + lane();
      // Votes: how the level changes on the way into each column. Behind the last column lies a border of zeros, so
      // that every hill falls in the end.
      const int here = x <= t.width ? t.level(x, y) : 0, before = x <= t.width ? t.level(x - 1, y) : 0;
      const uint32_t up = __ballot_sync(kAllLanes, here > before), down = __ballot_sync(kAllLanes, here < before);
      // Columns whose last change before them was a fall: from behind each fall to the next change. Adding a seed to a
      // run of columns that stay the same carries through the run: the bits that flip are the run and what is behind
      // it.
      const uint32_t seeds = down << 1 | falls, still = ~(up | down);
      const uint32_t after_fall = ((still + (seeds & still)) ^ still) | seeds;
      if ((up | down) != 0) falls = down > up;
      if (lane() == 0) {
        t.starts[y * t.row_words + word] = up & after_fall;
        t.ends[y * t.row_words + word] = down & ~after_fall;
        t.base[y * t.row_words + word] = static_cast<typename Size::Id>(begun);
      }
      begun += __popc(up & after_fall);
    }
    // Rows take their numbers as they come, for the hills that were counted and the first one.
    int first = 0;
    if (lane() == 0) first = atomicAdd(&hills, begun + 1);
    first = __shfl_sync(kAllLanes, first, 0);
    __syncwarp();
    for (int word = lane(); word < t.row_words; word += 32) t.base[y * t.row_words + word] += first;
  }
  __syncthreads();
  return hills;
}

// visit(hill, x, y): each hill's highest level, last reached in column x. A thread takes a word.
template <int kThreads, class Size, class Visit>
__device__ __forceinline__ void for_peaks(const Tree<Size>& t, const Visit& visit) {
  for (int i = threadIdx.x; i < t.height * t.row_words; i += kThreads)
    for (uint32_t ends = t.ends[i]; ends != 0; ends &= ends - 1) {
      const int y = i / t.row_words, x = 32 * (i - y * t.row_words) + __ffs(static_cast<int>(ends)) - 2;
      visit(t.hill(x, y), x, y);
    }
}

// Links hills to higher ones that they touch with their peaks, and makes branches of those without. Returns how many
// branches, which may be more than there is room for.
template <int kThreads, class Size>
__device__ __forceinline__ int link_hills(const Tree<Size>& t, int hills, int reach) {
  using Id = typename Size::Id;
  constexpr Id kNone = static_cast<Id>(~Id{0});
  __shared__ int branches;
  if (threadIdx.x == 0) branches = 0;
  for (int i = threadIdx.x; i < hills; i += kThreads) t.link[i] = kNone;  // rows of level 0 stay so
  __syncthreads();
  for_peaks<kThreads>(t, [&](int i, int x, int y) { t.peak[i] = t.level(x, y); });
  __syncthreads();
  // A peak is the stretch [x0, x1] of one level. Rows above and below are looked at along it; with diagonal neighbours
  // one column further on both sides.
  for_peaks<kThreads>(t, [&](int i, int x1, int y) {
    const int level = t.level(x1, y);
    int x0 = x1, to = i;
    while (t.level(x0 - 1, y) == level) --x0;
    for (int x = x0 - reach; x <= x1 + reach && to == i; ++x)
      for (int beside = y - 1; beside <= y + 1; beside += 2) {
        if (t.level(x, beside) < level) continue;
        const int other = t.hill(x, beside);
        if (t.peak[other] > level || other > i) to = other;  // upwards, or to the later of equals: never in circles
      }
    t.link[i] = static_cast<Id>(to);
  });
  __syncthreads();
  // Links are followed to where they end; the hills at the ends begin branches.
  Id* const index = reinterpret_cast<Id*>(t.count);  // [hills] there are no nodes yet
  for (int i = threadIdx.x; i < hills; i += kThreads) {
    Id to = load_relaxed(t.link + i);
    if (to == kNone) continue;
    // By way of what other threads have shortened already.
    for (Id next; (next = load_relaxed(t.link + to)) != to; to = next) store_relaxed(t.link + i, next);
    if (static_cast<int>(to) != i) continue;
    const int b = atomicAdd(&branches, 1);
    if (b >= t.most_branches) continue;
    index[i] = static_cast<Id>(b);
    t.branch[b].merge = 0;
    t.top[b] = t.peak[i];
  }
  __syncthreads();
  if (branches > t.most_branches) return branches;
  // From here on links are branches.
  for (int i = threadIdx.x; i < hills; i += kThreads)
    if (t.link[i] != kNone) t.link[i] = index[t.link[i]];
  __syncthreads();
  return branches;
}

// Connects two branches at a level. What connected the younger further down is handed on to the elder.
template <class Size>
__device__ __forceinline__ void connect(const Tree<Size>& t, typename Size::Id a, typename Size::Id b, int level) {
  using Id = typename Size::Id;
  using Word = typename Size::Word;
  // The branch that goes on at the level, and how it ends; what is passed on the way gets a shorter way.
  const auto follow = [&](Id i, Word& merge) {
    merge = load_relaxed(&t.branch[i].merge);
    while (t.level_of(merge) >= level) {
      const Id to = static_cast<Id>(merge);
      const Word next = load_relaxed(&t.branch[to].merge);
      if (t.level_of(next) >= t.level_of(merge))
        atomicCAS(&t.branch[i].merge, merge, merge >> Size::kLevelShift << Size::kLevelShift | static_cast<Id>(next));
      i = to;
      merge = next;
    }
    return i;
  };
  while (true) {
    Word merge_a, merge_b;
    a = follow(a, merge_a);
    b = follow(b, merge_b);
    if (a == b) return;
    // a is the younger from here on, with the lower peak or, where these tie, the smaller number.
    if (t.top[a] > t.top[b] || (t.top[a] == t.top[b] && a > b)) {
      const Id swapped = a;
      a = b;
      b = swapped;
      merge_a = merge_b;
    }
    // The younger ends here, if nobody has changed it since it was read; else all is looked at again.
    if (atomicCAS(&t.branch[a].merge, merge_a, static_cast<Word>(level) << Size::kLevelShift | b) != merge_a) continue;
    if (merge_a == 0) return;
    // It had ended further down, in another branch: the elder is what is connected to that one now.
    a = b;
    b = static_cast<Id>(merge_a);
    level = t.level_of(merge_a);
  }
}

// Connects branches wherever they touch. A thread takes a word of a row, and the places in it where a hill of this row
// or of the next one begins: there are four ways across, to the left, two diagonally, and straight down, anywhere up to
// the next such place.
template <int kThreads, class Size>
__device__ __forceinline__ void connect_branches(const Tree<Size>& t, bool eight) {
  for (int i = threadIdx.x; i < t.height * t.row_words; i += kThreads) {
    const int y = i / t.row_words, word = i - y * t.row_words;
    const bool last = y + 1 == t.height;
    const auto starts = [&](int at) { return t.starts[i + at] | (last ? 0 : t.starts[i + at + t.row_words]); };
    for (uint32_t bits = starts(0) | (word == 0); bits != 0; bits &= bits - 1) {
      const int bit = __ffs(static_cast<int>(bits)) - 1, x0 = 32 * word + bit;
      const int ways = last ? 1 : 4;
      for (int way = x0 > 0 ? 0 : 3; way < ways; ++way) {
        if (way == 0 ? !(t.starts[i] >> bit & 1) : way < 3 && !eight) continue;
        const int xa = way < 2 ? x0 - 1 : x0, xb = way == 2 ? x0 - 1 : x0, below = way == 0 ? y : y + 1;
        const auto a = t.link[t.hill(xa, y)], b = t.link[t.hill(xb, below)];
        if (a == b) continue;
        // The highest level at which two touching pixels of the stretch are both set.
        int level_a = t.level(xa, y), level_b = t.level(xb, below);
        int level = level_a < level_b ? level_a : level_b;
        if (way == 3) {  // the stretch [x0, x1) in which neither row begins another hill
          uint32_t next = bits & (bits - 1);
          int at = 0;
          while (next == 0 && word + ++at < t.row_words) next = starts(at);
          const int x1 = next == 0 ? t.width : 32 * (word + at) + __ffs(static_cast<int>(next)) - 1;
          for (int x = x0 + 1; x < x1; ++x) {
            const int right_a = t.level(x, y), right_b = t.level(x, y + 1);
            const int most_b = eight && level_b > right_b ? level_b : right_b;
            const int to_right_a = right_a < most_b ? right_a : most_b;
            const int to_right_b = eight ? (level_a < right_b ? level_a : right_b) : 0;
            level = level > to_right_a ? level : to_right_a;
            level = level > to_right_b ? level : to_right_b;
            level_a = right_a;
            level_b = right_b;
          }
        }
        if (level > 0) connect(t, a, b, level);
      }
    }
  }
  __syncthreads();
}

struct BranchSummary {
  int deepest;    // branch in the tree
  int contested;  // lowest level with several components; 256 for none
  int64_t nodes;  // of all levels
};

// Shortens the branches' ways and notes how deep each is in the tree. A thread takes a branch, twice: to lead it to the
// branch that goes on at the level at which it ends, and to count how many it goes through.
template <int kThreads, class Size>
__device__ __forceinline__ BranchSummary order_branches(const Tree<Size>& t, int branches) {
  using Id = typename Size::Id;
  using Word = typename Size::Word;
  int deepest = 0, contested = 256, roots = 0;
  int64_t nodes = 0;
  for (int i = threadIdx.x; i < branches; i += kThreads) {
    const Word merge = load_relaxed(&t.branch[i].merge);
    const int end = t.level_of(merge);
    nodes += t.top[i] - end;
    roots += end == 0;
    if (end == 0) continue;
    if (end < t.top[i] && end < contested) contested = end + 1;  // itself and the one in which it ends
    Id to = static_cast<Id>(merge);
    for (Word next; t.level_of(next = load_relaxed(&t.branch[to].merge)) >= end;) to = static_cast<Id>(next);
    store_relaxed(&t.branch[i].merge, static_cast<Word>(end) << Size::kLevelShift | to);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < branches; i += kThreads) {
    int depth = 0;
    for (Word merge = t.branch[i].merge; merge != 0; merge = t.branch[static_cast<Id>(merge)].merge) ++depth;
    t.depth[i] = static_cast<uint8_t>(depth);
    deepest = depth > deepest ? depth : deepest;
  }
  roots = block_reduce<kThreads>(roots, Sum());
  contested = block_reduce<kThreads>(contested, Smaller());
  return {block_reduce<kThreads>(deepest, Larger()), roots > 1 ? 1 : contested, block_reduce<kThreads>(nodes, Sum())};
}

}  // namespace fastcam
