// Components of a mask: runs of bits joined by union-find, their attributes summed on the roots in the end. A call does
// one mask, row by row, with a few dozen operations a run and next to none for a row like the one above. Traffic: the
// mask once; of components only what the rows at work touch. All integers, hence free of order.
#pragma once

#include <cstring>

#include "components.h"

namespace fastcam::FASTCAM_SIMD {
namespace {

// Bits of 64 bytes: q > level.
inline uint64_t mask_word(const uint8_t* q, uint8_t level) {
  uint64_t bits = 0;
#if defined(FASTCAM_AVX512)
  bits = _mm512_cmpgt_epu8_mask(_mm512_loadu_si512(q), _mm512_set1_epi8(static_cast<char>(level)));
#elif defined(FASTCAM_AVX2)
  const __m256i least = _mm256_set1_epi8(static_cast<char>(level + 1));  // level < 255
  for (int i = 0; i < 2; ++i) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + 32 * i));
    const int word = _mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_max_epu8(v, least), v));
    bits |= static_cast<uint64_t>(static_cast<uint32_t>(word)) << (32 * i);
  }
#else
  for (int i = 0; i < 64; ++i) bits |= static_cast<uint64_t>(q[i] > level) << i;
#endif
  return bits;
}

// Joins two components (Rem's algorithm: each step makes one way shorter). Earlier ones are nearer to the root.
inline void join(int32_t* parent, int32_t a, int32_t b) {
  while (true) {
    const int32_t above_a = parent[a], above_b = parent[b];
    if (above_a == above_b) return;
    const bool swap = above_a > above_b;
    const int32_t from = swap ? a : b, high = swap ? above_a : above_b, low = swap ? above_b : above_a;
    parent[from] = low;
    if (from == high) return;
    a = swap ? b : a;
    b = high;
  }
}

inline int bit_count(uint64_t bits) { return __builtin_popcountll(bits); }

// Lists where a row's bits change, which is where its runs start and end; returns how many such edges there are. Those
// before each word are counted, for edges_before().
inline int32_t find_runs(const uint64_t* row, int64_t words, Runs& runs) {
  int32_t count = 0;
  uint64_t carry = 0;
  for (int64_t word = 0; word < words; ++word) {
    const uint64_t m = row[word];
    uint64_t edges = m ^ (m << 1 | carry);  // bits unlike the one to their left
    carry = m >> 63;
    runs.bits[word] = edges;
    runs.before[word] = count;
    int32_t* edge = runs.edge + count;
    count += bit_count(edges);
    const int32_t base = static_cast<int32_t>(64 * word);
    while (edges) {  // by pairs, since how many there are is hard to foresee
      edge[0] = base + static_cast<int32_t>(__builtin_ctzll(edges));
      edges &= edges - 1;
      edge[1] = base + static_cast<int32_t>(__builtin_ctzll(edges | uint64_t{1} << 63));
      edges &= edges - 1;
      edge += 2;
    }
  }
  // A run that reaches the last bit ends behind it.
  runs.bits[words] = carry;
  runs.before[words] = count;
  runs.edge[count] = static_cast<int32_t>(64 * words);
  return count + static_cast<int32_t>(carry);
}

// How many edges lie before a column.
inline int32_t edges_before(const Runs& runs, int32_t column) {
  return runs.before[column >> 6] + bit_count(runs.bits[column >> 6] & ((uint64_t{1} << (column & 63)) - 1));
}

// Whether each run touches one run of the row above, its namesake, and nothing else; as many edges in both.
inline bool goes_on(const Runs& above, const Runs& here, int32_t edges, int32_t reach) {
  const int32_t *const a = above.edge, *const b = here.edge;
  bool yes = true;
  for (int32_t i = 0; i < edges; i += 2) yes &= (a[i] < b[i + 1] + reach) & (b[i] < a[i + 1] + reach);
  for (int32_t i = 1; i + 1 < edges; i += 2) yes &= (a[i] + reach <= b[i + 1]) & (b[i] + reach <= a[i + 1]);
  return yes;
}

// Adds a run [start, end) of row `top`.
inline void grow(Component& c, int32_t start, int32_t end, int32_t top) {
  const Corners corners = {start, top, -end, -top - 1};
  c.corners = corners < c.corners ? corners : c.corners;
  c.area += end - start;
}

// The doubled area of the polygon between a run [start, end) and one above, [a, b).
inline int32_t contour2_between(int32_t start, int32_t end, int32_t a, int32_t b) {
  return 2 * (smaller(end, b) - larger(start, a)) - 2 + (start != a) + (end != b);
}

// Labels the mask; returns how many components were begun. Those that are their own parents are the mask's components,
// in raster order. A run takes over the label of the first run that it touches above, found by counting bits; what it
// adds stays with that label, and goes to the roots in the end: parents come before their children. Branches are few,
// since in a noisy mask nothing can be foreseen. With kKeep all runs are kept, else those of two rows.
template <bool kContour, bool kKeep = false>
int64_t label_mask(Room& room, int32_t reach) {
  Component* const components = room.components;
  int32_t *const parent = room.parent, *const joins = room.joins;
  Runs above = room.runs[0], here = room.runs[1];
  // Above the first row there are no runs.
  for (int64_t word = 0; word <= room.words; ++word) above.bits[word] = 0, above.before[word] = 0;
  if (kKeep) here.edge = room.kept.edge, here.component = room.kept.component;
  int32_t begun = 0;
  int32_t edges = 0;
  for (int64_t y = 0; y < room.H; ++y) {
    const uint64_t* row = room.mask + y * room.words;
    const int32_t top = static_cast<int32_t>(y);
    uint64_t changed = y == 0;
    for (int64_t word = 0; word < room.words && y > 0; ++word) changed |= row[word] ^ row[word - room.words];
    if (!changed) {  // the runs of the row above once more, each under itself
      for (int32_t i = 0; 2 * i < edges; ++i) {
        Component& c = components[above.component[i]];
        const int32_t length = above.edge[2 * i + 1] - above.edge[2 * i];
        c.corners[3] = -top - 1;
        c.area += length;
        c.contour2 += 2 * length - 2;
      }
      if (kKeep) room.rows[y] = room.rows[y - 1];
      continue;
    }
    const int32_t edges_above = edges;
    edges = find_runs(row, room.words, here);
    if (kKeep) room.rows[y] = {here.edge, here.component, edges};
    int32_t* join_end = joins;
    const bool alike = edges == edges_above && goes_on(above, here, edges, reach);
    for (int32_t i = 0; alike && 2 * i < edges; ++i) {  // each run under its own
      const int32_t start = here.edge[2 * i], end = here.edge[2 * i + 1];
      Component& c = components[here.component[i] = above.component[i]];
      grow(c, start, end, top);
      if (kContour) c.contour2 += contour2_between(start, end, above.edge[2 * i], above.edge[2 * i + 1]);
    }
    for (int32_t i = 0; !alike && 2 * i < edges; ++i) {
      const int32_t start = here.edge[2 * i], end = here.edge[2 * i + 1];
      // The runs above that end right of this one's start and start left of its end: they touch, if there are any.
      const int32_t first = edges_before(above, start + 1 - reach) >> 1;
      const int32_t touching = ((edges_before(above, end + reach) + 1) >> 1) - first;
      const int32_t fresh = touching <= 0, inherited = above.component[first];
      const int32_t own = (begun & -fresh) | (inherited & (fresh - 1));  // what is inherited by fresh ones is garbage
      // A fresh component is written in any case, behind the last one, and counted only if the run begins it.
      components[begun] = {Corners{INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX}, 0, 0, 0, start};
      parent[begun] = begun;
      begun += fresh;
      here.component[i] = own;
      Component& c = components[own];
      grow(c, start, end, top);
      if (kContour) {
        int32_t contour2 = 0;  // pairs minus runs tell holes
        for (int32_t j = first; j < first + touching; ++j)
          contour2 += contour2_between(start, end, above.edge[2 * j], above.edge[2 * j + 1]);
        c.contour2 += contour2;
        c.links += larger(touching, 0) - 1;
      }
      // The further runs that touch: seldom more than one.
      join_end[0] = own, join_end[1] = above.component[first + 1];
      for (int32_t j = 2; j < touching; ++j)
        join_end[2 * j - 2] = own, join_end[2 * j - 1] = above.component[first + j];
      join_end += 2 * larger(touching - 1, 0);
    }
    // Joined when the row is done: above.component says which label a run has, not which root.
    for (const int32_t* pair = joins; pair != join_end; pair += 2) join(parent, pair[0], pair[1]);
    const Runs swapped = above;
    above = here;
    here = swapped;
    if (kKeep) here.edge = above.edge + edges + kOvershoot, here.component = above.component + edges / 2 + kOvershoot;
  }
  // Backwards, so that a component is complete before it is added to its parent.
  for (int32_t i = begun - 1; i > 0; --i) {
    if (parent[i] == i) continue;
    const Component& from = components[i];
    Component& to = components[parent[i]];
    to.corners = from.corners < to.corners ? from.corners : to.corners;
    to.area += from.area;
    to.contour2 += from.contour2;
    to.links += from.links;
  }
  return begun;
}

// The bits that a row has in a word of it, the last of which may have fewer than 64.
inline uint64_t bits_of_word(const Room& room, int64_t word) {
  const int64_t columns = room.W - 64 * word;
  return columns < 64 ? (uint64_t{1} << columns) - 1 : ~uint64_t{0};
}

inline void invert(Room& room) {
  for (int64_t y = 0; y < room.H; ++y)
    for (int64_t word = 0; word < room.words; ++word) room.mask[y * room.words + word] ^= bits_of_word(room, word);
}

// Sets what the background has of components that do not touch the border: it is labelled as a mask itself, with the
// other connectivity, and loses those.
void fill_holes(Room& room, int32_t reach) {
  invert(room);
  const int64_t begun = label_mask<false, true>(room, reach);
  const Component* const components = room.components;
  int32_t* const parent = room.parent;
  bool any = false;
  for (int64_t i = 0; i < begun; ++i) {  // parents become 1 for holes and 0 for others, first those that come first
    const Corners& c = components[i].corners;
    if (parent[i] == i)
      parent[i] = c[0] > 0 && c[1] > 0 && -c[2] < room.W && -c[3] < room.H;
    else
      parent[i] = parent[parent[i]];
    any |= parent[i];
  }
  for (int64_t y = 0; y < room.H && any; ++y) {
    const Row& row = room.rows[y];
    uint64_t* const bits = room.mask + y * room.words;
    for (int32_t i = 0; 2 * i < row.edges; ++i) {
      if (!parent[row.component[i]]) continue;
      for (int32_t x = row.edge[2 * i], end = row.edge[2 * i + 1]; x < end;) {
        const int32_t stop = smaller(end, (x | 63) + 1);
        bits[x >> 6] &= ~(~uint64_t{0} >> (64 - (stop - x)) << (x & 63));
        x = stop;
      }
    }
  }
  invert(room);
}

// Bits of the bytes, then labels. The last word of a row may not read beyond it.
int64_t components(Room& room, const uint8_t* mask, int connectivity, bool fill) {
  for (int64_t y = 0; y < room.H; ++y) {
    for (int64_t word = 0; word < room.words; ++word) {
      const uint8_t* from = mask + y * room.W + 64 * word;
      uint64_t bits = 0;
      if (64 * word + 64 <= room.W)
        bits = mask_word(from, 0);
      else
        for (int64_t i = 0; i < room.W - 64 * word; ++i) bits |= static_cast<uint64_t>(from[i] > 0) << i;
      room.mask[y * room.words + word] = bits;
    }
  }
  const int32_t reach = connectivity == 8 ? 1 : 0;
  if (fill) fill_holes(room, 1 - reach);
  return room.rows ? label_mask<false, true>(room, reach) : label_mask<false>(room, reach);
}

// labels[x ... end) = value, four at a time where what follows may be overwritten, since it is still to be written.
inline int32_t paint(int32_t* labels, int32_t x, int32_t end, int32_t value, bool exact) {
  if (exact)
    for (; x < end; ++x) labels[x] = value;
  else
    for (const int32_t four[4] = {value, value, value, value}; x < end; x += 4) std::memcpy(labels + x, four, 16);
  return end;
}

// A row like the one above is copied, others are written run by run.
void paint_runs(const Room& room, const int32_t* number, int32_t* labels) {
  const auto W = static_cast<int32_t>(room.W);
  for (int64_t y = 0; y < room.H; ++y, labels += W) {
    const Row& row = room.rows[y];
    if (y > 0 && row.edge == room.rows[y - 1].edge) {
      std::memcpy(labels, labels - W, static_cast<size_t>(W) * sizeof(int32_t));
      continue;
    }
    const bool exact = y + 1 == room.H || W < 4;  // less than four pixels follow
    int32_t x = 0;
    for (int32_t i = 0; 2 * i < row.edges; ++i) {
      x = paint(labels, x, row.edge[2 * i], 0, exact);
      x = paint(labels, x, row.edge[2 * i + 1], number[row.component[i]], exact);
    }
    paint(labels, x, W, 0, exact);
  }
}

constexpr ComponentsKernels components_kernels = {components, paint_runs};

}  // namespace
}  // namespace fastcam::FASTCAM_SIMD
