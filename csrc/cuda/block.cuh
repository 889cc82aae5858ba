// Sums, extremes and arg-maxima over one block of any number of threads, in a fixed order.
#pragma once

#include <cstdint>

namespace fastcam {

constexpr int kMostThreads = 1024;

// Combines one value of each thread; every thread gets the result. op must be associative and commutative.
template <class T, class Op>
__device__ T block_reduce(T value, Op op) {
  __shared__ T shared[kMostThreads];
  __syncthreads();  // the previous use is over
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int count = blockDim.x; count > 1;) {
    const int half = (count + 1) / 2;
    if (threadIdx.x + half < count) shared[threadIdx.x] = op(shared[threadIdx.x], shared[threadIdx.x + half]);
    __syncthreads();
    count = half;
  }
  return shared[0];
}

struct Smaller {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b < a ? b : a;
  }
};

struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b > a ? b : a;
  }
};

}  // namespace fastcam
