// Disjoint sets that many threads join at once. A set is a tree of parents that only ever become smaller, so that its
// root ends as the smallest member, whatever the order; no thread waits for another. Work: pointer jumping, about the
// logarithm of a path; traffic: the parents, which may lie in shared or global memory.
#pragma once

#include "block.cuh"

namespace fastcam {

// The root of i, with i pointing at it: by way of what other threads have shortened already.
__device__ inline int32_t compress(int32_t* parent, int32_t i) {
  int32_t p = load_relaxed(parent + i);
  if (p == i) return i;
#pragma unroll 1
  for (int32_t g; (g = load_relaxed(parent + p)) != p; p = g) store_relaxed(parent + i, g);
  return p;
}

// Joins the trees of a and b under the smaller root.
__device__ inline void join(int32_t* parent, int32_t a, int32_t b) {
#pragma unroll 1
  while ((a = compress(parent, a)) != (b = compress(parent, b))) {
    const int32_t larger = a < b ? b : a, smaller = a < b ? a : b;
    const int32_t before = atomicMin(parent + larger, smaller);
    if (before == larger) return;
    a = before;  // another thread was faster: join what it put there
    b = smaller;
  }
}

// Adds value to sum[root]; where all lanes have one root, which is common, as one. Lanes without a value give root -1,
// but for the first.
__device__ inline void add_at(int32_t* sum, int32_t root, int32_t value, bool together) {
  if (together) {
    value = warp_reduce(value, Sum());
    if (lane() == 0 && value != 0) atomicAdd(sum + root, value);
  } else if (value != 0) {
    atomicAdd(sum + root, value);
  }
}

}  // namespace fastcam
