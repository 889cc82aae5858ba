// Pixel-adaptive refinement: in each iteration a pixel of a map becomes the mean of its neighbours, weighted by their
// affinities in the image. These are the same in all iterations, and computed anew in each, for 64 pixels at a time: to
// keep them would take 48 planes of memory. A call does a row of all maps; the maps share the weights, three at a time
// in registers. Traffic: image, scales and maps once an iteration, neighbouring rows from the cache. Every sum has one
// order, that of the neighbours.
#pragma once

#include <cstring>

#include "refine.h"
#include "vectors.inl"

namespace fastcam::FASTCAM_SIMD {
namespace {

inline void pad(const Affinity& a, const Padded& p, float* row) {
  for (int64_t x = 0; x < p.margin; ++x) row[x] = row[p.margin];
  for (int64_t x = p.margin + a.W; x < p.stride; ++x) row[x] = row[p.margin + a.W - 1];
}

void pad_row(const Affinity& a, const Padded& p, const float* planes, int64_t count, int64_t y, float* padded) {
  for (int64_t c = 0; c < count; ++c) {
    float* row = padded + c * p.plane + y * p.stride;
    std::memcpy(row + p.margin, planes + (c * a.H + y) * a.W, static_cast<size_t>(a.W) * sizeof(float));
    pad(a, p, row);
  }
}

// Where in a padded plane the neighbours of the first pixel of row y are.
inline void find_neighbours(const Affinity& a, const Padded& p, int64_t y, int64_t* at) {
  for (int32_t i = 0; i < a.neighbours(); ++i) at[i] = clamped(y + a.down(i), a.H) * p.stride + p.margin + a.right(i);
}

void scale_row(const Affinity& a, const Padded& p, const float* image, int64_t y, float* scales) {
  const int32_t count = a.neighbours();
  int64_t at[kMostNeighbours];
  find_neighbours(a, p, y, at);
  for (int64_t c = 0; c < a.channels; ++c, image += p.plane, scales += p.plane) {
    for (int64_t x = 0; x < a.W; x += kColumns) {
      const float* const own = image + y * p.stride + p.margin + x;
      float sum[kColumns] = {}, squares[kColumns] = {};
      for (int32_t i = 0; i < count; ++i)
        for (int l = 0; l < kColumns; ++l) sum[l] += image[at[i] + x + l] - own[l];
      for (int l = 0; l < kColumns; ++l) sum[l] = difference_mean(a, sum[l]);
      for (int32_t i = 0; i < count; ++i) {
        for (int l = 0; l < kColumns; ++l) {
          const float distance = image[at[i] + x + l] - own[l] - sum[l];
          squares[l] = fused(distance, distance, squares[l]);
        }
      }
      float* const to = scales + y * p.stride + p.margin + x;
      for (int l = 0; l < kColumns; ++l) to[l] = difference_scale(a, sum[l], squares[l]);
    }
  }
}

// Affinities of 64 pixels, w[neighbour][pixel], the first of which is `own` behind where the planes begin.
inline void weigh(const Affinity& a, const Padded& p, const float* image, const float* scales, const int64_t* at,
                  int64_t x, int64_t own, float (*w)[kColumns]) {
  const int32_t count = a.neighbours();
  float least[kColumns], sum[kColumns] = {};
  for (int l = 0; l < kColumns; ++l) least[l] = INFINITY;
  for (int32_t i = 0; i < count; ++i) {
    float* const unlike = w[i];
    for (int l = 0; l < kColumns; ++l) unlike[l] = 0;
    for (int64_t c = 0; c < a.channels; ++c) {
      const float *const v = image + c * p.plane + at[i] + x, *const v0 = image + c * p.plane + own;
      const float* const scale = scales + c * p.plane + own;
      for (int l = 0; l < kColumns; ++l) unlike[l] = fused(__builtin_fabsf(v[l] - v0[l]), scale[l], unlike[l]);
    }
    for (int l = 0; l < kColumns; ++l) least[l] = smaller(unlike[l], least[l]);
  }
  for (int32_t i = 0; i < count; ++i) {
    for (int l = 0; l < kColumns; ++l) w[i][l] = affinity_exponent(least[l], w[i][l]);
    for (int l = 0; l < kColumns; ++l) w[i][l] = power_of_two(w[i][l]);
    for (int l = 0; l < kColumns; ++l) sum[l] += w[i][l];
  }
  for (int l = 0; l < kColumns; ++l) sum[l] = 1.0f / sum[l];
  for (int32_t i = 0; i < count; ++i)
    for (int l = 0; l < kColumns; ++l) w[i][l] *= sum[l];
}

inline Vector<float> fused_vectors(Vector<float> a, Vector<float> b, Vector<float> c) {
#if defined(FASTCAM_AVX512) || defined(FASTCAM_AVX2)
  return _mm256_fmadd_ps(a, b, c);
#else
  for (size_t l = 0; l < sizeof(a) / sizeof(float); ++l) c[l] = fused(a[l], b[l], c[l]);
  return c;
#endif
}

// The means of 64 pixels of some maps, whose planes follow each other.
template <int kMaps>
inline void mix(int32_t count, int64_t plane, const float* maps, const int64_t* at, const float (*w)[kColumns],
                float* refined) {
  constexpr int kVectors = 4, kLanesOf = sizeof(Vector<float>) / sizeof(float);
  for (int x = 0; x < kColumns; x += kVectors * kLanesOf) {
    Vector<float> sum[kMaps][kVectors] = {};
    for (int32_t i = 0; i < count; ++i) {
      const float* const v = maps + at[i] + x;
      for (int j = 0; j < kVectors; ++j) {
        const Vector<float> weight = load_vector(w[i] + x + j * kLanesOf);
        for (int m = 0; m < kMaps; ++m)
          sum[m][j] = fused_vectors(weight, load_vector(v + m * plane + j * kLanesOf), sum[m][j]);
      }
    }
    for (int m = 0; m < kMaps; ++m) std::memcpy(refined + m * plane + x, sum[m], sizeof(sum[m]));
  }
}

void refine_row(const Affinity& a, const Padded& p, const float* image, const float* scales, const float* maps,
                int64_t count, int64_t y, float* refined) {
  const int32_t neighbours = a.neighbours();
  int64_t at[kMostNeighbours];
  find_neighbours(a, p, y, at);
  alignas(64) float w[kMostNeighbours][kColumns];
  for (int64_t x = 0; x < a.W; x += kColumns) {
    const int64_t own = y * p.stride + p.margin + x;
    weigh(a, p, image, scales, at, x, own, w);
    int64_t c = 0;
    for (; c + 3 <= count; c += 3)
      mix<3>(neighbours, p.plane, maps + c * p.plane + x, at, w, refined + c * p.plane + own);
    for (; c < count; ++c) mix<1>(neighbours, p.plane, maps + c * p.plane + x, at, w, refined + c * p.plane + own);
  }
  for (int64_t c = 0; c < count; ++c) pad(a, p, refined + c * p.plane + y * p.stride);
}

constexpr RefineKernels refine_kernels = {pad_row, scale_row, refine_row};

}  // namespace
}  // namespace fastcam::FASTCAM_SIMD
