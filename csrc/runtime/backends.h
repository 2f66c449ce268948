// SPDX-License-Identifier: Apache-2.0
// The function that each backend's file defines. Throws StatusError.
#pragma once

#include "runtime/backend.h"

namespace deeplab::runtime {

OpenedModel open_onnxruntime(const std::string& path, const BackendOptions& options);
OpenedModel open_openvino(const std::string& path, const BackendOptions& options);
OpenedModel open_tensorrt(const std::string& path, const BackendOptions& options);

}  // namespace deeplab::runtime
