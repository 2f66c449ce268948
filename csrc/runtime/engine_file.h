// SPDX-License-Identifier: Apache-2.0
// A TensorRT engine and the JSON beside it: deeplab_infer/engine_manifest.py.
#pragma once

#include <string>
#include <vector>

#include "runtime/manifest.h"

namespace deeplab::runtime {

struct Profile {
  Range batch, height, width;
};

struct EngineFile {
  Manifest manifest;
  std::string flavour;                // "tensorrt" or "tensorrt_rtx"
  std::vector<Profile> profiles;      // in the engine's order
  std::vector<std::string> plugins;   // paths of the libraries that it needs
  std::string plan;
};

// Reads `path` and `path`.json, and checks that they belong together. Throws StatusError (DEEPLAB_MODEL_FILE).
EngineFile read_engine_file(const std::string& path);

}  // namespace deeplab::runtime
