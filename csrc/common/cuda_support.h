// SPDX-License-Identifier: Apache-2.0
// The one place that knows whether this build has CUDA. A build without it refuses GPU arrays with a sentence.
#pragma once

#include <string>
#include <vector>

#include "common/execution.h"
#include "common/tensor_view.h"

namespace deeplab {

// Whether the call is for the CUDA kernels; throws std::runtime_error where this build or machine cannot run them.
bool on_gpu(const TensorView& view, const Execution& execution);

// Makes the view's device current for its lifetime; does nothing when kernels are emulated.
class DeviceGuard {
 public:
  DeviceGuard(const TensorView& view, const Execution& execution);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = -1;
};

// Device that owns a GPU pointer; 0 where this build cannot tell.
int cuda_device_of(const void* pointer);
// Makes work in `consumer` wait for what is in `producer` now, without stopping the host.
void order_streams(const TensorView& view, intptr_t producer, intptr_t consumer);

bool built_with_cuda();
// Architectures in the binary, e.g. "75", "80", "120"; empty without CUDA.
std::string cuda_architectures();
// Version the binary was compiled with, e.g. "13.0"; empty without CUDA.
std::string cuda_version();

}  // namespace deeplab
