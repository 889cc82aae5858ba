// Stands in for csrc/cuda/launch.h, so that the operators' host code (csrc/cuda/*.cu) runs too: it decides on grids,
// shared memory and work space. The limits that it asks for are set by the tests.
#pragma once

#include <any>
#include <map>
#include <string>

#include "emulation.h"
#include "tensor.h"

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }

namespace fastcam {

struct Limits {
  int64_t multiprocessors = 1;
  int64_t shared = 225 * 1024;
};
inline Limits limits;

class Launch {
 public:
  explicit Launch(const torch::stable::Tensor&) {}
  const Limits& limits() const { return fastcam::limits; }
  cudaStream_t stream() const { return nullptr; }

  template <class... Parameters, class... Arguments>
  void operator()(const char* name, void (*kernel)(Parameters...), dim3 grid, int threads, int64_t shared,
                  const Arguments&... arguments) const {
    STD_TORCH_CHECK(shared <= fastcam::limits.shared, name, ": ", shared, " bytes of shared memory");
    STD_TORCH_CHECK(grid.x > 0 && grid.y > 0 && grid.y < 65536 && grid.z == 1, name, ": grid");
    emulation::launch(static_cast<unsigned>(threads), grid, static_cast<size_t>(shared), [&] { kernel(arguments...); });
  }
};

// The operators by name, as they register.
struct Library {
  std::map<std::string, std::any> operators;
  void impl(const std::string& name, std::any function) { operators[name] = std::move(function); }
};
inline Library library;

}  // namespace fastcam

#define TORCH_BOX(function) function
#define STABLE_TORCH_LIBRARY_IMPL(space, device, m)                            \
  static void add_operators(fastcam::Library& m);                              \
  static const bool operators_added = (add_operators(fastcam::library), true); \
  static void add_operators(fastcam::Library& m)
