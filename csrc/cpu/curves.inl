// The largest contour's box at all 8-bit levels, in one pass over the pixels from the brightest level down. A pixel
// that is added begins a component, grows one, or joins several; which, and how the area of the contour polygon
// changes, depends on its eight neighbours alone. A neighbour is there already when it is brighter, or as bright and
// earlier in raster order, so that all neighbourhoods are known beforehand, as bytes. Work: about one union-find step a
// pixel, whatever the map; nothing is done again for each level but the choice among the components that live.

// What adding a pixel does, by its neighbours in raster order (bit 0 north-west ... bit 7 south-east).
struct Step {
  int8_t contour2, euler4, groups;
  uint8_t member[4];  // a neighbour of each group; groups are connected without the pixel
};

struct Steps {
  Step of[256];
};

constexpr Steps make_steps() {
  // North-west, north, north-east, west, east, south-west, south, south-east.
  const int dx[8] = {-1, 0, 1, -1, 1, -1, 0, 1}, dy[8] = {-1, -1, -1, 0, 0, 1, 1, 1};
  // The 2x2 quads around a pixel: the corner opposite to it, and its two neighbours along the axes.
  const int corner[4] = {0, 2, 5, 7}, side[4] = {1, 1, 3, 4}, other[4] = {3, 4, 6, 6};
  Steps steps{};
  for (int pattern = 0; pattern < 256; ++pattern) {
    Step& step = steps.of[pattern];
    for (int quad = 0; quad < 4; ++quad) {
      const int a = pattern >> corner[quad] & 1, b = pattern >> side[quad] & 1, c = pattern >> other[quad] & 1;
      const int set = a + b + c;
      step.contour2 += set >= 2;  // three set pixels are half a unit of area, four a whole one
      // Gray's formula: quads with one pixel count 1, with three -1, with two on a diagonal -2.
      const int before = set == 1 ? 1 : set == 3 ? -1 : set == 2 && !a ? -2 : 0;
      const int after = set == 0 ? 1 : set == 2 ? -1 : set == 1 && a ? -2 : 0;
      step.euler4 += after - before;
    }
    int seen = 0;
    for (int start = 0; start < 8; ++start) {
      if (!(pattern >> start & 1) || seen >> start & 1) continue;
      step.member[step.groups++] = static_cast<uint8_t>(start);
      int group = 1 << start;
      for (int round = 0; round < 8; ++round)
        for (int i = 0; i < 8; ++i)
          for (int j = 0; j < 8; ++j) {
            const int x = dx[i] - dx[j], y = dy[i] - dy[j];
            if (group >> j & 1 && pattern >> i & 1 && x * x <= 1 && y * y <= 1) group |= 1 << i;
          }
      seen |= group;
    }
  }
  return steps;
}

constexpr Steps kSteps = make_steps();

inline int32_t blob_of(Blob* blobs, int32_t i) {
  while (blobs[i].parent != i) {
    blobs[i].parent = blobs[blobs[i].parent].parent;
    i = blobs[i].parent;
  }
  return i;
}

inline int32_t merge(Blob* blobs, int32_t a, int32_t b) {
  const bool keep_a = blobs[a].contour2 >= blobs[b].contour2;  // the larger stays the root: short ways for its pixels
  Blob &to = blobs[keep_a ? a : b], &from = blobs[keep_a ? b : a];
  from.parent = keep_a ? a : b;
  to.x0 = smaller(from.x0, to.x0);
  to.y0 = smaller(from.y0, to.y0);
  to.x1 = larger(from.x1, to.x1);
  to.y1 = larger(from.y1, to.y1);
  to.contour2 += from.contour2;
  to.euler4 += from.euler4;
  to.first = smaller(from.first, to.first);
  return from.parent;
}

// Doubled area inside the blob's outer border: what it is at most, and exactly, by following the border.
inline int64_t area2_bound(const Blob& b) {
  return b.euler4 < 4 ? 2 * static_cast<int64_t>(b.x1 - b.x0 - 1) * (b.y1 - b.y0 - 1) : b.contour2;
}

struct Added {  // the mask at some moment
  const Levels& l;
  int level;
  bool operator()(int x, int y) const { return l.q[(y + 1) * l.pitch + x + 1] >= level; }
};

// The live blob with the largest area inside its outer border, the last in raster order where they tie. Borders are
// followed only of blobs with holes, and only where more than one can win.
int32_t largest_blob(const Levels& l, int level, int64_t& living) {
  int64_t kept = 0, least = -1;
  for (int64_t i = 0; i < living; ++i) {
    if (l.blobs[l.live[i]].parent != l.live[i]) continue;
    l.live[kept++] = l.live[i];
    least = larger<int64_t>(l.blobs[l.live[i]].contour2, least);
  }
  living = kept;
  int32_t winner = -1;
  int64_t candidates = 0;
  for (int64_t i = 0; i < living; ++i) {
    if (area2_bound(l.blobs[l.live[i]]) < least) continue;
    winner = l.live[i];
    ++candidates;
  }
  if (candidates == 1) return winner;
  int64_t best = least;
  winner = -1;
  for (int64_t i = 0; i < living; ++i) {
    const Blob& b = l.blobs[l.live[i]];
    if (area2_bound(b) < best) continue;
    const int64_t area2 = b.euler4 == 4
                              ? b.contour2
                              : outer_area2(Added{l, level}, static_cast<int>(l.W), static_cast<int>(l.H),
                                            static_cast<int>(b.first & 0xffff), static_cast<int>(b.first >> 16));
    if (area2 < best) continue;
    if (area2 > best || winner < 0 || b.first > l.blobs[winner].first) winner = l.live[i];
    best = area2;
  }
  return winner;
}

// 64 bytes as a vector, on any processor: compilers split it into what there is.
typedef uint8_t Bytes64 __attribute__((vector_size(64)));

// Levels, neighbourhoods and order of all pixels; count[v] of them have level v. Counting and sorting go through four
// strips of rows in turn: neighbouring pixels often have the same level, and would wait for each other's counter.
template <class T>
void prepare_levels(const Levels& l, const T* map, int64_t* count) {
  constexpr int kStrips = 4;
  // Copies, since stores of bytes might change what the struct says.
  const int64_t H = l.H, W = l.W, pitch = l.pitch, strip_rows = (H + kStrips - 1) / kStrips;
  uint8_t *const q = l.q, *const neighbours = l.neighbours;
  uint32_t* const order = l.order;
  int32_t next[kStrips][256] = {};
  for (int64_t i = 0; i < pitch * (H + 2); ++i) q[i] = 0;
  for (int64_t y = 0; y < H; ++y) {
    uint8_t* __restrict row = q + (y + 1) * pitch + 1;
    const T* from = map + y * W;
    for (int64_t x = 0; x < W; ++x) row[x] = quantised(from[x]);
  }
  for (int64_t y = 0; y < H; ++y) {
    for (int64_t x = 0; x < W; x += 64) {  // beyond the row's end lies the padding
      const uint8_t* at = q + (y + 1) * pitch + 1 + x;
      Bytes64 here, there, bits{};
      __builtin_memcpy(&here, at, 64);
      for (int i = 0; i < 8; ++i) {
        __builtin_memcpy(&there, at + l.offset[i], 64);
        bits |= (Bytes64)(i < 4 ? there >= here : there > here) & static_cast<uint8_t>(1 << i);
      }
      __builtin_memcpy(neighbours + (y + 1) * pitch + 1 + x, &bits, 64);
    }
  }
  const auto in_strips = [&](const auto& visit) __attribute__((always_inline)) {
    for (int64_t i = 0; i < strip_rows; ++i) {
      if ((kStrips - 1) * strip_rows + i < H) {
        for (int64_t x = 0; x < W; ++x)
          for (int64_t strip = 0; strip < kStrips; ++strip) {
            const int64_t y = strip * strip_rows + i;
            visit(strip, x, y, q[(y + 1) * pitch + 1 + x]);
          }
        continue;
      }
      for (int64_t strip = 0; strip < kStrips; ++strip) {
        const int64_t y = strip * strip_rows + i;
        for (int64_t x = 0; x < W && y < H; ++x) visit(strip, x, y, q[(y + 1) * pitch + 1 + x]);
      }
    }
  };
  in_strips([&](int64_t strip, int64_t, int64_t, uint8_t v) __attribute__((always_inline)) { ++next[strip][v]; });
  int32_t sum = 0;
  for (int v = 255; v >= 0; --v) {
    count[v] = -sum;
    for (int strip = 0; strip < kStrips; ++strip) {
      const int32_t here = next[strip][v];
      next[strip][v] = sum;
      sum += here;
    }
    count[v] += sum;
  }
  in_strips([&](int64_t strip, int64_t x, int64_t y, uint8_t v)
                __attribute__((always_inline)) { order[next[strip][v]++] = static_cast<uint32_t>(y << 16 | x); });
}

template <class T>
void curve(const Levels& l, const T* map, int32_t* out) {
  int64_t count[256];
  prepare_levels(l, map, count);
  const int64_t pitch = l.pitch;
  const uint32_t* pixel = l.order;
  int64_t living = 0;
  int32_t blobs = 0;
  for (int i = 0; i < 4; ++i) out[4 * 255 + i] = 0;
  for (int level = 255; level > 0; --level) {
    int32_t* box = out + 4 * (level - 1);  // the mask q >= level is q > level - 1
    for (const uint32_t* end = pixel + count[level]; pixel != end; ++pixel) {
      const int32_t x = static_cast<int32_t>(*pixel & 0xffff), y = static_cast<int32_t>(*pixel >> 16);
      const int64_t at = (y + 1) * pitch + x + 1;
      const Step& step = kSteps.of[l.neighbours[at]];
      if (step.groups == 0) {
        l.blobs[blobs] = {blobs, x, y, x + 1, y + 1, 0, 4, *pixel};
        l.live[living++] = blobs;
        l.label[at] = blobs++;
        continue;
      }
      int32_t root = blob_of(l.blobs, l.label[at + l.offset[step.member[0]]]);
      for (int g = 1; g < step.groups; ++g) {
        const int32_t other = blob_of(l.blobs, l.label[at + l.offset[step.member[g]]]);
        if (other != root) root = merge(l.blobs, root, other);
      }
      l.label[at] = root;
      Blob& b = l.blobs[root];
      b.x0 = smaller(x, b.x0);
      b.y0 = smaller(y, b.y0);
      b.x1 = larger(x + 1, b.x1);
      b.y1 = larger(y + 1, b.y1);
      b.contour2 += step.contour2;
      b.euler4 += step.euler4;
      b.first = smaller(*pixel, b.first);
    }
    if (count[level] == 0) {
      for (int i = 0; i < 4; ++i) box[i] = box[4 + i];
      continue;
    }
    const Blob& b = l.blobs[largest_blob(l, level, living)];
    box[0] = b.x0;
    box[1] = b.y0;
    box[2] = smaller(b.x1, static_cast<int32_t>(l.W - 1));
    box[3] = smaller(b.y1, static_cast<int32_t>(l.H - 1));
  }
}
