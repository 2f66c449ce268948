// SPDX-License-Identifier: Apache-2.0
// CPU: per output row, the rows of logits under it are combined into a [C, w] scratch that stays in cache; then each
// vector of output columns runs over the classes once. Rows are shared out among threads.
#include <algorithm>
#include <vector>

#include "common/parallel.h"
#include "ops/upsample_argmax.h"
#include "ops/upsample_simd.h"

namespace deeplab {
namespace {

struct Scratch {
  std::vector<float> combined, scores;
  std::vector<int32_t> labels;
};

// Pieces of about 1e6 multiply-adds: small images stay on one thread, whose start would cost more than it saves.
int64_t rows_per_piece(const UpsampleArgmaxParams& params) {
  const int64_t per_row = params.channels * (params.x.out * params.x.taps + params.width * params.y.taps);
  return std::max<int64_t>(1, 1'000'000 / std::max<int64_t>(1, per_row));
}

}  // namespace

void upsample_argmax_cpu(const UpsampleArgmaxParams& params) {
  const UpsampleKernels& kernels = upsample_kernels_for(params.instruction_set);
  const ColumnTables columns = plan_columns(params.x, kernels.width);
  const int64_t stride = scratch_stride(params.width, kernels.width);
  const int64_t rows = params.batch * params.y.out;
  const int64_t grain = rows_per_piece(params);
  std::vector<Scratch> scratch(worker_count(rows, grain, params.threads));

  parallel_for(rows, grain, params.threads, [&](int worker, int64_t begin, int64_t end) {
    Scratch& own = scratch[worker];
    own.combined.resize(params.channels * stride);
    own.labels.resize(columns.plan.blocks * kernels.width);
    if (params.scores != nullptr) own.scores.resize(own.labels.size());
    for (int64_t row = begin; row < end; ++row) {
      const int64_t image = row / params.y.out;
      const int64_t y = row % params.y.out;
      const float* logits = params.logits + image * params.channels * params.height * params.width;
      kernels.combine_rows(logits, params.channels, params.height, params.width, params.y.index + y * params.y.taps,
                           params.y.weight + y * params.y.taps, params.y.taps, own.combined.data(), stride);
      kernels.argmax_columns(own.combined.data(), stride, params.channels, columns.plan, own.labels.data(),
                             params.scores != nullptr ? own.scores.data() : nullptr);
      const int64_t output = row * params.x.out;
      if (params.labels_uint8 != nullptr) {
        uint8_t* target = params.labels_uint8 + output;
        for (int64_t x = 0; x < params.x.out; ++x) target[x] = static_cast<uint8_t>(own.labels[x]);
      } else {
        std::copy_n(own.labels.data(), params.x.out, params.labels_int32 + output);
      }
      if (params.scores != nullptr) std::copy_n(own.scores.data(), params.x.out, params.scores + output);
    }
  });
}

}  // namespace deeplab
