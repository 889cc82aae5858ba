// The CUDA kernels as host code, one thread to a block: enough to hold their arithmetic to the CPU's bits on a machine
// without a GPU. Concurrency is not emulated.
#include <algorithm>
#include <cmath>
#include <cstdint>

#define __global__
#define __device__
#define __restrict__
#define __shared__ static

struct Dim {
  unsigned x = 0;
};
static Dim threadIdx, blockIdx, blockDim{1}, gridDim{1};

inline void __syncthreads() {}
inline int atomicMin(int* p, int v) { return std::exchange(*p, std::min(*p, v)); }
inline int atomicAdd(int* p, int v) { return std::exchange(*p, *p + v); }

// What cuda_fp16.h and cuda_bf16.h would declare; the half types are not emulated.
struct __half {};
struct __nv_bfloat16 {};
inline float __half2float(__half) { return 0; }
inline float __bfloat162float(__nv_bfloat16) { return 0; }

#include "../csrc/cuda/components.cuh"

using namespace fastcam;

template <class Kernel>
static void launch(int64_t blocks, const Kernel& kernel) {
  gridDim.x = static_cast<unsigned>(blocks);
  for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) kernel();
}

extern "C" {

void class_map(const float* features, const float* weights, float* out, int64_t N, int64_t C, int64_t K, int64_t Z,
               bool channels_last) {
  const Strides strides = channels_last ? Strides{K * Z, 1, K} : Strides{K * Z, Z, 1};
  launch(N * C * Z, [&] { class_map_kernel<float, float>(features, weights, out, strides, N, C, K, Z); });
}

void gradient_map(const float* features, const float* gradients, float* weights, float* out, int64_t N, int64_t K,
                  int64_t Z, bool channels_last, int weighting, float eps) {
  const Strides strides = channels_last ? Strides{K * Z, 1, K} : Strides{K * Z, Z, 1};
  const Weighting rule = static_cast<Weighting>(weighting);
  if (rule == Weighting::kHiResCam || rule == Weighting::kLayerCam) {
    launch(N * Z, [&] {
      elementwise_kernel<float, float>(features, gradients, out, strides, N, K, Z, rule == Weighting::kLayerCam);
    });
    return;
  }
  launch(N * K,
         [&] { channel_weights_kernel<float, float>(features, gradients, weights, strides, N, K, Z, rule, eps); });
  class_map(features, weights, out, N, 1, K, Z, channels_last);
}

void heatmap(const float* coarse, float* out, int64_t M, int64_t h, int64_t w, int64_t H, int64_t W, bool relu,
             bool bicubic, int normalize) {
  launch(M, [&] {
    heatmap_kernel<float, float>(coarse, out, h, w, H, W, relu, bicubic, static_cast<Normalize>(normalize));
  });
}

void boxes(const float* coarse, const float* levels, int32_t* space, uint64_t* masks, int32_t* out, int64_t M,
           int64_t T, int64_t h, int64_t w, int64_t H, int64_t W, bool relu, bool bicubic, bool absolute, bool contour,
           int connectivity, int64_t blocks) {
  const SearchArguments arguments{h, w, H, W, M, T, relu, bicubic, absolute, true, contour, connectivity};
  launch(blocks, [&] { boxes_kernel(coarse, levels, space, masks, out, arguments); });
}
}
