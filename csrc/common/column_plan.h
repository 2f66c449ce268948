// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace deeplab {

// Output columns in blocks of one vector. A block whose taps lie within one vector of input columns is `compact`:
// one load and a permutation per tap replace a gather.
struct ColumnPlan {
  int64_t blocks;
  int64_t taps;
  const int32_t* first;    // [blocks] first input column of the block
  const uint8_t* compact;  // [blocks]
  const int32_t* index;    // [blocks, taps, width] input column - first
  const float* weight;     // [blocks, taps, width]
};

}  // namespace deeplab
