// What operators hand to kernels of both backends: their choices, and activations as they lie in memory.
#pragma once

#include <cstdint>

namespace fastcam {

enum class DType { kFloat, kDouble, kHalf, kBFloat16 };
enum class Weighting { kGradCam, kGradCamPlusPlus, kXGradCam, kLayerCam, kHiResCam };
enum class Normalize { kNone, kAfter, kBefore, kBoth };

// Activations of one image: K channels at Z positions, channel-major (NCHW) or position-major (channels last, NHWC).
struct Features {
  const void* data;
  DType dtype;
  bool channels_last;
  int64_t K, Z;
};

}  // namespace fastcam
