// SPDX-License-Identifier: Apache-2.0
// The inner loops of upsample, upsample_argmax and merge_windows, compiled once per instruction set.
#pragma once

#include <cstdint>

#include "common/column_plan.h"
#include "common/instruction_set.h"

namespace deeplab {

struct UpsampleKernels {
  int64_t width;  // lanes of a vector
  // combined[c, 0:width] = sum_k weight[k] * logits[c, index[k], 0:width]; rows of `combined` are `stride` apart.
  void (*combine_rows)(const float* logits, int64_t channels, int64_t height, int64_t width, const int32_t* index,
                       const float* weight, int64_t taps, float* combined, int64_t stride);
  // One output row; labels and scores have room for plan.blocks * width values; scores may be nullptr.
  void (*argmax_columns)(const float* combined, int64_t stride, int64_t channels, const ColumnPlan& plan,
                         int32_t* labels, float* scores);
  // target[0:columns] = one output row of one class. `past_caches` writes past the caches and needs an aligned target.
  void (*expand_columns)(const float* combined, const ColumnPlan& plan, float* target, int64_t columns,
                         bool past_caches);
  // target[0:columns] += one output row of one class.
  void (*add_columns)(const float* combined, const ColumnPlan& plan, float* target, int64_t columns);
  // target[0:columns] = sum / (visits * factor), of which the aligned part goes past the caches where that is wanted.
  void (*divide)(const float* sum, const float* visits, float factor, float* target, int64_t columns, bool past_caches);
};

namespace portable {
extern const UpsampleKernels upsample_kernels;
}
namespace avx2 {
extern const UpsampleKernels upsample_kernels;
}
namespace avx512 {
extern const UpsampleKernels upsample_kernels;
}

const UpsampleKernels& upsample_kernels_for(InstructionSet set);

}  // namespace deeplab
