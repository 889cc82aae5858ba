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

inline int32_t root_of(int32_t* parents, int32_t i) {
  while (parents[i] != i) {
    parents[i] = parents[parents[i]];
    i = parents[i];
  }
  return i;
}

// Joins two components; the earlier run stays the root, so that roots are first pixels in raster order.
inline int32_t join(int32_t* parents, Component* components, int32_t a, int32_t b) {
  const int32_t root = a < b ? a : b, other = a < b ? b : a;
  parents[other] = root;
  Component &to = components[root], &from = components[other];
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
  int32_t *const columns = &runs->start, *to = columns;
  uint64_t carry = 0;
  for (int64_t word = 0; word < words; ++word) {
    const uint64_t m = row[word];
    uint64_t edges = m ^ (m << 1 | carry);
    carry = m >> 63;
    for (; edges; edges &= edges - 1) *to++ = static_cast<int32_t>(64 * word + __builtin_ctzll(edges));
  }
  if ((to - columns) & 1) *to++ = static_cast<int32_t>(W);
  return (to - columns) / 2;
}

// Labels the runs of the mask's rows [first_row, last_row); returns how many there are. Runs of one row are in order,
// rows follow each other. A row that repeats the one above adds no runs: those above grow.
int64_t label(const Plan<float>& plan, Scratch<float>& s, int64_t first_row, int64_t last_row, int connectivity) {
  const int32_t reach = connectivity == 8 ? 1 : 0;
  Run* runs = s.runs;
  int32_t* parents = s.parents;
  Component* components = s.components;
  int64_t count = 0, above_begin = 0, above_end = 0;
  for (int64_t y = first_row; y < last_row; ++y) {
    const uint64_t* row = s.mask + y * plan.words;
    const int32_t bottom = static_cast<int32_t>(y + 1);
    uint64_t changed = y == first_row;
    for (int64_t word = 0; !changed && word < plan.words; ++word) changed = row[word] ^ row[word - plan.words];
    if (!changed) {
      for (int64_t j = above_begin; j < above_end; ++j) {
        Component& c = components[root_of(parents, static_cast<int32_t>(j))];
        const int32_t length = runs[j].end - runs[j].start;
        c.y1 = bottom;
        c.area += length;
        c.contour2 += 2 * length - 2;
      }
      continue;
    }
    const int64_t begin = count;
    count += find_runs(row, plan.words, plan.W, runs + begin);
    int64_t above = above_begin;
    for (int64_t i = begin; i < count; ++i) {
      const Run run = runs[i];
      while (above < above_end && runs[above].end + reach <= run.start) ++above;
      if (above == above_end || runs[above].start >= run.end + reach) {  // nothing above: a component begins
        parents[i] = static_cast<int32_t>(i);
        components[i] = {run.start, static_cast<int32_t>(y), run.end, bottom, run.end - run.start, 0, -1};
        continue;
      }
      int32_t root = root_of(parents, static_cast<int32_t>(above));
      int64_t contour2 = 0, links = -1;
      for (int64_t j = above; j < above_end && runs[j].start < run.end + reach; ++j) {
        const int32_t overlap = smaller(run.end, runs[j].end) - larger(run.start, runs[j].start);
        contour2 += 2 * overlap - 2 + (run.start != runs[j].start) + (run.end != runs[j].end);
        links += 1;
        if (j == above) continue;
        const int32_t other = root_of(parents, static_cast<int32_t>(j));
        if (other != root) root = join(parents, components, root, other);
      }
      parents[i] = root;
      Component& c = components[root];
      c.x0 = smaller(run.start, c.x0);
      c.x1 = larger(run.end, c.x1);
      c.y1 = bottom;
      c.area += run.end - run.start;
      c.contour2 += contour2;
      c.links += links;
    }
    above_begin = begin;
    above_end = count;
  }
  return count;
}

// Doubled area inside a component's outer border, between what is known without following it: contour2 (holes left
// out) and the area of its box.
inline int64_t area2_bound(const Component& c) {
  return c.links > -1 ? 2 * static_cast<int64_t>(c.x1 - c.x0 - 1) * (c.y1 - c.y0 - 1) : c.contour2;
}

// The component with the largest area inside its outer border, the last in raster order where they tie. Borders are
// followed only of components with holes, and only where more than one component can win.
const Component* largest_contour(const Plan<float>& plan, const Scratch<float>& s, int64_t runs) {
  int64_t least = -1, candidates = 0;
  for (int64_t i = 0; i < runs; ++i)
    if (s.parents[i] == i) least = larger(s.components[i].contour2, least);
  const Component* winner = nullptr;
  for (int64_t i = 0; i < runs; ++i) {
    if (s.parents[i] != i || area2_bound(s.components[i]) < least) continue;
    winner = s.components + i;
    ++candidates;
  }
  if (candidates <= 1) return winner;
  int64_t best = least;
  for (int64_t i = 0; i < runs; ++i) {
    const Component& c = s.components[i];
    if (s.parents[i] != i || area2_bound(c) < best) continue;
    const int64_t area2 = c.links == -1 ? c.contour2
                                        : outer_area2(Bits{s.mask, plan.words}, static_cast<int>(plan.W),
                                                      static_cast<int>(plan.H), s.runs[i].start, c.y0);
    if (area2 >= best) best = area2, winner = &c;
  }
  return winner;
}

// The component with most pixels, the first in raster order where they tie.
const Component* most_pixels(const Scratch<float>& s, int64_t runs) {
  int64_t best = -1;
  const Component* winner = nullptr;
  for (int64_t i = 0; i < runs; ++i)
    if (s.parents[i] == i && s.components[i].area > best) best = s.components[i].area, winner = s.components + i;
  return winner;
}

// Labels the mask's rows [first_row, last_row) and writes the chosen component's box, half-open; zeros without one.
void largest_box(const Plan<float>& plan, Scratch<float>& s, int64_t first_row, int64_t last_row, Choice choice,
                 int32_t* out) {
  const int64_t runs = label(plan, s, first_row, last_row, choice.connectivity);
  const Component* winner = choice.contour ? largest_contour(plan, s, runs) : most_pixels(s, runs);
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
    largest_box(plan, s, 0, plan.H, choice, out);
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
  return label(plan, s, 0, plan.H, connectivity);
}
