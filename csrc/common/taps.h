// SPDX-License-Identifier: Apache-2.0
// Resizing along one axis as a table of taps, and the arrangement of such a table for vectors of output columns.
#pragma once

#include <cstdint>
#include <vector>

#include "common/column_plan.h"

namespace deeplab {

constexpr int kMaxTaps = 4;  // two bilinear resizes composed into one

// Resize along one axis: output i is the sum over k < taps of weight[i, k] * input[index[i, k]].
struct TapTable {
  const int32_t* index;  // [out, taps]
  const float* weight;   // [out, taps]
  int64_t out;
  int64_t taps;
};

// Throws std::invalid_argument unless 1..kMaxTaps taps are given for at least one output, all within [0, size).
// `axis` is "y" or "x", the prefix of the argument's name.
void check_taps(const char* axis, const TapTable& table, int64_t size);

struct ColumnTables {
  std::vector<int32_t> first, index;
  std::vector<uint8_t> compact;
  std::vector<float> weight;
  ColumnPlan plan;  // points into the vectors, also after a move
};

ColumnTables plan_columns(const TapTable& table, int64_t lanes);

// Distance in floats between rows of a scratch of `width` columns: room for a whole vector after the last one, and an
// odd number of cache lines, because rows a power of two apart would share a few cache sets.
int64_t scratch_stride(int64_t width, int64_t lanes);

}  // namespace deeplab
