// SPDX-License-Identifier: Apache-2.0
// What an exported model promises, as far as running it needs: deeplab_infer/manifest.py and the config inside.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/json.h"

namespace deeplab::runtime {

constexpr const char* kMetadataKey = "deeplab_infer";

struct Size {
  int64_t height, width;
  bool operator==(const Size& other) const { return height == other.height && width == other.width; }
  bool operator!=(const Size& other) const { return !(*this == other); }
};

using Range = std::array<int64_t, 3>;  // (least, typical, most)

struct Manifest {
  bool float_input;    // float32 [N, 3, H, W], normalised, in place of uint8 [N, H, W, 3] RGB
  bool labels_output;  // labels [N, H, W] in place of logits float32 [N, C, h, w]
  std::string precision;
  Range batch, height, width;

  std::string config;
  std::vector<std::string> classes;
  std::vector<std::array<uint8_t, 3>> palette;  // RGB
  std::vector<float> mean, std;                 // 0..255 units, in the order of the network's channels
  bool reverse_channels;                        // the network eats BGR
  bool align_corners, resize_logits_twice, slide;
  std::optional<Size> window, window_stride;
  std::optional<std::array<int64_t, 2>> test_scale;  // (width, height) limits

  int64_t num_classes() const { return static_cast<int64_t>(classes.size()); }
  bool labels_int32() const { return num_classes() > 256; }
  // The one size of the input, where there is one.
  std::optional<Size> fixed_size() const;
};

// Throws StatusError (DEEPLAB_MODEL_FILE) for what is not a manifest, or one of another version. `path` is where the
// text came from.
Manifest parse_manifest(std::string_view text, const std::string& path);
Manifest manifest_of(const Json& values);

Range range_of(const Json& values, const char* name);

}  // namespace deeplab::runtime
