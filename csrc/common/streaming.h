// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace deeplab {

// Results of this size and more leave the caches before anybody reads them: they are written past the caches, which
// saves reading the lines that are overwritten.
constexpr int64_t kStreamBytes = int64_t{4} << 20;

}  // namespace deeplab
