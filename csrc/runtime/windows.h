// SPDX-License-Identifier: Apache-2.0
// Where the windows of slide mode lie: deeplab_infer/runtime/windows.py.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/manifest.h"

namespace deeplab::runtime {

struct Windows {
  Size size;                     // of every window: cut to the image where that is smaller
  std::vector<int64_t> tops, lefts;

  int64_t count() const { return static_cast<int64_t>(tops.size() * lefts.size()); }
  int64_t top(int64_t index) const { return tops[index / static_cast<int64_t>(lefts.size())]; }
  int64_t left(int64_t index) const { return lefts[index % static_cast<int64_t>(lefts.size())]; }
};

// Row by row: along an axis max(length - window + stride - 1, 0) / stride + 1 windows, the last shifted back to end at
// the border, as merge_windows.h expects them.
Windows place_windows(const Size& image, const Size& window, const Size& stride);

}  // namespace deeplab::runtime
