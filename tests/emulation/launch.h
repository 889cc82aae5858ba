// Stands in for csrc/cuda/launch.h, so that the operators' host code (csrc/cuda/*.cu) runs too: it decides on grids,
// shared memory and work space. The limits that it asks for are set by the tests.
#pragma once

#include <dlfcn.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "elsewhere.h"
#include "emulation.h"
#include "tensor.h"

namespace fastcam {

struct Limits {
  int64_t multiprocessors = 1;
  int64_t shared = 225 * 1024;
};
inline Limits limits;

// What runs kernels instead of the emulation, if anything does (tests/machine_code).
inline emulation::Elsewhere elsewhere = nullptr;

class Launch {
 public:
  explicit Launch(const torch::stable::Tensor&) {}
  const Limits& limits() const { return fastcam::limits; }

  template <class... Parameters, class... Arguments>
  void operator()(const char* name, void (*kernel)(Parameters...), dim3 grid, int threads, int64_t shared,
                  const Arguments&... arguments) const {
    STD_TORCH_CHECK(shared <= fastcam::limits.shared, name, ": ", shared, " bytes of shared memory");
    STD_TORCH_CHECK(grid.x > 0 && grid.y > 0 && grid.y < 65536 && grid.z == 1, name, ": grid");
    if (elsewhere != nullptr && ran_elsewhere(kernel, grid, threads, shared, arguments...)) return;
    emulation::launch(static_cast<unsigned>(threads), grid, static_cast<size_t>(shared), [&] { kernel(arguments...); });
  }

  template <class T>
  T value_at(const char*, const T* address) const {
    return *address;
  }

 private:
  // Hands over the kernel's name and its parameters as they lie one after the other.
  template <class... Parameters>
  static bool ran_elsewhere(void (*kernel)(Parameters...), dim3 grid, int threads, int64_t shared,
                            const std::type_identity_t<Parameters>&... parameters) {
    Dl_info info{};
    dladdr(reinterpret_cast<void*>(kernel), &info);
    STD_TORCH_CHECK(info.dli_sname != nullptr, "a kernel without a name");
    std::vector<unsigned char> packed;
    const auto pack = [&]<class T>(const T& parameter) {
      const size_t at = (packed.size() + alignof(T) - 1) / alignof(T) * alignof(T);
      packed.resize(at + sizeof(T));
      std::memcpy(packed.data() + at, &parameter, sizeof(T));
    };
    (pack(parameters), ...);
    std::vector<emulation::Memory> memory;
    for (const auto& [begin, bytes] : torch::stable::memory) memory.push_back({begin, begin + bytes});
    return elsewhere({info.dli_sname, grid.x, grid.y, static_cast<unsigned>(threads), static_cast<size_t>(shared),
                      packed.data(), packed.size(), memory.data(), memory.size()});
  }
};

// An argument, as Python or sanitize.cpp gives it.
using Value =
    std::variant<std::nullopt_t, bool, int64_t, double, std::string, std::vector<double>, torch::stable::Tensor>;
using Results = std::vector<torch::stable::Tensor>;

template <class T>
struct Argument {
  static T of(const Value& v) { return std::get<T>(v); }
};
template <>
struct Argument<double> {
  static double of(const Value& v) {
    return std::holds_alternative<int64_t>(v) ? static_cast<double>(std::get<int64_t>(v)) : std::get<double>(v);
  }
};
template <>
struct Argument<std::vector<int64_t>> {
  static std::vector<int64_t> of(const Value& v) {
    const auto& values = std::get<std::vector<double>>(v);
    return {values.begin(), values.end()};
  }
};
template <class T>
struct Argument<std::optional<T>> {
  static std::optional<T> of(const Value& v) {
    return std::holds_alternative<std::nullopt_t>(v) ? std::nullopt : std::optional<T>(std::get<T>(v));
  }
};

inline Results listed(torch::stable::Tensor result) { return {std::move(result)}; }
template <class... Tensors>
Results listed(std::tuple<Tensors...> results) {
  return std::apply([](auto&... each) { return Results{each...}; }, results);
}

// The operators by name, as they register; what they take and give follows from their signatures.
struct Library {
  std::map<std::string, std::function<Results(const std::vector<Value>&)>> operators;

  template <class Result, class... Parameters>
  void impl(const std::string& name, Result (*function)(Parameters...)) {
    operators[name] = [name, function](const std::vector<Value>& values) {
      STD_TORCH_CHECK(values.size() == sizeof...(Parameters), name, ": ", values.size(), " arguments");
      return call(function, values, std::index_sequence_for<Parameters...>());
    };
  }

 private:
  template <class Result, class... Parameters, size_t... kIndex>
  static Results call(Result (*function)(Parameters...), const std::vector<Value>& values,
                      std::index_sequence<kIndex...>) {
    return listed(function(Argument<std::decay_t<Parameters>>::of(values[kIndex])...));
  }
};
inline Library library;

}  // namespace fastcam

#define TORCH_BOX(function) function
#define STABLE_TORCH_LIBRARY_IMPL(space, device, m)                            \
  static void add_operators(fastcam::Library& m);                              \
  static const bool operators_added = (add_operators(fastcam::library), true); \
  static void add_operators(fastcam::Library& m)
