// SPDX-License-Identifier: Apache-2.0
// One entry of ONNX's metadata_props, read from the file without the graph: weights are skipped, not read.
#pragma once

#include <string>

namespace deeplab::runtime {

// Throws StatusError (DEEPLAB_MODEL_FILE) where the file is missing, truncated, no ONNX file, or has no such entry.
std::string read_onnx_metadata(const std::string& path, const std::string& key);

}  // namespace deeplab::runtime
