// What operators hand to kernels of both backends: choices, element types, and activations as they lie in memory.
#pragma once

#include <cstdint>
#include <type_traits>

namespace fastcam {

enum class DType { kFloat, kDouble, kHalf, kBFloat16 };
enum class Weighting { kGradCam, kGradCamPlusPlus, kXGradCam, kLayerCam, kHiResCam };
enum class Normalize { kNone, kAfter, kBefore, kBoth };

// How to choose among the components of a mask.
struct Choice {
  int connectivity;  // 4 or 8
  bool contour;      // largest contour area, last in raster order; else most pixels, first in raster order
};

// Activations of one image: K channels at Z positions, channel-major (NCHW) or position-major (channels last, NHWC).
struct Features {
  const void* data;
  DType dtype;
  bool channels_last;
  int64_t K, Z;
};

// Sums of double are double; those of float and of the half types are float.
template <class In>
using Accumulator = std::conditional_t<sizeof(In) == 8, double, float>;

// Hands a type to a generic lambda: [&](auto type) { using In = typename decltype(type)::type; ... }.
template <class T>
struct Type {
  using type = T;
};

// f(Type<In>()) for the element type; each backend has half types of its own.
template <class Half, class BFloat16, class F>
auto with_dtype(DType dtype, const F& f) {
  switch (dtype) {
    case DType::kDouble: return f(Type<double>());
    case DType::kHalf: return f(Type<Half>());
    case DType::kBFloat16: return f(Type<BFloat16>());
    default: return f(Type<float>());
  }
}

}  // namespace fastcam
