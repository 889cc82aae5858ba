// Weighted sums over channels: class maps and gradient maps, for float, double and the half types.

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

inline float from_bits(uint32_t bits) {
  union {
    uint32_t i;
    float f;
  } u{bits};
  return u.f;
}

inline float value(float v) { return v; }
inline double value(double v) { return v; }
inline float value(BFloat16 v) { return from_bits(static_cast<uint32_t>(v.bits) << 16); }
inline float value(Half v) {
#ifdef FASTCAM_F16C
  return _cvtsh_ss(v.bits);
#else
  const uint32_t sign = static_cast<uint32_t>(v.bits & 0x8000) << 16, magnitude = v.bits & 0x7fff;
  if (magnitude >= 0x7c00) return from_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  // As a float's exponent and mantissa the value is 2^112 too small; the product is exact, subnormals included.
  const float small = from_bits(magnitude << 13) * from_bits(0x77800000);
  return sign ? -small : small;
#endif
}

template <class Acc>
inline Acc lane_sum(Acc* lanes) {  // a fixed tree
  for (int half = kLanes / 2; half > 0; half /= 2)
    for (int l = 0; l < half; ++l) lanes[l] += lanes[l + half];
  return lanes[0];
}

template <class In, class Acc>
inline void widen(const In* p, int64_t count, Acc* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = value(p[i]);
}

// What a pass over channel-major planes or position-major rows adds up, each with terms t(a, g):
struct Products {  // hirescam
  template <class Acc>
  static inline Acc term(Acc a, Acc g, Acc sum) {
    return fused(g, a, sum);
  }
};
struct PositiveProducts {  // layercam
  template <class Acc>
  static inline Acc term(Acc a, Acc g, Acc sum) {
    return fused(g > Acc(0) ? g : g != g ? g : Acc(0), a, sum);
  }
};

template <class In, class Acc, class Term>
Acc lane_reduce(const In* a, const In* g, int64_t count) {
  Acc lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] = Term::term(Acc(value(a[i + l])), Acc(value(g[i + l])), lanes[l]);
  for (int l = 0; i + l < count; ++l) lanes[l] = Term::term(Acc(value(a[i + l])), Acc(value(g[i + l])), lanes[l]);
  return lane_sum(lanes);
}

template <class In, class Acc>
Acc lane_total(const In* a, int64_t count) {
  Acc lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] += value(a[i + l]);
  for (int l = 0; i + l < count; ++l) lanes[l] += value(a[i + l]);
  return lane_sum(lanes);
}

template <class In, class Acc>
Acc lane_dot(const In* a, const Acc* w, int64_t count) {
  Acc lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (int l = 0; l < kLanes; ++l) lanes[l] = fused(w[i + l], Acc(value(a[i + l])), lanes[l]);
  for (int l = 0; i + l < count; ++l) lanes[l] = fused(w[i + l], Acc(value(a[i + l])), lanes[l]);
  return lane_sum(lanes);
}

template <class In, class Acc>
void weighted_sum(const In* a, const Acc* w, int64_t K, int64_t Z, bool channels_last, Acc* __restrict out) {
  if (channels_last) {
    for (int64_t z = 0; z < Z; ++z) out[z] = lane_dot(a + z * K, w, K);
    return;
  }
  for (int64_t z = 0; z < Z; ++z) out[z] = 0;
  for (int64_t k = 0; k < K; ++k) {
    const In* row = a + k * Z;
    const Acc wk = w[k];
    for (int64_t z = 0; z < Z; ++z) out[z] = fused(wk, Acc(value(row[z])), out[z]);
  }
}

// One position's share of the Grad-CAM++ weight: relu(g) * g^2 / (2 g^2 + sum(a) g^3 + eps); 0 where g is not positive.
template <class Acc>
inline Acc plus_plus(Acc g, Acc activation_sum, Acc eps) {
  const Acc g2 = g * g, g3 = g2 * g;
  const Acc twice = Acc(2) * g2, mixed = activation_sum * g3;
  const Acc denominator = (twice + mixed) + eps;
  const Acc share = g2 / denominator * g;
  return g > Acc(0) ? share : g != g ? g : Acc(0);
}

template <class In, class Acc>
void channel_weights(const In* a, const In* g, int64_t K, int64_t Z, bool channels_last, Weighting weighting, Acc eps,
                     Acc* __restrict sums, Acc* __restrict w) {
  for (int64_t k = 0; k < K; ++k) sums[k] = w[k] = 0;
  if (channels_last) {  // vectors along channels, positions in order
    for (int64_t z = 0; z < Z; ++z) {
      const In *az = a + z * K, *gz = g + z * K;
      if (weighting == Weighting::kGradCam)
        for (int64_t k = 0; k < K; ++k) w[k] += value(gz[k]);
      else
        for (int64_t k = 0; k < K; ++k) sums[k] += value(az[k]);
      if (weighting == Weighting::kXGradCam)
        for (int64_t k = 0; k < K; ++k) w[k] = fused(Acc(value(gz[k])), Acc(value(az[k])), w[k]);
    }
    if (weighting == Weighting::kGradCamPlusPlus)
      for (int64_t z = 0; z < Z; ++z)
        for (int64_t k = 0; k < K; ++k) w[k] += plus_plus(Acc(value(g[z * K + k])), sums[k], eps);
  } else {
    for (int64_t k = 0; k < K; ++k) {
      const In *ak = a + k * Z, *gk = g + k * Z;
      if (weighting == Weighting::kGradCam) {
        w[k] = lane_total<In, Acc>(gk, Z);
        continue;
      }
      sums[k] = lane_total<In, Acc>(ak, Z);
      if (weighting == Weighting::kXGradCam) {
        w[k] = lane_reduce<In, Acc, Products>(ak, gk, Z);
      } else {
        Acc lanes[kLanes] = {};
        for (int64_t z = 0; z < Z; ++z) lanes[z % kLanes] += plus_plus(Acc(value(gk[z])), sums[k], eps);
        w[k] = lane_sum(lanes);
      }
    }
  }
  if (weighting == Weighting::kGradCam)
    for (int64_t k = 0; k < K; ++k) w[k] /= static_cast<Acc>(Z);
  if (weighting == Weighting::kXGradCam)
    for (int64_t k = 0; k < K; ++k) w[k] /= sums[k] + eps;
}

template <class In, class Acc, class Term>
void elementwise_sum(const In* a, const In* g, int64_t K, int64_t Z, bool channels_last, Acc* __restrict out) {
  if (channels_last) {
    for (int64_t z = 0; z < Z; ++z) out[z] = lane_reduce<In, Acc, Term>(a + z * K, g + z * K, K);
    return;
  }
  for (int64_t z = 0; z < Z; ++z) out[z] = 0;
  for (int64_t k = 0; k < K; ++k)
    for (int64_t z = 0; z < Z; ++z) out[z] = Term::term(Acc(value(a[k * Z + z])), Acc(value(g[k * Z + z])), out[z]);
}

template <class In, class Acc>
void gradient_map_of(const Features& f, const void* gradients, Weighting weighting, double eps, void* workspace,
                     void* result) {
  const In *a = static_cast<const In*>(f.data), *g = static_cast<const In*>(gradients);
  Acc* out = static_cast<Acc*>(result);
  if (weighting == Weighting::kHiResCam)
    return elementwise_sum<In, Acc, Products>(a, g, f.K, f.Z, f.channels_last, out);
  if (weighting == Weighting::kLayerCam)
    return elementwise_sum<In, Acc, PositiveProducts>(a, g, f.K, f.Z, f.channels_last, out);
  Acc *sums = static_cast<Acc*>(workspace), *w = sums + f.K;
  channel_weights(a, g, f.K, f.Z, f.channels_last, weighting, static_cast<Acc>(eps), sums, w);
  weighted_sum(a, w, f.K, f.Z, f.channels_last, out);
}

template <class In, class Acc>
void class_map_of(const Features& f, const void* weights, void* out) {
  weighted_sum(static_cast<const In*>(f.data), static_cast<const Acc*>(weights), f.K, f.Z, f.channels_last,
               static_cast<Acc*>(out));
}

void class_map(const Features& f, const void* weights, void* out) {
  switch (f.dtype) {
    case DType::kFloat: return class_map_of<float, float>(f, weights, out);
    case DType::kDouble: return class_map_of<double, double>(f, weights, out);
    case DType::kHalf: return class_map_of<Half, float>(f, weights, out);
    case DType::kBFloat16: return class_map_of<BFloat16, float>(f, weights, out);
  }
}

void gradient_map(const Features& f, const void* g, Weighting weighting, double eps, void* workspace, void* out) {
  switch (f.dtype) {
    case DType::kFloat: return gradient_map_of<float, float>(f, g, weighting, eps, workspace, out);
    case DType::kDouble: return gradient_map_of<double, double>(f, g, weighting, eps, workspace, out);
    case DType::kHalf: return gradient_map_of<Half, float>(f, g, weighting, eps, workspace, out);
    case DType::kBFloat16: return gradient_map_of<BFloat16, float>(f, g, weighting, eps, workspace, out);
  }
}
