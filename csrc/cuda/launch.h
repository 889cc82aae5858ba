// The host ritual around every kernel: device guard, current stream, limits of the device, launch and its check.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>

#include <array>
#include <mutex>

#include "../torch.h"

namespace fastcam {

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
    const bool known =
        cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device) == cudaSuccess &&
        cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) == cudaSuccess;
    STD_TORCH_CHECK(known, "fastcam: cannot ask device ", device, " for its limits");
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

  cudaStream_t stream() const { return stream_; }
  const Limits& limits() const { return limits_of(device_); }

  // kernel(arguments...) on grid blocks of that many threads, with `shared` bytes of dynamic shared memory.
  template <class... Parameters, class... Arguments>
  void operator()(const char* name, void (*kernel)(Parameters...), dim3 grid, int threads, int64_t shared,
                  const Arguments&... arguments) const {
    if (shared > kShared) {  // more than every device grants has to be asked for
      const cudaError_t error =
          cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared));
      STD_TORCH_CHECK(error == cudaSuccess, "fastcam: ", name, " got no shared memory: ", cudaGetErrorString(error));
    }
    kernel<<<grid, static_cast<unsigned>(threads), static_cast<size_t>(shared), stream_>>>(arguments...);
    const cudaError_t error = cudaGetLastError();
    STD_TORCH_CHECK(error == cudaSuccess, "fastcam: ", name, " did not launch: ", cudaGetErrorString(error));
  }

 private:
  static constexpr int64_t kShared = 46 * 1024;  // 48 KB, less what kernels declare statically
  int device_;
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace fastcam
