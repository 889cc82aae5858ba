// Upsampling and heatmaps. The coarse rows are expanded along x once; the extremes of each expanded row, 64 columns at
// a time, bound every pixel between two rows exactly, since rounding is monotone. The search for minimum and maximum
// then looks only at what those bounds leave open, and thresholds do the same (components.inl).

// Copies the coarse map through ReLU; false when it is constant or holds a value that is not finite.
template <class T>
bool load_coarse(const Plan<T>& plan, Scratch<T>& s, const T* coarse) {
  const int64_t count = plan.h * plan.w;
  T low = rectified(coarse[0], plan.relu), high = low;
  bool usable = true;
  for (int64_t i = 0; i < count; ++i) {
    const T v = rectified(coarse[i], plan.relu);
    usable &= finite(v);
    low = smaller(v, low);
    high = larger(v, high);
    s.coarse[i] = v;
  }
  return usable && low < high;
}

template <class T>
void expand_rows(const Plan<T>& plan, Scratch<T>& s) {
  for (int64_t r = 0; r < plan.h; ++r) {
    const T* from = s.coarse + r * plan.w;
    if (plan.bicubic) {
      double* row = s.cubic_rows + r * plan.stride;
      for (int64_t x = 0; x < plan.stride; ++x) {
        const int64_t i = plan.cx[x];
        row[x] = mix4(plan.cwx + 4 * x, from[clamped(i, plan.w)], from[clamped(i + 1, plan.w)],
                      from[clamped(i + 2, plan.w)], from[clamped(i + 3, plan.w)]);
      }
      continue;
    }
    T* __restrict row = s.rows + r * plan.stride;
    for (int64_t x = 0; x < plan.stride; ++x)
      row[x] = lerp(plan.wx0[x], from[plan.x0[x]], plan.wx1[x], from[plan.x1[x]]);
  }
}

template <class T>
void bound_rows(const Plan<T>& plan, Scratch<T>& s) {
  for (int64_t i = 0; i < plan.h * plan.words; ++i) {
    const T* row = s.rows + i * 64;
    T low[kLanes], high[kLanes];
    for (int l = 0; l < kLanes; ++l) low[l] = high[l] = row[l];
    for (int x = kLanes; x < 64; x += kLanes)
      for (int l = 0; l < kLanes; ++l) {
        low[l] = smaller(row[x + l], low[l]);
        high[l] = larger(row[x + l], high[l]);
      }
    for (int l = 1; l < kLanes; ++l) {
      low[0] = smaller(low[l], low[0]);
      high[0] = larger(high[l], high[0]);
    }
    s.low[i] = low[0];
    s.high[i] = high[0];
  }
  for (int64_t r = 0; r < plan.h; ++r) {
    s.row_low[r] = s.low[r * plan.words];
    s.row_high[r] = s.high[r * plan.words];
    for (int64_t i = r * plan.words; i < (r + 1) * plan.words; ++i) {
      s.row_low[r] = smaller(s.low[i], s.row_low[r]);
      s.row_high[r] = larger(s.high[i], s.row_high[r]);
    }
  }
}

// Output row y, columns [begin, end).
template <class T>
inline void output_row(const Plan<T>& plan, const Scratch<T>& s, int64_t y, int64_t begin, int64_t end,
                       T* __restrict out) {
  if (plan.bicubic) {
    const int64_t i = plan.cy[y];
    const double* r0 = s.cubic_rows + clamped(i, plan.h) * plan.stride;
    const double* r1 = s.cubic_rows + clamped(i + 1, plan.h) * plan.stride;
    const double* r2 = s.cubic_rows + clamped(i + 2, plan.h) * plan.stride;
    const double* r3 = s.cubic_rows + clamped(i + 3, plan.h) * plan.stride;
    const float* w = plan.cwy + 4 * y;
    for (int64_t x = begin; x < end; ++x) out[x - begin] = static_cast<T>(mix4(w, r0[x], r1[x], r2[x], r3[x]));
    return;
  }
  const T *r0 = s.rows + plan.y0[y] * plan.stride, *r1 = s.rows + plan.y1[y] * plan.stride;
  const T w0 = plan.wy0[y], w1 = plan.wy1[y];
  for (int64_t x = begin; x < end; ++x) out[x - begin] = lerp(w0, r0[x], w1, r1[x]);
}

// Exact minimum and maximum over every output pixel.
template <class T>
void extremes(const Plan<T>& plan, Scratch<T>& s, T& low, T& high) {
  output_row(plan, s, 0, 0, 1, s.line);
  low = high = s.line[0];
  const auto scan = [&](int64_t y, int64_t begin, int64_t end) __attribute__((always_inline)) {
    output_row(plan, s, y, begin, end, s.line);
    T lows[kLanes], highs[kLanes];
    for (int l = 0; l < kLanes; ++l) lows[l] = highs[l] = s.line[l];
    for (int64_t x = kLanes; x + kLanes <= end - begin; x += kLanes)
      for (int l = 0; l < kLanes; ++l) {
        lows[l] = smaller(s.line[x + l], lows[l]);
        highs[l] = larger(s.line[x + l], highs[l]);
      }
    for (int l = 0; l < kLanes; ++l) {
      low = smaller(lows[l], low);
      high = larger(highs[l], high);
    }
  };
  if (plan.bicubic) {
    for (int64_t y = 0; y < plan.H; ++y) scan(y, 0, plan.stride);
    return;
  }
  // The row whose bound promises most first; then whatever still could exceed what was found.
  bound_rows(plan, s);
  int64_t y_high = 0, y_low = 0;
  T best_high = 0, best_low = 0;
  for (int64_t y = 0; y < plan.H; ++y) {
    const T up = lerp(plan.wy0[y], s.row_high[plan.y0[y]], plan.wy1[y], s.row_high[plan.y1[y]]);
    const T down = lerp(plan.wy0[y], s.row_low[plan.y0[y]], plan.wy1[y], s.row_low[plan.y1[y]]);
    if (y == 0 || up > best_high) best_high = up, y_high = y;
    if (y == 0 || down < best_low) best_low = down, y_low = y;
  }
  scan(y_high, 0, plan.stride);
  scan(y_low, 0, plan.stride);
  for (int64_t y = 0; y < plan.H; ++y) {
    const int64_t a = plan.y0[y], b = plan.y1[y];
    const T w0 = plan.wy0[y], w1 = plan.wy1[y];
    if (!(lerp(w0, s.row_high[a], w1, s.row_high[b]) > high || lerp(w0, s.row_low[a], w1, s.row_low[b]) < low))
      continue;
    for (int64_t word = 0; word < plan.words; ++word) {
      const int64_t i0 = a * plan.words + word, i1 = b * plan.words + word;
      if (lerp(w0, s.high[i0], w1, s.high[i1]) > high || lerp(w0, s.low[i0], w1, s.low[i1]) < low)
        scan(y, 64 * word, 64 * word + 64);
    }
  }
}

template <class T>
void heatmap(const Plan<T>& plan, Scratch<T>& s, const T* coarse, Normalize normalize, bool as_bytes, int64_t begin,
             int64_t end, void* out) {
  const bool before = normalize == Normalize::kBefore || normalize == Normalize::kBoth;
  const bool after = normalize == Normalize::kAfter || normalize == Normalize::kBoth;
  uint8_t* bytes = static_cast<uint8_t*>(out);
  T* floats = static_cast<T*>(out);
  bool usable = load_coarse(plan, s, coarse);
  T low = 0, range = 1;
  if (usable && before) {
    T high = low = s.coarse[0];
    for (int64_t i = 0; i < plan.h * plan.w; ++i) {
      low = smaller(s.coarse[i], low);
      high = larger(s.coarse[i], high);
    }
    range = high - low;
    usable = finite(range);
    for (int64_t i = 0; i < plan.h * plan.w; ++i) s.coarse[i] = normalised(s.coarse[i], low, range);
  }
  if (usable || normalize == Normalize::kNone) expand_rows(plan, s);
  if (usable && after) {
    T high;
    extremes(plan, s, low, high);
    range = high - low;
    usable = finite(range) && range > T(0);
  }
  if (!usable && normalize != Normalize::kNone) {
    if (as_bytes)
      for (int64_t i = begin * plan.W; i < end * plan.W; ++i) bytes[i] = 0;
    else
      for (int64_t i = begin * plan.W; i < end * plan.W; ++i) floats[i] = 0;
    return;
  }
  for (int64_t y = begin; y < end; ++y) {
    T* __restrict line = as_bytes ? s.line : floats + y * plan.W;
    output_row(plan, s, y, 0, plan.W, line);
    if (after)
      for (int64_t x = 0; x < plan.W; ++x) line[x] = normalised(line[x], low, range);
    if (as_bytes)
      for (int64_t x = 0; x < plan.W; ++x) bytes[y * plan.W + x] = quantised(line[x]);
  }
}
