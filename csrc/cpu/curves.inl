// Contours of a picture at all 8-bit levels, in one pass over its pixels. From the brightest level down each pixel
// begins a region, grows one, or joins several; which, and how the area of the contour polygon changes, depends on its
// eight neighbours alone. A neighbour is there already when it is brighter, or as bright and earlier in raster order,
// so that all neighbourhoods are known beforehand, as bytes. Most pixels only grow the region of a neighbour: they take
// over its label and add to that region's record, without asking which component the region has become part of. That is
// settled once a level, for the regions that grew. The background's holes are found by the same pass upwards. A call
// does one map, with a dozen operations a pixel and some for each component at each level. Traffic: the map once, then
// a few bytes a pixel of work space, in the order of levels and hence all over the place. Integers but for the IoU,
// whose maximum is free of order.
#pragma once

#include "../contour.h"
#include "../iou.h"
#include "curves.h"
#include "vectors.inl"

namespace fastcam::FASTCAM_SIMD {
namespace {

// What adding a pixel does, by its neighbours in raster order (bit 0 north-west ... bit 7 south-east).
struct Step {
  int8_t size, euler4, groups;
  uint8_t member[4];  // a neighbour of each group; groups are connected without the pixel
};

struct Steps {
  Step of[256];
};

// Connectivity 8 for the mask, whose size is the doubled area of the contour polygon; 4 for the background, whose size
// is its pixels.
constexpr Steps make_steps(int connectivity) {
  // North-west, north, north-east, west, east, south-west, south, south-east.
  const int dx[8] = {-1, 0, 1, -1, 1, -1, 0, 1}, dy[8] = {-1, -1, -1, 0, 0, 1, 1, 1};
  // The 2x2 quads around a pixel: the corner opposite to it, and its two neighbours along the axes.
  const int corner[4] = {0, 2, 5, 7}, side[4] = {1, 1, 3, 4}, other[4] = {3, 4, 6, 6};
  const int apart = connectivity == 8 ? 2 : 1;  // squared distance of neighbours
  Steps steps{};
  for (int pattern = 0; pattern < 256; ++pattern) {
    Step& step = steps.of[pattern];
    step.size = connectivity == 4;
    for (int quad = 0; connectivity == 8 && quad < 4; ++quad) {
      const int a = pattern >> corner[quad] & 1, b = pattern >> side[quad] & 1, c = pattern >> other[quad] & 1;
      const int set = a + b + c;
      step.size += set >= 2;  // three set pixels are half a unit of area, four a whole one
      // Gray's formula: quads with one pixel count 1, with three -1, with two on a diagonal -2.
      const int before = set == 1 ? 1 : set == 3 ? -1 : set == 2 && !a ? -2 : 0;
      const int after = set == 0 ? 1 : set == 2 ? -1 : set == 1 && a ? -2 : 0;
      step.euler4 += after - before;
    }
    int seen = 0;
    for (int start = 0; start < 8; ++start) {
      if (!(pattern >> start & 1) || seen >> start & 1) continue;
      if (dx[start] * dx[start] + dy[start] * dy[start] > apart) continue;  // touches the others, not the pixel
      int group = 1 << start;
      for (int round = 0; round < 8; ++round)
        for (int i = 0; i < 8; ++i)
          for (int j = 0; j < 8; ++j) {
            const int x = dx[i] - dx[j], y = dy[i] - dy[j];
            if (group >> j & 1 && pattern >> i & 1 && x * x + y * y <= apart) group |= 1 << i;
          }
      seen |= group;
      int member = 7;  // the last: those after a pixel are of another level, whose labels have been there for long
      while (!(group >> member & 1) || dx[member] * dx[member] + dy[member] * dy[member] > apart) --member;
      step.member[step.groups++] = static_cast<uint8_t>(member);
    }
  }
  return steps;
}

constexpr Steps kMaskSteps = make_steps(8), kBackgroundSteps = make_steps(4);

// The same as a table of what a pass reads for every pixel: sums, and one neighbour's offset in pixel arrays.
void growths(const Levels& l) {
  for (int i = 0; i < 2; ++i)
    for (int pattern = 0; pattern < 256; ++pattern) {
      const Step& step = (i == 0 ? kMaskSteps : kBackgroundSteps).of[pattern];
      l.growth[i][pattern] = {
          {(int64_t{step.size} << 32) + step.euler4}, static_cast<int32_t>(l.offset[step.member[0]]), step.groups};
    }
}

// Pixels as they lie in Levels::order: column, row and neighbourhood. Two widths, since less memory is faster.
template <class Word>
struct Pixel {
  static constexpr int kBits = sizeof(Word) == 4 ? 12 : 16, kMask = (1 << kBits) - 1;
  static Word pack(int64_t x, int64_t y, uint8_t neighbours) {
    return static_cast<Word>(neighbours) << (2 * kBits) | static_cast<Word>(y) << kBits | static_cast<Word>(x);
  }
  Word word;
  int64_t x() const { return static_cast<int64_t>(word & kMask); }
  int64_t y() const { return static_cast<int64_t>(word >> kBits & kMask); }
  uint8_t neighbours() const { return static_cast<uint8_t>(word >> (2 * kBits)); }
  Extents extents() const {
    const uint32_t low = static_cast<uint32_t>(y()) << 16 | static_cast<uint32_t>(x());
    typedef uint64_t Halves __attribute__((vector_size(16)));
    return (Extents)Halves{low | static_cast<uint64_t>(~low) << 32, 0};
  }
};

inline Extents least(Extents a, Extents b) { return a < b ? a : b; }

inline bool fits_narrow(const Levels& l) { return l.W <= 4096 && l.H <= 4096; }

// The regions of a pass, as far as it has come.
struct Regions {
  const Levels& l;
  Region* of;
  int32_t begun = 0, living = 0, grown = 0;

  explicit Regions(const Levels& levels) : l(levels), of(levels.regions) {}

  int32_t root(int32_t i) const {
    while (of[i].parent != i) {
      of[i].parent = of[of[i].parent].parent;
      i = of[i].parent;
    }
    return i;
  }

  int32_t begin(Extents extents) {
    const int32_t i = begun++;
    of[i] = Region{extents, {0}, 0.0, i, -1, living};
    l.live[living++] = i;
    return i;
  }

  static void absorb(Region& to, Region& from) {
    to.extents = least(to.extents, from.extents);
    to.measure.word += from.measure.word;
    from.measure.word = 0;
  }

  // Joins two roots. The larger stays the root, for short ways; region 0 always does where it is the frame.
  int32_t join(int32_t a, int32_t b, bool frame) {
    const bool keep_a = frame && (a == 0 || b == 0) ? a == 0 : of[a].measure.word >= of[b].measure.word;
    const int32_t to = keep_a ? a : b, from = keep_a ? b : a;
    absorb(of[to], of[from]);
    of[from].parent = to;
    const int32_t last = l.live[--living];
    l.live[of[from].place] = last;
    of[last].place = of[from].place;
    return to;
  }

  // What regions gained since the last call goes to the components that they are part of now.
  void settle() {
    for (int32_t i = 0; i < grown; ++i) {
      Region& r = of[l.grown[i]];
      if (r.parent != l.grown[i]) absorb(of[root(l.grown[i])], r);
    }
  }
};

// Adds pixels in their order; kDown: to the mask, else in reverse order to the background.
template <class Word, bool kDown>
void add_pixels(const Levels& l, Regions& regions, const Word* pixels, int64_t count, int level) {
  // Copies in registers: stores might change what lies in memory.
  const Growth* const growth = l.growth[kDown ? 0 : 1];
  const int64_t pitch = l.pitch;
  int32_t *const label = l.label + pitch + 1, *const grown = l.grown;
  Region* const of = l.regions;
  int32_t grown_count = 0;
  for (int64_t i = 0; i < count; ++i) {
    // Mostly a neighbour's region grows: its label, extents and sums, and once a level an entry in the list of those
    // that grew, written in any case and counted if it is the first.
    const Pixel<Word> p{kDown ? pixels[i] : pixels[count - 1 - i]};
    const int64_t at = p.y() * pitch + p.x();
    const int pattern = kDown ? p.neighbours() : p.neighbours() ^ 0xff;
    const Growth& g = growth[pattern];
    const Extents extents = p.extents();
    const int32_t own = g.groups > 0 ? label[at + g.offset] : regions.begin(extents);
    label[at] = own;
    Region& r = of[own];
    r.extents = least(extents, r.extents);
    r.measure.word += g.measure.word;
    grown[grown_count] = own;
    grown_count += r.level != level;
    r.level = level;
    if (g.groups > 1) {  // the pixel connects what was apart
      const Step& step = (kDown ? kMaskSteps : kBackgroundSteps).of[pattern];
      int32_t root = regions.root(own);
      for (int m = 1; m < step.groups; ++m) {
        const int32_t other = regions.root(label[at + l.offset[step.member[m]]]);
        if (other != root) root = regions.join(root, other, !kDown);
      }
    }
  }
  regions.grown = grown_count;
  regions.settle();
}

struct Inclusive {
  int32_t x0, y0, x1, y1;
  explicit Inclusive(const Region& r)
      : x0(r.extents[0]), y0(r.extents[1]), x1(0xffff - r.extents[2]), y1(0xffff - r.extents[3]) {}
};

inline void box_of(const Region& r, int32_t margin, const Levels& l, int32_t* box) {
  const Inclusive e(r);
  box[0] = e.x0 - margin;
  box[1] = e.y0 - margin;
  box[2] = smaller(e.x1 + 1 + margin, static_cast<int32_t>(l.W - 1));
  box[3] = smaller(e.y1 + 1 + margin, static_cast<int32_t>(l.H - 1));
}

// Doubled area inside a component's outer border, at most: without holes it is exact.
inline int64_t area2_bound(const Region& r) {
  const Inclusive e(r);
  return r.measure.euler4() < 4 ? 2 * static_cast<int64_t>(e.x1 - e.x0) * (e.y1 - e.y0) : r.measure.size();
}

// Column of a component's first pixel in raster order, which is in its topmost row.
inline int32_t first_column(const Regions& regions, int32_t root, int level) {
  const Levels& l = regions.l;
  const Region& r = regions.of[root];
  const int64_t row = (r.extents[1] + 1) * l.pitch + 1;
  int32_t x = r.extents[0];
  while (l.q[row + x] < level || regions.root(l.label[row + x]) != root) ++x;
  return x;
}

// The component with the largest area inside its outer border, the last in raster order where they tie. The leader has
// the largest area without what is inside holes, and the others win only by what is inside theirs: mostly none can. Of
// those that can, the borders are followed, and only where one of them reaches the leader's area is the leader's own,
// the longest.
int32_t largest_component(const Regions& regions, int level) {
  const Levels& l = regions.l;
  int32_t leader = l.live[0];
  int64_t best = -1;
  for (int32_t i = 0; i < regions.living; ++i) {
    const int64_t size = regions.of[l.live[i]].measure.size();
    if (size > best) leader = l.live[i], best = size;
  }
  const LevelMask mask{l.q + l.pitch + 1, static_cast<int>(l.pitch), level};
  int32_t winner = -1, best_x = 0, best_y = 0;
  const auto consider = [&](int32_t root) {
    const Region& r = regions.of[root];
    const int32_t y = r.extents[1];
    int32_t x = -1;  // first columns, which ties need within a row, are looked for only then
    int64_t area2 = r.measure.size();
    if (r.measure.euler4() != 4) {
      x = first_column(regions, root, level);
      area2 = outer_area2(mask, x, y);
    }
    if (area2 < best) return;
    if (area2 == best && winner >= 0) {
      if (y < best_y) return;
      if (x < 0) x = first_column(regions, root, level);
      if (y == best_y) {
        if (best_x < 0) best_x = first_column(regions, winner, level);
        if (x < best_x) return;
      }
    }
    winner = root, best = area2, best_x = x, best_y = y;
  };
  for (int32_t i = 0; i < regions.living; ++i)
    if (l.live[i] != leader && area2_bound(regions.of[l.live[i]]) >= best) consider(l.live[i]);
  if (winner < 0) return leader;
  consider(leader);
  return winner;
}

// Levels, neighbourhoods and order of all pixels. Counting and sorting go through four strips of rows in turn:
// neighbouring pixels often have the same level, and would wait for each other's counter.
template <class T, class Word>
void sort_pixels(const Levels& l, const T* map) {
  constexpr int kStrips = 4;
  // Copies, since stores of bytes might change what the struct says.
  const int64_t H = l.H, W = l.W, pitch = l.pitch, strip_rows = (H + kStrips - 1) / kStrips;
  uint8_t *const q = l.q, *const neighbours = l.neighbours;
  Word* const order = static_cast<Word*>(l.order);
  int32_t next[kStrips][256] = {};  // how many pixels of a level a strip has; then where its next one goes
  for (int64_t i = 0; i < pitch * (H + 2); ++i) q[i] = 0;
  for (int64_t y = 0; y < H; ++y) quantise(map + y * W, W, q + (y + 1) * pitch + 1);
  for (int64_t y = 0; y < H; ++y) {
    // Neighbours that are there before a pixel: those before it in raster order when they are as bright, those after it
    // when they are brighter. A vector at once; beyond the row's end lies the padding.
    for (int64_t x = 0; x < W; x += kVectorBytes) {
      const uint8_t* at = q + (y + 1) * pitch + 1 + x;
      const Vector<uint8_t> here = load_vector(at);
      Vector<uint8_t> bits{};
      for (int i = 0; i < 8; ++i) {
        const uint8_t bit = static_cast<uint8_t>(1 << i);
        const Vector<uint8_t> there = load_vector(at + l.offset[i]);
        bits |= (Vector<uint8_t>)(i < 4 ? there >= here : there > here) & bit;
      }
      __builtin_memcpy(neighbours + (y + 1) * pitch + 1 + x, &bits, sizeof(bits));
    }
  }
  // Pixels outside are never part of the mask; they look so beside level 0 on two sides.
  for (int64_t x = 0; x < W; ++x) neighbours[pitch + 1 + x] &= 0xf8, neighbours[H * pitch + 1 + x] &= 0x1f;
  for (int64_t y = 1; y <= H; ++y) neighbours[y * pitch + 1] &= 0xd6, neighbours[y * pitch + W] &= 0x6b;
  const auto in_strips = [&](const auto& visit) __attribute__((always_inline)) {
    for (int64_t i = 0; i < strip_rows; ++i) {
      if ((kStrips - 1) * strip_rows + i < H) {
        for (int64_t x = 0; x < W; ++x)
          for (int64_t strip = 0; strip < kStrips; ++strip) {
            const int64_t y = strip * strip_rows + i;
            visit(strip, x, y, (y + 1) * pitch + 1 + x);
          }
        continue;
      }
      for (int64_t strip = 0; strip < kStrips; ++strip) {
        const int64_t y = strip * strip_rows + i;
        for (int64_t x = 0; x < W && y < H; ++x) visit(strip, x, y, (y + 1) * pitch + 1 + x);
      }
    }
  };
  in_strips([&](int64_t strip, int64_t, int64_t, int64_t at) __attribute__((always_inline)) { ++next[strip][q[at]]; });
  // Where each level begins, the brightest first, and within it each strip.
  int32_t sum = 0;
  for (int v = 255; v >= 0; --v) {
    l.count[v] = -sum;
    for (int strip = 0; strip < kStrips; ++strip) {
      const int32_t here = next[strip][v];
      next[strip][v] = sum;
      sum += here;
    }
    l.count[v] += sum;
  }
  in_strips([&](int64_t strip, int64_t x, int64_t y, int64_t at) __attribute__((always_inline)) {
    order[next[strip][q[at]]++] = Pixel<Word>::pack(x, y, neighbours[at]);
  });
}

template <class T>
void sort_levels(const Levels& l, const T* map) {
  fits_narrow(l) ? sort_pixels<T, uint32_t>(l, map) : sort_pixels<T, uint64_t>(l, map);
}

// The largest component's box after each level's pixels; where a level has none it is the box of the level above.
template <class Word>
void curve_of(const Levels& l, int32_t* out) {
  Regions regions(l);
  const Word* pixels = static_cast<const Word*>(l.order);
  for (int i = 0; i < 4; ++i) out[4 * 255 + i] = 0;
  for (int level = 255; level > 0; --level) {
    int32_t* box = out + 4 * (level - 1);  // the mask q >= level is q > level - 1
    if (l.count[level] == 0) {
      for (int i = 0; i < 4; ++i) box[i] = box[4 + i];
      continue;
    }
    add_pixels<Word, true>(l, regions, pixels, l.count[level], level);
    pixels += l.count[level];
    box_of(regions.of[largest_component(regions, level)], 0, l, box);
  }
}

void curve(const Levels& l, int32_t* out) { fits_narrow(l) ? curve_of<uint32_t>(l, out) : curve_of<uint64_t>(l, out); }

// Adds the pixels of a level, then sees to the IoU of the components that grew; the best of all is returned. Region
// `frame` is no component.
template <class Word, bool kDown, class Score>
double best_iou_after(const Levels& l, Regions& regions, const Word* pixels, int level, int32_t frame,
                      const Score& score) {
  add_pixels<Word, kDown>(l, regions, pixels, l.count[level], level);
  for (int32_t i = 0; i < regions.grown; ++i) {
    const int32_t root = regions.root(l.grown[i]);
    if (root != frame) score(regions.of[root]);
  }
  double best = 0;
  for (int32_t i = 0; i < regions.living; ++i)
    if (l.live[i] != frame) best = larger(regions.of[l.live[i]].iou, best);
  return best;
}

// The best IoU of all components after each level's pixels, and of all holes.
template <class Word>
void contours_of(const Levels& l, const double* truths, int64_t truth_count, double* out) {
  const auto score = [&](Region& r, int32_t margin) {
    int32_t box[4];
    box_of(r, margin, l, box);
    r.iou = best_iou(box, truths, truth_count);
  };
  const int32_t nothing[4] = {0, 0, 0, 0};
  out[255] = best_iou(nothing, truths, truth_count);
  Regions mask(l);
  const Word* pixels = static_cast<const Word*>(l.order);
  bool holes = false;
  for (int level = 255; level > 0; pixels += l.count[level--]) {
    out[level - 1] =
        l.count[level] == 0 ? out[level] : best_iou_after<Word, true>(l, mask, pixels, level, -1, [&](Region& r) {
          holes |= r.measure.euler4() < 4;
          score(r, 0);
        });
  }
  if (!holes) return;
  // Holes, from the darkest level up: components of the background that do not reach the frame around the picture.
  Regions background(l);
  background.begin(Extents{});
  for (int64_t x = 0; x < l.W + 2; ++x) l.label[x] = l.label[(l.H + 1) * l.pitch + x] = 0;
  for (int64_t y = 0; y < l.H + 2; ++y) l.label[y * l.pitch] = l.label[y * l.pitch + l.W + 1] = 0;
  const Word* end = static_cast<const Word*>(l.order) + l.H * l.W;
  double best = 0;
  for (int level = 0; level < 255; ++level) {
    if (l.count[level] > 0) {
      end -= l.count[level];
      best = best_iou_after<Word, false>(l, background, end, level, 0, [&](Region& r) { score(r, 1); });
    }
    out[level] = larger(best, out[level]);
  }
}

void contours(const Levels& l, const double* truths, int64_t count, double* out) {
  fits_narrow(l) ? contours_of<uint32_t>(l, truths, count, out) : contours_of<uint64_t>(l, truths, count, out);
}

constexpr CurvesKernels curves_kernels = {growths, {sort_levels<float>, sort_levels<double>}, curve, contours};

}  // namespace
}  // namespace fastcam::FASTCAM_SIMD
