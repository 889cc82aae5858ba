// What every operator file needs of torch: the stable ABI's tensor, results, threads, element types, options by name,
// and memory layouts. No arithmetic.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <new>
#include <string>

#include "options.h"

namespace fastcam {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// An uninitialised, contiguous tensor on the device of another. new_empty and contiguous of the stable ABI go through
// the dispatcher by name, which costs as much as the boxes of several pictures.
inline Tensor empty_on(const Tensor& like, std::initializer_list<int64_t> sizes, ScalarType dtype) {
  int64_t strides[4] = {1, 1, 1, 1};
  const int dims = static_cast<int>(sizes.size());
  for (int d = dims - 2; d >= 0; --d) strides[d] = strides[d + 1] * std::max<int64_t>(sizes.begin()[d + 1], 1);
  int32_t device_type = 0, device_index = 0;
  AtenTensorHandle handle = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_device_type(like.get(), &device_type) == 0 &&
                      aoti_torch_get_device_index(like.get(), &device_index) == 0 &&
                      aoti_torch_empty_strided(
                          dims, sizes.begin(), strides,
                          static_cast<int32_t>(torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype))),
                          device_type, device_index, &handle) == 0,
                  "fastcam: not enough memory for a result");
  return Tensor(handle);
}

inline Tensor packed(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// f(begin, end) over ranges, on torch's threads. An exception must not cross torch's C interface, which would
// lose its message.
template <class F>
void for_ranges(int64_t count, const F& f) {
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

// f(state, n, begin, end) over the parts of each of several things: whole ones where there are many, else shares of
// one. Each thread makes a state of its own.
template <class State, class F>
void for_parts(int64_t things, int64_t parts, const State& state, const F& f) {
  for_ranges(things * parts, [&](int64_t begin, int64_t end) {
    auto own = state();
    while (begin < end) {
      const int64_t n = begin / parts, first = begin - n * parts, count = std::min(parts - first, end - begin);
      f(own, n, first, first + count);
      begin += count;
    }
  });
}

template <class F>
void for_parts(int64_t things, int64_t parts, const F& f) {
  for_parts(things, parts, [] { return 0; }, [&](int, int64_t n, int64_t begin, int64_t end) { f(n, begin, end); });
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

// f(Type<float>()) or f(Type<double>()), for tensors that a guard of arguments.h has let pass.
template <class F>
auto with_float_or_double(const Tensor& t, const F& f) {
  return t.scalar_type() == ScalarType::Double ? f(Type<double>()) : f(Type<float>());
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

// Activations and their gradients in one and the same layout.
struct LayoutPair {
  Layout features, gradients;

  LayoutPair(const Tensor& f, const Tensor& g) : features(f), gradients(g) {
    if (features.channels_last == gradients.channels_last) return;
    features = Layout(packed(f));
    gradients = Layout(packed(g));
  }
};

}  // namespace fastcam
