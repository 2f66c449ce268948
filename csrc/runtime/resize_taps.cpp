// SPDX-License-Identifier: Apache-2.0
// Compiled without contraction to fused multiply-adds, which would give other positions than Python's.
#include "runtime/resize_taps.h"

#include <algorithm>
#include <cmath>

namespace deeplab::runtime {
namespace {

struct Pair {
  int32_t index[2];
  float weight[2];
};

// The two inputs of every output of one bilinear resize.
std::vector<Pair> bilinear_taps(int64_t size_in, int64_t size_out, bool align_corners) {
  const auto in = static_cast<double>(size_in), out = static_cast<double>(size_out);
  std::vector<Pair> taps;
  taps.reserve(size_out);
  for (int64_t i = 0; i < size_out; ++i) {
    const auto step = static_cast<double>(i);
    double position = step;
    if (!align_corners) {
      position = (step + 0.5) * (in / out) - 0.5;
    } else if (size_out > 1) {
      position = step * ((in - 1) / (out - 1));
    }
    position = std::min(std::max(position, 0.0), in - 1);
    const auto low = static_cast<int32_t>(std::floor(position));
    const auto fraction = static_cast<float>(position - low);
    const int32_t high = fraction > 0 ? static_cast<int32_t>(std::min<int64_t>(low + 1, size_in - 1)) : low;
    taps.push_back({{low, high}, {1 - fraction, fraction}});
  }
  return taps;
}

struct Row {
  int count;
  int32_t index[kMaxTaps];
  double weight[kMaxTaps];
};

// Adds up the weights of equal inputs, and puts the taps that are used first.
void merge(Row& row) {
  for (int later = 1; later < row.count; ++later) {
    for (int earlier = 0; earlier < later; ++earlier) {
      if (row.index[later] != row.index[earlier]) continue;
      row.weight[earlier] += row.weight[later];
      row.weight[later] = 0;
    }
  }
  int used = 0;
  for (int i = 0; i < row.count; ++i) {
    if (row.weight[i] == 0) continue;
    row.index[used] = row.index[i];
    row.weight[used++] = row.weight[i];
  }
  row.count = used;
}

Taps table_of(const std::vector<Row>& rows) {
  int columns = 1;
  for (const Row& row : rows) columns = std::max(columns, row.count);
  Taps taps{{}, {}, static_cast<int64_t>(rows.size()), columns};
  for (const Row& row : rows) {
    for (int i = 0; i < columns; ++i) {
      taps.index.push_back(row.index[i < row.count ? i : 0]);
      taps.weight.push_back(i < row.count ? static_cast<float>(row.weight[i]) : 0.0f);
    }
  }
  return taps;
}

}  // namespace

Taps resize_taps(int64_t size_in, int64_t size_out, bool align_corners, std::optional<int64_t> via) {
  const bool twice = via && *via != size_in && *via != size_out;  // a resize to the same size changes nothing
  const std::vector<Pair> last = bilinear_taps(twice ? *via : size_in, size_out, align_corners);
  const std::vector<Pair> first = twice ? bilinear_taps(size_in, *via, align_corners) : std::vector<Pair>();
  std::vector<Row> rows;
  rows.reserve(last.size());
  for (const Pair& pair : last) {
    Row row{};
    for (int i : {0, 1}) {
      if (!twice) {
        row.index[row.count] = pair.index[i];
        row.weight[row.count++] = pair.weight[i];
        continue;
      }
      const Pair& inner = first[pair.index[i]];
      for (int k : {0, 1}) {
        row.index[row.count] = inner.index[k];
        row.weight[row.count++] = static_cast<double>(pair.weight[i]) * inner.weight[k];
      }
    }
    merge(row);
    rows.push_back(row);
  }
  return table_of(rows);
}

}  // namespace deeplab::runtime
