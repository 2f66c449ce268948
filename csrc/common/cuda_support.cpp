// SPDX-License-Identifier: Apache-2.0
#include "common/cuda_support.h"

#include <stdexcept>

#include "common/check.h"

#if defined(DEEPLAB_CUDA)
#include <cuda_runtime_api.h>
#endif

namespace deeplab {

bool built_with_cuda() {
#if defined(DEEPLAB_CUDA)
  return true;
#else
  return false;
#endif
}

std::string cuda_architectures() {
#if defined(DEEPLAB_CUDA)
  return DEEPLAB_CUDA_ARCHITECTURES;
#else
  return "";
#endif
}

std::string cuda_version() {
#if defined(DEEPLAB_CUDA)
  return std::to_string(CUDART_VERSION / 1000) + "." + std::to_string(CUDART_VERSION % 1000 / 10);
#else
  return "";
#endif
}

bool on_gpu(const TensorView& view, const Execution& execution) {
  if (view.device == Device::cpu && !execution.emulate) return false;
  if (!built_with_cuda()) {
    throw std::runtime_error(
        "this build of deeplab-infer has no CUDA kernels; install nvcc (CUDA 12.8 or newer) and reinstall "
        "deeplab-infer from source, or pass CPU arrays");
  }
  if (execution.emulate && view.device != Device::cpu) {
    throw std::invalid_argument("emulate: needs CPU arrays, got CUDA arrays");
  }
  return true;
}

#if defined(DEEPLAB_CUDA)
namespace {

void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(message(what, ": ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")"));
}

}  // namespace

int cuda_device_of(const void* pointer) {
  if (pointer == nullptr) return 0;
  cudaPointerAttributes attributes{};
  check_cuda(cudaPointerGetAttributes(&attributes, pointer), "cannot use a GPU array");
  return attributes.device < 0 ? 0 : attributes.device;
}

void order_streams(const TensorView& view, intptr_t producer, intptr_t consumer) {
  if (producer == consumer) return;
  const DeviceGuard guard(view, Execution{});
  cudaEvent_t event{};
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cannot order CUDA streams");
  cudaError_t status = cudaEventRecord(event, reinterpret_cast<cudaStream_t>(producer));
  if (status == cudaSuccess) status = cudaStreamWaitEvent(reinterpret_cast<cudaStream_t>(consumer), event);
  cudaEventDestroy(event);
  check_cuda(status, "cannot order CUDA streams");
}

DeviceGuard::DeviceGuard(const TensorView& view, const Execution& execution) {
  if (execution.emulate) return;
  int current = 0;
  check_cuda(cudaGetDevice(&current), "cannot use a CUDA GPU");
  if (current == view.device_index) return;
  check_cuda(cudaSetDevice(view.device_index), "cannot use the array's CUDA device");
  previous_ = current;
}

DeviceGuard::~DeviceGuard() {
  if (previous_ >= 0) cudaSetDevice(previous_);
}
#else
int cuda_device_of(const void*) {
  return 0;
}
void order_streams(const TensorView&, intptr_t, intptr_t) {}
DeviceGuard::DeviceGuard(const TensorView&, const Execution&) {}
DeviceGuard::~DeviceGuard() = default;
#endif

}  // namespace deeplab
