// SPDX-License-Identifier: Apache-2.0
#include "common/taps.h"

#include <algorithm>

#include "common/check.h"

namespace deeplab {

void check_taps(const char* axis, const TapTable& table, int64_t size) {
  check(table.out >= 1, axis, "_index: has no rows; one row per output position is needed");
  check(table.taps >= 1 && table.taps <= kMaxTaps, axis, "_index: has ", table.taps, " taps per position; 1 to ",
        kMaxTaps, " are accepted");
  for (int64_t i = 0; i < table.out * table.taps; ++i) {
    if (table.index[i] >= 0 && table.index[i] < size) continue;
    check(false, axis, "_index: value ", table.index[i], " at row ", i / table.taps,
          " is outside the logits' axis of size ", size);
  }
}

ColumnTables plan_columns(const TapTable& table, int64_t lanes) {
  const int64_t blocks = (table.out + lanes - 1) / lanes;
  ColumnTables tables;
  tables.first.resize(blocks);
  tables.compact.resize(blocks);
  tables.index.resize(blocks * table.taps * lanes);
  tables.weight.resize(blocks * table.taps * lanes);
  for (int64_t block = 0; block < blocks; ++block) {
    int32_t* index = &tables.index[block * table.taps * lanes];
    float* weight = &tables.weight[block * table.taps * lanes];
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t x = std::min(block * lanes + lane, table.out - 1);  // lanes past the end repeat the last column
      const int32_t* row_index = table.index + x * table.taps;
      const float* row_weight = table.weight + x * table.taps;
      // A tap of weight 0 reads where a used one reads, so that it neither widens the block nor meets a stray NaN.
      const float* used = std::find_if(row_weight, row_weight + table.taps, [](float w) { return w != 0.0f; });
      const int32_t fallback = row_index[used == row_weight + table.taps ? 0 : used - row_weight];
      for (int64_t k = 0; k < table.taps; ++k) {
        index[k * lanes + lane] = row_weight[k] == 0.0f ? fallback : row_index[k];
        weight[k * lanes + lane] = row_weight[k];
      }
    }
    const auto range = std::minmax_element(index, index + table.taps * lanes);
    const int32_t first = *range.first;
    tables.first[block] = first;
    tables.compact[block] = *range.second - first < lanes;
    for (int64_t i = 0; i < table.taps * lanes; ++i) index[i] -= first;
  }
  tables.plan = {
      blocks, table.taps, tables.first.data(), tables.compact.data(), tables.index.data(), tables.weight.data()};
  return tables;
}

int64_t scratch_stride(int64_t width, int64_t lanes) {
  constexpr int64_t line = 16;  // floats in a cache line
  const int64_t lines = (width + lanes + line - 1) / line;
  return (lines | 1) * line;
}

}  // namespace deeplab
