// SPDX-License-Identifier: Apache-2.0
// CPU: one row of one class at a time. It is summed in a scratch that stays in the first-level cache, over the windows
// that cross it, and divided by the visits on its way to memory.
#include <algorithm>
#include <vector>

#include "common/parallel.h"
#include "common/streaming.h"
#include "common/taps.h"
#include "ops/merge_windows.h"
#include "ops/upsample_simd.h"

namespace deeplab {
namespace {

struct Taps {
  std::vector<int32_t> index;
  std::vector<float> weight;
  int64_t taps;

  TapTable table() const { return {index.data(), weight.data(), static_cast<int64_t>(index.size()) / taps, taps}; }
};

Taps taps_of(const ResizeAxis& axis) {
  const int64_t count = axis.in == axis.out ? 1 : 2;  // a resize to the same size reads one value a position
  Taps made{{}, {}, count};
  for (int64_t i = 0; i < axis.out; ++i) {
    const Position p = position_of(axis, i);
    const int64_t index[] = {p.low, p.high};
    const float weight[] = {1.0f - p.fraction, p.fraction};
    for (int64_t k = 0; k < count; ++k) {
      made.index.push_back(static_cast<int32_t>(index[k]));
      made.weight.push_back(weight[k]);
    }
  }
  return made;
}

struct Scratch {
  std::vector<float> combined, sum;
};

}  // namespace

void merge_windows_cpu(const MergeWindowsProblem& problem, const Execution& execution) {
  const UpsampleKernels& kernels = upsample_kernels_for(execution.instruction_set);
  const WindowAxis &rows = problem.rows, &columns = problem.columns;
  const Taps x_taps = taps_of(problem.x), y_taps = taps_of(problem.y);
  const ColumnTables plan = plan_columns(x_taps.table(), kernels.width);
  std::vector<float> visits(columns.length);
  for (int64_t x = 0; x < columns.length; ++x) visits[x] = static_cast<float>(columns.last(x) - columns.first(x) + 1);

  const int64_t in_plane = problem.in_height * problem.in_width;
  const int64_t stride = scratch_stride(problem.in_width, kernels.width);
  const int64_t lines = problem.channels * rows.length;
  const int64_t grain = std::max<int64_t>(1, 500'000 / (columns.count * columns.window + columns.length));
  const bool past_caches = lines * columns.length * static_cast<int64_t>(sizeof(float)) >= kStreamBytes;
  const float* logits = static_cast<const float*>(problem.logits);
  std::vector<Scratch> scratch(worker_count(lines, grain, execution.threads));

  parallel_for(lines, grain, execution.threads, [&](int worker, int64_t begin, int64_t end) {
    Scratch& own = scratch[worker];
    own.combined.resize(stride);
    own.sum.resize(columns.length);
    for (int64_t line = begin; line < end; ++line) {
      const int64_t c = line / rows.length, y = line % rows.length;
      const int64_t first = rows.first(y), last = rows.last(y);
      std::fill(own.sum.begin(), own.sum.end(), 0.0f);
      for (int64_t row = first; row <= last; ++row) {
        const int64_t tap = (y - rows.start(row)) * y_taps.taps;
        for (int64_t column = 0; column < columns.count; ++column) {
          const float* plane = logits + ((row * columns.count + column) * problem.channels + c) * in_plane;
          kernels.combine_rows(plane, 1, problem.in_height, problem.in_width, &y_taps.index[tap], &y_taps.weight[tap],
                               y_taps.taps, own.combined.data(), stride);
          kernels.add_columns(own.combined.data(), plan.plan, own.sum.data() + columns.start(column), columns.window);
        }
      }
      kernels.divide(own.sum.data(), visits.data(), static_cast<float>(last - first + 1),
                     problem.output + line * columns.length, columns.length, past_caches);
    }
  });
}

}  // namespace deeplab
