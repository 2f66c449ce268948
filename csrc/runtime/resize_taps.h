// SPDX-License-Identifier: Apache-2.0
// The tap tables of upsample_argmax.h, with the bits of deeplab_infer/ops/resize_taps.py.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "common/taps.h"

namespace deeplab::runtime {

struct Taps {
  std::vector<int32_t> index;  // [out, columns]
  std::vector<float> weight;
  int64_t out, columns;

  TapTable table() const { return {index.data(), weight.data(), out, columns}; }
};

// Bilinear, from size_in to size_out, through a first resize to `via` where given; as few columns as suffice.
Taps resize_taps(int64_t size_in, int64_t size_out, bool align_corners, std::optional<int64_t> via = std::nullopt);

}  // namespace deeplab::runtime
