// SPDX-License-Identifier: Apache-2.0
// What runs a network. A backend is one file that implements this; backends.cpp has the table of those that are built.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/tensor_view.h"
#include "runtime/manifest.h"

namespace deeplab::runtime {

class Backend {
 public:
  virtual ~Backend() = default;

  // Runs one batch and shows its output, which is valid until `use` returns. Any number of threads may call it.
  // `input`: uint8 [N, H, W, 3] or float32 [N, 3, H, W], packed, of sizes that the manifest allows. `output`: packed.
  // Throws StatusError (DEEPLAB_BACKEND).
  virtual void run(const TensorView& input, const std::function<void(const TensorView& output)>& use) = 0;

  virtual const char* name() const = 0;
  virtual std::string device() const = 0;
};

struct OpenedModel {
  Manifest manifest;
  std::unique_ptr<Backend> backend;
};

struct BackendOptions {
  std::string device;  // "auto" or a name of the backend's
  int threads;         // 0: the backend's choice
};

// What a file's name ends with, in lower case, e.g. ".onnx".
std::string suffix_of(const std::string& path);

// A packed view of memory.
TensorView packed_view(const void* data, DType dtype, const std::vector<int64_t>& shape);

// Opens a model on a backend ("auto": the first that reads such files). Throws StatusError.
OpenedModel open_model(const std::string& path, const std::string& backend, const BackendOptions& options);

// Names of the backends in this build, separated by commas, in order of preference.
const char* backend_names();

}  // namespace deeplab::runtime
