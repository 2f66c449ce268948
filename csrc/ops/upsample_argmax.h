// SPDX-License-Identifier: Apache-2.0
// upsample_argmax: labels of a full-size image from logits at the network's stride, in one pass; the full-size logits
// (C x H x W) are never in memory.
//
//   value[c, y, x] = sum_i sum_j y_weight[y, i] * x_weight[x, j] * logits[c, y_index[y, i], x_index[x, j]]
//   label[y, x]    = argmax_c value[c, y, x]      the lowest class wins a tie
//   score[y, x]    = softmax_c(value)[label]      optional
//
// A tap table holds up to 4 taps per output position, enough for two bilinear resizes composed into one.
// NaN values never win and add nothing to the score; where no class is above -infinity, the label is 0 and the score
// NaN.
#pragma once

#include <cstdint>

#include "common/instruction_set.h"
#include "common/taps.h"

namespace deeplab {

constexpr int kMaxUint8Classes = 256;

struct UpsampleArgmaxParams {
  const float* logits;  // [batch, channels, height, width], contiguous
  int64_t batch, channels, height, width;
  TapTable y, x;
  uint8_t* labels_uint8;  // [batch, y.out, x.out]; exactly one of the two label pointers is set
  int32_t* labels_int32;
  float* scores;  // [batch, y.out, x.out] or nullptr
  int threads;    // 0: every processor this process may use
  InstructionSet instruction_set;
};

// Checks sizes, tables and every index, then runs on the device of the pointers (CPU).
// Throws std::invalid_argument that names the argument.
void upsample_argmax(const UpsampleArgmaxParams& params);

void upsample_argmax_cpu(const UpsampleArgmaxParams& params);

}  // namespace deeplab
