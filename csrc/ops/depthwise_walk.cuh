// SPDX-License-Identifier: Apache-2.0
// GPU: the walk of one thread down the output rows first, first + rate, first + 2 rate, ... of a 3x3 convolution.
#pragma once

#include "common/check.h"
#include "common/vector.cuh"
#include "ops/depthwise.h"

namespace deeplab {

struct GpuWalk {
  int rate_index;
  int64_t rate, first, count;
};

// Walks of all rates, cut so that even rate 1 has enough of them to fill the device.
struct WalkPlan {
  static constexpr uint32_t kRows = 16;  // two rows of halo cost an eighth more loads, all from cache
  int64_t begin[kMaxRates + 1];
  int64_t total;

  explicit WalkPlan(const DepthwiseProblem& problem) : begin{}, total(0) {
    for (int r = 0; r < problem.rates; ++r) {
      begin[r] = total;
      const int64_t residues = problem.rate[r] < problem.height ? problem.rate[r] : problem.height;
      const uint32_t rows = divide_up(static_cast<uint32_t>(problem.height), static_cast<uint32_t>(problem.rate[r]));
      total += residues * ((rows + kRows - 1) / kRows);
    }
    begin[problem.rates] = total;
    check(total < (int64_t{1} << 31), "x: is too high (", problem.height, " rows)");
  }

  static DEEPLAB_DEVICE uint32_t divide_up(uint32_t length, uint32_t step) { return (length - 1) / step + 1; }

  DEEPLAB_DEVICE GpuWalk at(int64_t index, const DepthwiseProblem& problem) const {
    int r = 0;
    while (index >= begin[r + 1]) ++r;
    // Heights and rates fit 32 bits, in which dividing is cheaper.
    const uint32_t height = static_cast<uint32_t>(problem.height), rate = static_cast<uint32_t>(problem.rate[r]);
    const uint32_t parts = (divide_up(height, rate) + kRows - 1) / kRows;
    const uint32_t own = static_cast<uint32_t>(index - begin[r]);
    const uint32_t residue = own / parts, start = own % parts * kRows;
    const uint32_t rows = divide_up(height - residue, rate) - start;
    return {r, rate, residue + int64_t{start} * rate, rows < kRows ? rows : kRows};
  }
};

// fetch(row, inside, columns) gives the left, centre and right vectors of an input row (zeros where it is outside);
// put(y, values) takes finished outputs. Channel parameters start at c; `channels` is V for vectors of channels and 1
// for vectors of pixels.
template <int V, typename Columns, typename Fetch, typename Put>
DEEPLAB_DEVICE void walk_down(const DepthwiseProblem& problem, const GpuWalk& walk, int64_t c, int channels,
                              const Fetch& fetch, const Put& put) {
  const int64_t parameter = walk.rate_index * problem.channels + c;
  const float* weights = static_cast<const float*>(problem.weight) + parameter * 9;
  const float* scales = static_cast<const float*>(problem.scale) + parameter;
  const float* shifts = static_cast<const float*>(problem.shift) + parameter;
  float weight[9][V], shift[V];
#pragma unroll
  for (int v = 0; v < V; ++v) {
    const int own = channels == 1 ? 0 : v;
    shift[v] = shifts[own];
#pragma unroll
    for (int k = 0; k < 9; ++k) weight[k][v] = weights[own * 9 + k] * scales[own];
  }
  // Sums of the output above, at and below the input row that is being added.
  float above[V], here[V], below[V];
#pragma unroll
  for (int v = 0; v < V; ++v) above[v] = here[v] = below[v] = shift[v];

  const auto fetch_row = [&](int64_t i, Columns& columns) {
    const int64_t row = walk.first + i * walk.rate;
    fetch(row, row >= 0 && row < problem.height, columns.value);
  };
  Columns next;
  fetch_row(-1, next);
  for (int64_t i = -1; i <= walk.count; ++i) {
    const Columns row = next;
    if constexpr (Columns::ahead) {
      if (i < walk.count) fetch_row(i + 1, next);  // in flight while this row is added
    }
#pragma unroll
    for (int column = 0; column < 3; ++column) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const float value = row.at(column, v);
        above[v] = fmaf(value, weight[6 + column][v], above[v]);
        here[v] = fmaf(value, weight[3 + column][v], here[v]);
        below[v] = fmaf(value, weight[column][v], below[v]);
      }
    }
    if (i >= 1) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        above[v] = clamp_keeping_nan(above[v], problem.activation.low, problem.activation.high);
      }
      put(walk.first + (i - 1) * walk.rate, above);
    }
#pragma unroll
    for (int v = 0; v < V; ++v) {
      above[v] = here[v];
      here[v] = below[v];
      below[v] = shift[v];
    }
    if constexpr (!Columns::ahead) {
      if (i < walk.count) fetch_row(i + 1, next);
    }
  }
}

// The three vectors of a row: packed as they came from memory, the next row loaded ahead of its use; or as floats that
// were computed from registers.
template <typename T, int V>
struct PackedColumns {
  static constexpr bool ahead = true;
  Packed<T, V> value[3];
  DEEPLAB_DEVICE float at(int column, int v) const { return to_float(value[column].value[v]); }
};
template <int V>
struct FloatColumns {
  static constexpr bool ahead = false;
  float value[3][V];
  DEEPLAB_DEVICE float at(int column, int v) const { return value[column][v]; }
};

}  // namespace deeplab
