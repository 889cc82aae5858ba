// From a map to the box of its largest component: mask bits, runs of bits joined by union-find, their attributes summed
// on the roots in the end, and the choice among the roots.

// Bits of 64 pixels: lerp(w0, r0, w1, r1) >= cut.
inline uint64_t mask_word(const float* r0, const float* r1, float w0, float w1, float cut) {
  uint64_t bits = 0;
#if defined(FASTCAM_AVX512)
  const __m512 a = _mm512_set1_ps(w0), b = _mm512_set1_ps(w1), c = _mm512_set1_ps(cut);
  for (int i = 0; i < 4; ++i) {
    const __m512 right = _mm512_mul_ps(b, _mm512_loadu_ps(r1 + 16 * i));
    const __m512 v = _mm512_fmadd_ps(a, _mm512_loadu_ps(r0 + 16 * i), right);
    bits |= static_cast<uint64_t>(_mm512_cmp_ps_mask(v, c, _CMP_GE_OQ)) << (16 * i);
  }
#elif defined(FASTCAM_AVX2)
  const __m256 a = _mm256_set1_ps(w0), b = _mm256_set1_ps(w1), c = _mm256_set1_ps(cut);
  for (int i = 0; i < 8; ++i) {
    const __m256 right = _mm256_mul_ps(b, _mm256_loadu_ps(r1 + 8 * i));
    const __m256 v = _mm256_fmadd_ps(a, _mm256_loadu_ps(r0 + 8 * i), right);
    const uint32_t byte = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(v, c, _CMP_GE_OQ)));
    bits |= static_cast<uint64_t>(byte) << (8 * i);
  }
#else
  for (int i = 0; i < 64; ++i) bits |= static_cast<uint64_t>(lerp(w0, r0[i], w1, r1[i]) >= cut) << i;
#endif
  return bits;
}

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

inline uint64_t columns_in(int64_t W, int64_t word) {
  const int64_t left = W - 64 * word;
  return left >= 64 ? ~uint64_t{0} : (uint64_t{1} << left) - 1;
}

void threshold(const Plan<float>& plan, Scratch<float>& s, float cut) {
  for (int64_t y = 0; y < plan.H; ++y) {
    uint64_t* row = s.mask + y * plan.words;
    if (plan.bicubic) {
      output_row(plan, s, y, 0, plan.stride, s.line);
      for (int64_t word = 0; word < plan.words; ++word)
        row[word] = mask_word(s.line + 64 * word, s.line + 64 * word, 1.0f, 0.0f, cut) & columns_in(plan.W, word);
      continue;
    }
    const int64_t a = plan.y0[y] * plan.words, b = plan.y1[y] * plan.words;
    const float w0 = plan.wy0[y], w1 = plan.wy1[y];
    for (int64_t word = 0; word < plan.words; ++word) {
      uint64_t bits;
      if (lerp(w0, s.high[a + word], w1, s.high[b + word]) < cut)
        bits = 0;
      else if (lerp(w0, s.low[a + word], w1, s.low[b + word]) >= cut)
        bits = ~uint64_t{0};
      else
        bits = mask_word(s.rows + 64 * (a + word), s.rows + 64 * (b + word), w0, w1, cut);
      row[word] = bits & columns_in(plan.W, word);
    }
  }
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

// Returns how many edges the row has.
inline int32_t find_runs(const uint64_t* row, int64_t words, Runs& runs) {
  int32_t count = 0;
  uint64_t carry = 0;
  for (int64_t word = 0; word < words; ++word) {
    const uint64_t m = row[word];
    uint64_t edges = m ^ (m << 1 | carry);
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
  runs.bits[words] = carry;
  runs.before[words] = count;
  runs.edge[count] = static_cast<int32_t>(64 * words);
  return count + static_cast<int32_t>(carry);
}

// How many edges lie before a column.
inline int32_t edges_before(const Runs& runs, int32_t column) {
  return runs.before[column >> 6] + bit_count(runs.bits[column >> 6] & ((uint64_t{1} << (column & 63)) - 1));
}

// Labels the mask; returns how many components were begun. Those that are their own parents are the mask's components,
// in raster order. A run takes over the label of the first run that it touches above, found by counting bits; what it
// adds stays with that label, and goes to the roots in the end: parents come before their children. Branches are few,
// since in a noisy mask nothing can be foreseen.
template <bool kContour>
int64_t label_mask(const Plan<float>& plan, Scratch<float>& s, int32_t reach) {
  Component* const components = s.components;
  int32_t *const parent = s.parent, *const joins = s.joins;
  Runs above = s.runs[0], here = s.runs[1];
  for (int64_t word = 0; word <= plan.words; ++word) above.bits[word] = 0, above.before[word] = 0;
  int32_t begun = 0;
  int32_t edges = 0;
  for (int64_t y = 0; y < plan.H; ++y) {
    const uint64_t* row = s.mask + y * plan.words;
    const int32_t top = static_cast<int32_t>(y);
    uint64_t changed = y == 0;
    for (int64_t word = 0; word < plan.words && y > 0; ++word) changed |= row[word] ^ row[word - plan.words];
    if (!changed) {
      for (int32_t i = 0; 2 * i < edges; ++i) {
        Component& c = components[above.component[i]];
        const int32_t length = above.edge[2 * i + 1] - above.edge[2 * i];
        c.corners[3] = -top - 1;
        c.area += length;
        c.contour2 += 2 * length - 2;
      }
      continue;
    }
    edges = find_runs(row, plan.words, here);
    int32_t* join_end = joins;
    for (int32_t i = 0; 2 * i < edges; ++i) {
      const int32_t start = here.edge[2 * i], end = here.edge[2 * i + 1];
      // The runs above that end right of this one's start and start left of its end: they touch, if there are any.
      const int32_t first = edges_before(above, start + 1 - reach) >> 1;
      const int32_t touching = ((edges_before(above, end + reach) + 1) >> 1) - first;
      const int32_t fresh = touching <= 0, inherited = above.component[first];
      const int32_t own = (begun & -fresh) | (inherited & (fresh - 1));  // what is inherited by fresh ones is garbage
      components[begun] = {Corners{INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX}, 0, 0, 0, start};
      parent[begun] = begun;
      begun += fresh;
      here.component[i] = own;
      Component& c = components[own];
      const Corners corners = {start, top, -end, -top - 1};
      c.corners = corners < c.corners ? corners : c.corners;
      c.area += end - start;
      if (kContour) {
        int32_t contour2 = 0;
        for (int32_t j = first; j < first + touching; ++j) {
          const int32_t a = above.edge[2 * j], b = above.edge[2 * j + 1];
          contour2 += 2 * (smaller(end, b) - larger(start, a)) - 2 + (start != a) + (end != b);
        }
        c.contour2 += contour2;
        c.links += larger(touching, 0) - 1;
      }
      // The further runs that touch: seldom more than one.
      join_end[0] = own, join_end[1] = above.component[first + 1];
      for (int32_t j = 2; j < touching; ++j)
        join_end[2 * j - 2] = own, join_end[2 * j - 1] = above.component[first + j];
      join_end += 2 * larger(touching - 1, 0);
    }
    for (const int32_t* pair = joins; pair != join_end; pair += 2) join(parent, pair[0], pair[1]);
    const Runs swapped = above;
    above = here;
    here = swapped;
  }
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

// Doubled area inside a component's outer border: at most this, without following it.
inline int64_t area2_bound(const Component& c) {
  const int64_t across = -c.corners[2] - c.corners[0] - 1, down = -c.corners[3] - c.corners[1] - 1;
  return c.links > -1 ? 2 * across * down : c.contour2;
}

// The component with the largest area inside its outer border, the last in raster order where they tie. Borders are
// followed only of components with holes, and only where more than one component can win.
const Component* largest_contour(const Plan<float>& plan, const Scratch<float>& s, int64_t begun) {
  int64_t least = -1, candidates = 0;
  for (int64_t i = 0; i < begun; ++i)
    if (s.parent[i] == i) least = larger<int64_t>(s.components[i].contour2, least);
  const Component* winner = nullptr;
  for (int64_t i = 0; i < begun; ++i) {
    if (s.parent[i] != i || area2_bound(s.components[i]) < least) continue;
    winner = s.components + i;
    ++candidates;
  }
  if (candidates <= 1) return winner;
  int64_t best = least;
  for (int64_t i = 0; i < begun; ++i) {
    const Component& c = s.components[i];
    if (s.parent[i] != i || area2_bound(c) < best) continue;
    const int64_t area2 = c.links == -1 ? c.contour2
                                        : outer_area2(Bits{s.mask, plan.words}, static_cast<int>(plan.W),
                                                      static_cast<int>(plan.H), c.first_x, c.corners[1]);
    if (area2 >= best) best = area2, winner = &c;
  }
  return winner;
}

// The component with most pixels, the first in raster order where they tie.
const Component* most_pixels(const Scratch<float>& s, int64_t begun) {
  int64_t best = -1;
  const Component* winner = nullptr;
  for (int64_t i = 0; i < begun; ++i)
    if (s.parent[i] == i && s.components[i].area > best) best = s.components[i].area, winner = s.components + i;
  return winner;
}

// Labels the mask and writes the chosen component's box, half-open; zeros without one.
void largest_box(const Plan<float>& plan, Scratch<float>& s, Choice choice, int32_t* out) {
  const int32_t reach = choice.connectivity == 8 ? 1 : 0;
  const int64_t begun = choice.contour ? label_mask<true>(plan, s, reach) : label_mask<false>(plan, s, reach);
  const Component* winner = choice.contour ? largest_contour(plan, s, begun) : most_pixels(s, begun);
  const Corners corners = winner ? winner->corners : Corners{};
  out[0] = corners[0];
  out[1] = corners[1];
  out[2] = -corners[2];
  out[3] = -corners[3];
}

void boxes(const Plan<float>& plan, Scratch<float>& s, const float* coarse, const float* levels, int64_t count,
           bool absolute, Choice choice, int32_t* out) {
  bool usable = load_coarse(plan, s, coarse);
  float low = 0, high = 0;
  if (usable) {
    expand_rows(plan, s);
    if (!absolute) {
      extremes(plan, s, low, high);
      usable = finite(high - low) && high > low;
    } else if (!plan.bicubic) {
      bound_rows(plan, s);
    }
  }
  for (int64_t t = 0; t < count; ++t, out += 4) {
    const float cut = !usable ? INFINITY : absolute ? above(levels[t]) : cutoff(low, high, levels[t]);
    if (cut == INFINITY) {
      out[0] = out[1] = out[2] = out[3] = 0;
      continue;
    }
    threshold(plan, s, cut);
    largest_box(plan, s, choice, out);
  }
}

int64_t components(const Plan<float>& plan, Scratch<float>& s, const uint8_t* mask, int connectivity) {
  for (int64_t y = 0; y < plan.H; ++y) {
    for (int64_t word = 0; word < plan.words; ++word) {
      const uint8_t* from = mask + y * plan.W + 64 * word;
      uint64_t bits = 0;
      if (64 * word + 64 <= plan.W)
        bits = mask_word(from, 0);
      else
        for (int64_t i = 0; i < plan.W - 64 * word; ++i) bits |= static_cast<uint64_t>(from[i] > 0) << i;
      s.mask[y * plan.words + word] = bits;
    }
  }
  return label_mask<false>(plan, s, connectivity == 8 ? 1 : 0);
}
