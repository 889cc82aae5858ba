// The host ritual around every kernel: device guard, current stream, limits of the device, launch and its check. All
// calls of the CUDA runtime are here.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <array>
#include <mutex>

#include "../torch.h"

namespace fastcam {

// Checks a call of the runtime. One that failed stays the thread's last error until somebody asks for it, and would be
// blamed on whoever asks next.
inline void check_cuda(cudaError_t error, const char* name, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  STD_TORCH_CHECK(false, "fastcam: ", name, " ", what, ": ", cudaGetErrorString(error));
}

// What kernels choose their shapes by. Asked once for each device.
struct Limits {
  int64_t multiprocessors;
  int64_t shared;  // bytes of dynamic shared memory a block may ask for, what kernels declare statically set aside
};

inline const Limits& limits_of(int device) {
  constexpr int kDevices = 64;
  constexpr int64_t kStatic = 2048;
  static std::array<std::once_flag, kDevices> once;
  static std::array<Limits, kDevices> limits;
  STD_TORCH_CHECK(device >= 0 && device < kDevices, "fastcam: device ", device);
  std::call_once(once[device], [device] {
    int multiprocessors = 0, shared = 0;
    const auto ask = [device](int& value, cudaDeviceAttr attribute) {
      check_cuda(cudaDeviceGetAttribute(&value, attribute, device), "device", "does not tell its limits");
    };
    ask(multiprocessors, cudaDevAttrMultiProcessorCount);
    ask(shared, cudaDevAttrMaxSharedMemoryPerBlockOptin);
    limits[device] = {multiprocessors, shared - kStatic};
  });
  return limits[device];
}

// Alive while an operator runs: everything happens on the tensor's device and the stream that is current there.
class Launch {
 public:
  explicit Launch(const Tensor& t) : device_(t.get_device_index()), guard_(device_) {
    void* stream = nullptr;
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream) == 0, "fastcam: no CUDA stream");
    stream_ = static_cast<cudaStream_t>(stream);
  }

  const Limits& limits() const { return limits_of(device_); }

  // kernel(arguments...) on grid blocks of that many threads, with `shared` bytes of dynamic shared memory.
  template <class... Parameters, class... Arguments>
  void operator()(const char* name, void (*kernel)(Parameters...), dim3 grid, int threads, int64_t shared,
                  const Arguments&... arguments) const {
    // More than every device grants has to be asked for. The limit belongs to the kernel on its device, for all threads
    // and for graphs to come: it is always the device's own, or one call would take away what another is to launch
    // with.
    if (shared > kShared)
      check_cuda(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                      cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(limits().shared)),
                 name, "got no shared memory");
    cudaLaunchConfig_t configuration{};
    configuration.gridDim = grid;
    configuration.blockDim = dim3(static_cast<unsigned>(threads));
    configuration.dynamicSmemBytes = static_cast<size_t>(shared);
    configuration.stream = stream_;
    check_cuda(cudaLaunchKernelEx(&configuration, kernel, arguments...), name, "did not launch");
  }

  // A value of the device, once all before it on the stream is done. The host waits.
  template <class T>
  T value_at(const char* name, const T* address) const {
    T value{};
    check_cuda(cudaMemcpyAsync(&value, address, sizeof(value), cudaMemcpyDeviceToHost, stream_), name,
               "cannot be read");
    check_cuda(cudaStreamSynchronize(stream_), name, "cannot be waited for");
    return value;
  }

 private:
  static constexpr int64_t kShared = 46 * 1024;  // 48 KB, less what kernels declare statically
  int device_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace fastcam
