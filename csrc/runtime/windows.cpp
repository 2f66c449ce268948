// SPDX-License-Identifier: Apache-2.0
#include "runtime/windows.h"

#include <algorithm>

namespace deeplab::runtime {
namespace {

std::vector<int64_t> starts(int64_t length, int64_t window, int64_t stride) {
  const int64_t last = std::max<int64_t>(length - window, 0);
  std::vector<int64_t> found;
  for (int64_t start = 0; start < last; start += stride) found.push_back(start);
  found.push_back(last);
  return found;
}

}  // namespace

Windows place_windows(const Size& image, const Size& window, const Size& stride) {
  return {{std::min(window.height, image.height), std::min(window.width, image.width)},
          starts(image.height, window.height, stride.height),
          starts(image.width, window.width, stride.width)};
}

}  // namespace deeplab::runtime
