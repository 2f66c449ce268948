// SPDX-License-Identifier: Apache-2.0
// upsample: bilinear resize of every plane by two tap tables, float32 in and out.
//
//   output[p, y, x] = sum_i sum_j y_weight[y, i] * x_weight[x, j] * input[p, y_index[y, i], x_index[x, j]]
#pragma once

#include <cstdint>

#include "common/instruction_set.h"
#include "common/taps.h"

namespace deeplab {

struct UpsampleParams {
  const float* input;  // [planes, height, width], contiguous
  int64_t planes, height, width;
  TapTable y, x;
  float* output;  // [planes, y.out, x.out]
  int threads;    // 0: every processor this process may use
  InstructionSet instruction_set;
};

// Checks sizes, tables and every index, then runs on the device of the pointers (CPU).
// Throws std::invalid_argument that names the argument.
void upsample(const UpsampleParams& params);

void upsample_cpu(const UpsampleParams& params);

}  // namespace deeplab
