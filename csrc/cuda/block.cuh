// What the threads of a warp or a block do together: reductions, prefix sums, and access to memory that several of
// them touch at once. Work: five shuffles a warp and one value a warp in shared memory. Every function is for all
// threads of the block (or lanes of the warp) at once, and deterministic for operations that are free of order:
// integers, minimum and maximum.
#pragma once

#include <cstdint>
#include <type_traits>

// Dynamic shared memory. Off the GPU, the emulation in tests/ provides it.
#ifdef __CUDACC__
#define FASTCAM_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#else
#define FASTCAM_DYNAMIC_SHARED(name) unsigned char* name = emulation::dynamic_shared()
#endif

namespace fastcam {

constexpr unsigned kAllLanes = 0xffffffffu;

__device__ inline int lane() { return static_cast<int>(threadIdx.x & 31); }
__device__ inline int warp() { return static_cast<int>(threadIdx.x >> 5); }

// Reads and writes that other threads may do at the same time: whole words, in no particular order.
template <class T>
__device__ inline T load_relaxed(const T* p) {
#ifdef __CUDACC__
  return *static_cast<const volatile T*>(p);
#else
  T v;
  __atomic_load(p, &v, __ATOMIC_RELAXED);
  return v;
#endif
}

template <class T>
__device__ inline void store_relaxed(T* p, T v) {
#ifdef __CUDACC__
  *static_cast<volatile T*>(p) = v;
#else
  __atomic_store(p, &v, __ATOMIC_RELAXED);
#endif
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

struct Sum {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

// One value of each lane, combined; every lane gets the result. The hardware does it at once for 32-bit integers.
template <class T, class Op>
__device__ inline T warp_reduce(T v, Op op) {
  if constexpr (std::is_integral_v<T> && sizeof(T) == 4) {
    if constexpr (std::is_same_v<Op, Smaller>)
      return __reduce_min_sync(kAllLanes, v);
    else if constexpr (std::is_same_v<Op, Larger>)
      return __reduce_max_sync(kAllLanes, v);
    else if constexpr (std::is_same_v<Op, Sum>)
      return __reduce_add_sync(kAllLanes, v);
    else
      static_assert(std::is_same_v<Op, Sum>, "an operation that the hardware does not reduce by");
  } else if constexpr (std::is_same_v<T, uint64_t> && std::is_same_v<Op, Larger>) {  // upper halves, then lower ones
    const unsigned upper = __reduce_max_sync(kAllLanes, static_cast<unsigned>(v >> 32));
    const unsigned lower = static_cast<unsigned>(v >> 32) == upper ? static_cast<unsigned>(v) : 0u;
    return static_cast<uint64_t>(upper) << 32 | __reduce_max_sync(kAllLanes, lower);
  } else {
    for (int distance = 16; distance > 0; distance /= 2) v = op(v, __shfl_xor_sync(kAllLanes, v, distance));
    return v;
  }
}

// One value of each thread, combined; every thread gets the result. What was written before is visible after.
template <int kThreads, class T, class Op>
__device__ inline T block_reduce(T v, Op op) {
  constexpr int kWarps = kThreads / 32;
  __shared__ T partial[kWarps];
  v = warp_reduce(v, op);
  __syncthreads();  // the previous use is over
  if (lane() == 0) partial[warp()] = v;
  __syncthreads();
  if constexpr (std::is_same_v<Op, Sum>) {
    v = partial[0];
#pragma unroll
    for (int i = 1; i < kWarps; ++i) v = op(v, partial[i]);
    return v;
  } else {  // a warp's value may count several times
    return warp_reduce(partial[lane() % kWarps], op);
  }
}

// The sum of v over the threads before this one, and over all of them.
template <int kThreads>
__device__ inline int block_exclusive_sum(int v, int* total) {
  constexpr int kWarps = kThreads / 32;
  __shared__ int partial[kWarps];
  int inclusive = v;
  for (int distance = 1; distance < 32; distance *= 2) {
    const int before = __shfl_up_sync(kAllLanes, inclusive, distance);
    if (lane() >= distance) inclusive += before;
  }
  __syncthreads();  // the previous use is over
  if (lane() == 31) partial[warp()] = inclusive;
  __syncthreads();
  int sum = 0, before = 0;
#pragma unroll
  for (int i = 0; i < kWarps; ++i) {
    if (i == warp()) before = sum;
    sum += partial[i];
  }
  *total = sum;
  return before + inclusive - v;
}

}  // namespace fastcam
