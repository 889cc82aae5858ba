// csrc/cuda/launch.h on devices that only keep the rules (cuda_runtime.h beside this file): what it does about limits
// of shared memory, and after a call that failed. Torch's part is a stand-in too: a tensor is nothing but its device.
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <thread>

#include "../../../csrc/cuda/launch.h"

extern "C" {
uint64_t aoti_torch_abi_version() { return TORCH_TARGET_VERSION; }
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle tensor, int32_t* index) {
  *index = static_cast<int32_t>(reinterpret_cast<intptr_t>(tensor) - 1);
  return 0;
}
AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle) { return 0; }
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return 0;
}
AOTITorchError aoti_torch_create_device_guard(int32_t index, DeviceGuardHandle* guard) {
  *guard = reinterpret_cast<DeviceGuardHandle>(static_cast<intptr_t>(std::exchange(runtime::device, index) + 1));
  return 0;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle guard) {
  runtime::device = static_cast<int>(reinterpret_cast<intptr_t>(guard) - 1);
  return 0;
}
}

namespace {

void kernel(int) {}
void other_kernel(int) {}

#define CHECK(condition)                                                         \
  if (!(condition)) {                                                            \
    std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
    std::exit(1);                                                                \
  }

// A call of an operator with so much shared memory, on a tensor of a device; what it says if it fails.
std::string call(int64_t shared, int device = 0, void (*which)(int) = kernel) {
  try {
    const torch::stable::Tensor tensor(reinterpret_cast<AtenTensorHandle>(static_cast<intptr_t>(device + 1)));
    const fastcam::Launch launch(tensor);
    launch("boxes", which, dim3(1), 64, shared, 1);
    const int64_t value = 5;
    CHECK(launch.value_at("boxes", &value) == 5);
    return "";
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

bool all_could_launch_again() {
  for (const auto& each : runtime::launched)
    if (!runtime::allowed(each)) return false;
  return true;
}

void threads() {  // one launches between another's request and launch
  runtime::before = [] { std::thread([] { CHECK(call(60 << 10) == ""); }).join(); };
  CHECK(call(200 << 10) == "");
  CHECK(runtime::launched.size() == 2);
}

void graphs() {  // a captured launch is made once more, after calls that needed less
  for (const int64_t shared : {100, 225, 60, 0, 50}) CHECK(call(shared << 10) == "");
  CHECK(call(150 << 10, 0, other_kernel) == "");
  CHECK(all_could_launch_again());
}

void devices() {  // each has its own limit
  CHECK(call(225 << 10, 0) == "" && call(97 << 10, 1) == "" && call(161 << 10, 2) == "");
  CHECK(call(200 << 10, 0) == "" && all_could_launch_again());
  CHECK(call(98 << 10, 1).find("boxes did not launch: invalid argument") != std::string::npos);
  CHECK(runtime::device == 0 && runtime::last == cudaSuccess);
}

void failures() {  // each is told where it happens, and by nobody else
  const std::pair<const char*, const char*> told[] = {{"cudaDeviceGetAttribute", "device does not tell its limits"},
                                                      {"cudaFuncSetAttribute", "boxes got no shared memory"},
                                                      {"cudaLaunchKernelEx", "boxes did not launch"},
                                                      {"cudaMemcpyAsync", "boxes cannot be read"},
                                                      {"cudaStreamSynchronize", "boxes cannot be waited for"}};
  for (const auto& [failing, message] : told) {
    runtime::failing = failing;
    const std::string error = call(60 << 10);
    CHECK(error.find(std::string("fastcam: ") + message + ": operation not permitted") != std::string::npos);
    CHECK(runtime::last == cudaSuccess);
    runtime::failing = "";
    CHECK(call(60 << 10) == "");
  }
}

}  // namespace

int main(int, char** arguments) {
  const std::string name = arguments[1];
  if (name == "threads") return threads(), 0;
  if (name == "graphs") return graphs(), 0;
  if (name == "devices") return devices(), 0;
  if (name == "failures") return failures(), 0;
  return 2;
}
