// Stands in for CUDA's runtime, as far as csrc/cuda/launch.h uses it: devices that launch nothing, but keep the rules.
// What they are asked for is recorded, and any call can be made to fail.
#pragma once

#include <cstddef>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

enum cudaError_t { cudaSuccess, cudaErrorInvalidValue, cudaErrorStreamCaptureUnsupported };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost };
using cudaStream_t = void*;
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace runtime {

using Kernel = std::pair<const void*, int>;  // on a device
struct Launched {
  Kernel kernel;
  size_t shared;
};

inline const std::vector<int> optin = {227 << 10, 99 << 10, 163 << 10};  // bytes that a block may ask for, by device
inline constexpr int kStatic = 2048;                                     // of which kernels have as many already
inline std::mutex mutex;
inline std::map<Kernel, size_t> limits;  // as set; else 48 KB, what is static included
inline std::vector<Launched> launched;
inline std::string failing;           // the call that fails
inline std::function<void()> before;  // is called before a launch looks at the limit
inline thread_local int device = 0;   // the current one
inline thread_local cudaError_t last = cudaSuccess;

inline cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}
inline cudaError_t outcome(const char* call) {
  return result(failing == call ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
}
inline bool allowed(const Launched& each) {  // with the mutex held
  const auto found = limits.find(each.kernel);
  return each.shared <= (found == limits.end() ? (48 << 10) - kStatic : found->second);
}

}  // namespace runtime

inline cudaError_t cudaGetLastError() { return std::exchange(runtime::last, cudaSuccess); }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidValue ? "invalid argument" : "operation not permitted when stream is capturing";
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? 132 : runtime::optin[static_cast<size_t>(device)];
  return runtime::outcome("cudaDeviceGetAttribute");
}
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int bytes) {
  if (const cudaError_t error = runtime::outcome("cudaFuncSetAttribute")) return error;
  if (bytes + runtime::kStatic > runtime::optin[static_cast<size_t>(runtime::device)])
    return runtime::result(cudaErrorInvalidValue);
  const std::lock_guard lock(runtime::mutex);
  runtime::limits[{kernel, runtime::device}] = static_cast<size_t>(bytes);
  return cudaSuccess;
}
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* configuration, void (*kernel)(Parameters...), Arguments&&...) {
  static_assert(std::is_invocable_v<decltype(kernel), Arguments...>);
  if (const cudaError_t error = runtime::outcome("cudaLaunchKernelEx")) return error;
  if (runtime::before) std::exchange(runtime::before, {})();
  const std::lock_guard lock(runtime::mutex);
  runtime::launched.push_back(
      {{reinterpret_cast<const void*>(kernel), runtime::device}, configuration->dynamicSmemBytes});
  return runtime::result(runtime::allowed(runtime::launched.back()) ? cudaSuccess : cudaErrorInvalidValue);
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return runtime::outcome("cudaMemcpyAsync");
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return runtime::outcome("cudaStreamSynchronize"); }
