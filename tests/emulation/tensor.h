// What the operators need of torch, without torch: the tensor of the stable ABI, its dtypes, checks and registration.
// New tensors are filled with garbage, so that what an operator forgets to write shows.
#pragma once

#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

namespace torch::headeronly {
enum class ScalarType { Byte, Int, Long, Half, BFloat16, Float, Double, Bool };
}

namespace torch::stable {

using headeronly::ScalarType;

inline int64_t size_of(ScalarType type) {
  constexpr int64_t kSizes[] = {1, 4, 8, 2, 2, 4, 8, 1};
  return kSizes[static_cast<int>(type)];
}

struct Sizes : std::vector<int64_t> {
  using vector::vector;
  bool equals(const Sizes& other) const { return *this == other; }
};

// The memory of all tensors that live: where it begins, and bytes.
inline std::multimap<uint64_t, uint64_t> memory;

class Tensor {
 public:
  Tensor() = default;
  Tensor(void* data, Sizes sizes, Sizes strides, ScalarType type)  // of somebody else's memory
      : sizes_(std::move(sizes)), strides_(std::move(strides)), type_(type) {
    int64_t last = 0;
    for (size_t d = 0; d < sizes_.size(); ++d) last += (sizes_[d] - 1) * strides_[d];
    data_ = listed(data, numel() == 0 ? 0 : static_cast<size_t>((last + 1) * size_of(type)), [](void*) {});
  }
  Tensor(Sizes sizes, ScalarType type) : sizes_(std::move(sizes)), strides_(sizes_.size(), 1), type_(type) {
    for (size_t d = sizes_.size(); d-- > 1;) strides_[d - 1] = strides_[d] * std::max<int64_t>(sizes_[d], 1);
    const size_t bytes = static_cast<size_t>(numel() * size_of(type));
    auto* const data = new unsigned char[bytes];  // whose end AddressSanitizer guards
    std::memset(data, 0xcd, bytes);
    data_ = listed(data, bytes, [](void* p) { delete[] static_cast<unsigned char*>(p); });
  }
  Tensor(const Tensor& other, Sizes sizes, Sizes strides)  // another view of the same memory
      : data_(other.data_), sizes_(std::move(sizes)), strides_(std::move(strides)), type_(other.type_) {}
  explicit Tensor(Tensor* handle) : Tensor(std::move(*handle)) { delete handle; }

  Tensor* get() const { return const_cast<Tensor*>(this); }
  int64_t dim() const { return static_cast<int64_t>(sizes_.size()); }
  int64_t size(int64_t d) const { return sizes_[static_cast<size_t>(d)]; }
  int64_t stride(int64_t d) const { return strides_[static_cast<size_t>(d)]; }
  const Sizes& sizes() const { return sizes_; }
  const Sizes& strides() const { return strides_; }
  ScalarType scalar_type() const { return type_; }
  int32_t get_device_index() const { return 0; }
  int64_t numel() const { return std::accumulate(sizes_.begin(), sizes_.end(), int64_t{1}, std::multiplies<>()); }
  bool is_contiguous() const {
    int64_t expected = 1;
    for (size_t d = sizes_.size(); d-- > 0; expected *= sizes_[d])
      if (sizes_[d] != 1 && strides_[d] != expected && numel() > 0) return false;
    return true;
  }
  template <class T = void>
  const T* const_data_ptr() const {
    return static_cast<const T*>(data_.get());
  }
  template <class T = void>
  T* mutable_data_ptr() const {
    return static_cast<T*>(data_.get());
  }

 private:
  template <class Free>
  static std::shared_ptr<void> listed(void* data, size_t bytes, const Free& free) {
    const auto entry = memory.emplace(reinterpret_cast<uintptr_t>(data), bytes);
    return {data, [entry, free](void* p) {
              memory.erase(entry);
              free(p);
            }};
  }

  std::shared_ptr<void> data_;
  Sizes sizes_, strides_;
  ScalarType type_ = ScalarType::Float;
};

inline Tensor new_empty(const Tensor& like, std::initializer_list<int64_t> sizes, std::optional<ScalarType> type = {}) {
  return {Sizes(sizes), type.value_or(like.scalar_type())};
}

inline Tensor new_zeros(const Tensor& like, std::initializer_list<int64_t> sizes, std::optional<ScalarType> type = {}) {
  Tensor out = new_empty(like, sizes, type);
  std::memset(out.mutable_data_ptr(), 0, static_cast<size_t>(out.numel() * size_of(out.scalar_type())));
  return out;
}

inline Tensor contiguous(const Tensor& t) {
  if (t.is_contiguous()) return t;
  Tensor out(t.sizes(), t.scalar_type());
  const int64_t bytes = size_of(t.scalar_type());
  for (int64_t i = 0; i < t.numel(); ++i) {
    int64_t offset = 0;
    for (int64_t d = t.dim(), rest = i; d-- > 0; rest /= t.size(d)) offset += rest % t.size(d) * t.stride(d);
    std::memcpy(out.mutable_data_ptr<char>() + i * bytes, t.const_data_ptr<char>() + offset * bytes,
                static_cast<size_t>(bytes));
  }
  return out;
}

template <class F>
void parallel_for(int64_t begin, int64_t end, int64_t, const F& f) {
  f(begin, end);
}

namespace detail {
template <class T>
T from(T v) {
  return v;
}
template <class T, class From>
T to(From v) {
  return static_cast<T>(v);
}
}  // namespace detail

}  // namespace torch::stable

using AtenTensorHandle = torch::stable::Tensor*;

inline int aoti_torch_get_device_type(AtenTensorHandle, int32_t* type) { return *type = 0; }
inline int aoti_torch_get_device_index(AtenTensorHandle, int32_t* index) { return *index = 0; }
inline int aoti_torch_empty_strided(int64_t dims, const int64_t* sizes, const int64_t*, int32_t type, int32_t, int32_t,
                                    AtenTensorHandle* result) {
  using namespace torch::stable;
  *result = new Tensor(Sizes(sizes, sizes + dims), static_cast<ScalarType>(type));
  return 0;
}

template <class... Parts>
[[noreturn]] void failed_check(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}
#define STD_TORCH_CHECK(condition, ...)          \
  do {                                           \
    if (!(condition)) failed_check(__VA_ARGS__); \
  } while (false)
