// What every operator file needs of torch: the stable ABI's tensor, checks that guard memory (the readable errors are
// raised in fastcam/ops.py), options by name, and memory layouts. No arithmetic.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <atomic>
#include <cstdint>
#include <new>
#include <string>

#include "options.h"

namespace fastcam {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// f(begin, end) over ranges of maps, on torch's threads. An exception must not cross torch's C interface, which would
// lose its message.
template <class F>
void for_maps(int64_t count, const F& f) {
  std::atomic<bool> out_of_memory{false};
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    try {
      f(begin, end);
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
  });
  STD_TORCH_CHECK(!out_of_memory, "fastcam: not enough memory for the work space of a map of this size");
}

inline DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float: return DType::kFloat;
    case ScalarType::Double: return DType::kDouble;
    case ScalarType::Half: return DType::kHalf;
    case ScalarType::BFloat16: return DType::kBFloat16;
    default: STD_TORCH_CHECK(false, "fastcam: expected a floating-point tensor");
  }
}

// Sums of half types are kept, and returned, in float.
inline ScalarType accumulation_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Weighting weighting_of(const std::string& name) {
  if (name == "gradcam") return Weighting::kGradCam;
  if (name == "gradcam++") return Weighting::kGradCamPlusPlus;
  if (name == "xgradcam") return Weighting::kXGradCam;
  if (name == "layercam") return Weighting::kLayerCam;
  STD_TORCH_CHECK(name == "hirescam", "fastcam: unknown weighting ", name);
  return Weighting::kHiResCam;
}

inline Normalize normalize_of(const std::string& name) {
  if (name == "none") return Normalize::kNone;
  if (name == "after") return Normalize::kAfter;
  if (name == "before") return Normalize::kBefore;
  STD_TORCH_CHECK(name == "both", "fastcam: unknown normalize ", name);
  return Normalize::kBoth;
}

// [N, K, h, w] with channels innermost and nothing between pixels. Strides of dimensions of size 1 say nothing.
inline bool is_channels_last(const Tensor& t) {
  const int64_t expected[4] = {t.size(1) * t.size(2) * t.size(3), 1, t.size(3) * t.size(1), t.size(1)};
  for (int d = 0; d < 4; ++d)
    if (t.size(d) != 1 && t.stride(d) != expected[d]) return false;
  return true;
}

// Activations in a layout that the kernels read: as they are when contiguous or channels last, else a copy.
struct Layout {
  Tensor tensor;
  bool channels_last;

  explicit Layout(const Tensor& t)
      : tensor(t.is_contiguous() || is_channels_last(t) ? t : torch::stable::contiguous(t)),
        channels_last(!tensor.is_contiguous()) {}

  int64_t images() const { return tensor.size(0); }
  int64_t channels() const { return tensor.size(1); }
  int64_t positions() const { return tensor.size(2) * tensor.size(3); }
  int64_t element_size() const {
    const DType dtype = dtype_of(tensor);
    return dtype == DType::kDouble ? 8 : dtype == DType::kFloat ? 4 : 2;
  }

  Features image(int64_t n) const {
    const char* base = static_cast<const char*>(tensor.const_data_ptr());
    return {base + n * channels() * positions() * element_size(), dtype_of(tensor), channels_last, channels(),
            positions()};
  }
};

}  // namespace fastcam
