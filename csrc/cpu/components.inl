// From a map to the box of its largest component: mask bits, runs of bits joined by union-find with their attributes on
// the roots, and the choice among the roots.

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

inline int32_t root_of(Component* components, int32_t i) {
  while (components[i].parent != i) {
    components[i].parent = components[components[i].parent].parent;
    i = components[i].parent;
  }
  return i;
}

// Joins two roots. The earlier stays: components are numbered by their first pixels in raster order.
inline int32_t join(Component* components, int32_t a, int32_t b) {
  const int32_t root = a < b ? a : b, other = a < b ? b : a;
  Component &to = components[root], &from = components[other];
  from.parent = root;
  to.x0 = smaller(to.x0, from.x0);
  to.x1 = larger(to.x1, from.x1);
  to.y1 = larger(to.y1, from.y1);
  to.area += from.area;
  to.contour2 += from.contour2;
  to.links += from.links;
  return root;
}

// Writes the columns where one row of the mask changes, which are its runs' starts and ends in turn; returns how many
// runs.
inline int64_t find_runs(const uint64_t* row, int64_t words, int64_t W, Run* runs) {
  Run* run = runs;
  uint64_t carry = 0;
  bool open = false;
  for (int64_t word = 0; word < words; ++word) {
    const uint64_t m = row[word];
    uint64_t edges = m ^ (m << 1 | carry);
    carry = m >> 63;
    for (; edges; edges &= edges - 1) {
      const int32_t x = static_cast<int32_t>(64 * word + __builtin_ctzll(edges));
      (open ? run->end : run->start) = x;
      run += open;
      open = !open;
    }
  }
  if (open) (run++)->end = static_cast<int32_t>(W);
  return run - runs;
}

// Labels the mask; returns how many components were begun. Those that are their own parent are the mask's components,
// in raster order. A row that repeats the one above makes its runs' components grow.
int64_t label(const Plan<float>& plan, Scratch<float>& s, int connectivity) {
  const int32_t reach = connectivity == 8 ? 1 : 0;
  Component* components = s.components;
  Run *above = s.runs[0], *here = s.runs[1];
  int64_t begun = 0, above_count = 0;
  for (int64_t y = 0; y < plan.H; ++y) {
    const uint64_t* row = s.mask + y * plan.words;
    const int32_t top = static_cast<int32_t>(y), bottom = top + 1;
    uint64_t changed = y == 0;
    for (int64_t word = 0; !changed && word < plan.words; ++word) changed = row[word] ^ row[word - plan.words];
    if (!changed) {
      for (int64_t j = 0; j < above_count; ++j) {
        Component& c = components[root_of(components, above[j].component)];
        const int32_t length = above[j].end - above[j].start;
        c.y1 = bottom;
        c.area += length;
        c.contour2 += 2 * length - 2;
      }
      continue;
    }
    const int64_t count = find_runs(row, plan.words, plan.W, here);
    int64_t first = 0;  // of the runs above that may touch
    for (int64_t i = 0; i < count; ++i) {
      const int32_t start = here[i].start, end = here[i].end;
      while (first < above_count && above[first].end + reach <= start) ++first;
      if (first == above_count || above[first].start >= end + reach) {  // nothing above: a component begins
        const int32_t index = static_cast<int32_t>(begun++);
        components[index] = {index, start, top, end, bottom, start, end - start, 0, -1};
        here[i].component = index;
        continue;
      }
      int32_t root = root_of(components, above[first].component);
      int32_t contour2 = 0, links = -1;
      for (int64_t j = first; j < above_count && above[j].start < end + reach; ++j) {
        const int32_t overlap = smaller(end, above[j].end) - larger(start, above[j].start);
        contour2 += 2 * overlap - 2 + (start != above[j].start) + (end != above[j].end);
        links += 1;
        if (j == first) continue;
        const int32_t other = root_of(components, above[j].component);
        if (other != root) root = join(components, root, other);
      }
      here[i].component = root;
      Component& c = components[root];
      c.x0 = smaller(start, c.x0);
      c.x1 = larger(end, c.x1);
      c.y1 = bottom;
      c.area += end - start;
      c.contour2 += contour2;
      c.links += links;
    }
    Run* const swapped = above;
    above = here;
    here = swapped;
    above_count = count;
  }
  return begun;
}

inline bool is_root(const Component* components, int64_t i) { return components[i].parent == i; }

// Doubled area inside a component's outer border: at most this, without following it.
inline int64_t area2_bound(const Component& c) {
  return c.links > -1 ? 2 * static_cast<int64_t>(c.x1 - c.x0 - 1) * (c.y1 - c.y0 - 1) : c.contour2;
}

// The component with the largest area inside its outer border, the last in raster order where they tie. Borders are
// followed only of components with holes, and only where more than one component can win.
const Component* largest_contour(const Plan<float>& plan, const Scratch<float>& s, int64_t begun) {
  int64_t least = -1, candidates = 0;
  for (int64_t i = 0; i < begun; ++i)
    if (is_root(s.components, i)) least = larger<int64_t>(s.components[i].contour2, least);
  const Component* winner = nullptr;
  for (int64_t i = 0; i < begun; ++i) {
    if (!is_root(s.components, i) || area2_bound(s.components[i]) < least) continue;
    winner = s.components + i;
    ++candidates;
  }
  if (candidates <= 1) return winner;
  int64_t best = least;
  for (int64_t i = 0; i < begun; ++i) {
    const Component& c = s.components[i];
    if (!is_root(s.components, i) || area2_bound(c) < best) continue;
    const int64_t area2 = c.links == -1 ? c.contour2
                                        : outer_area2(Bits{s.mask, plan.words}, static_cast<int>(plan.W),
                                                      static_cast<int>(plan.H), c.first_x, c.y0);
    if (area2 >= best) best = area2, winner = &c;
  }
  return winner;
}

// The component with most pixels, the first in raster order where they tie.
const Component* most_pixels(const Scratch<float>& s, int64_t begun) {
  int64_t best = -1;
  const Component* winner = nullptr;
  for (int64_t i = 0; i < begun; ++i)
    if (is_root(s.components, i) && s.components[i].area > best) best = s.components[i].area, winner = s.components + i;
  return winner;
}

// Labels the mask and writes the chosen component's box, half-open; zeros without one.
void largest_box(const Plan<float>& plan, Scratch<float>& s, Choice choice, int32_t* out) {
  const int64_t begun = label(plan, s, choice.connectivity);
  const Component* winner = choice.contour ? largest_contour(plan, s, begun) : most_pixels(s, begun);
  out[0] = winner ? winner->x0 : 0;
  out[1] = winner ? winner->y0 : 0;
  out[2] = winner ? winner->x1 : 0;
  out[3] = winner ? winner->y1 : 0;
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
  return label(plan, s, connectivity);
}
