// SPDX-License-Identifier: Apache-2.0
// CPU: per output row, the input rows under it are combined into one row of scratch, which is then widened straight
// into the output.
#include <algorithm>
#include <vector>

#include "common/parallel.h"
#include "common/streaming.h"
#include "ops/upsample.h"
#include "ops/upsample_simd.h"

namespace deeplab {

const UpsampleKernels& upsample_kernels_for(InstructionSet set) {
  switch (set) {
#if defined(DEEPLAB_X86)
    case InstructionSet::avx512: return avx512::upsample_kernels;
    case InstructionSet::avx2: return avx2::upsample_kernels;
#endif
    default: return portable::upsample_kernels;
  }
}

void upsample_cpu(const UpsampleParams& params) {
  const UpsampleKernels& kernels = upsample_kernels_for(params.instruction_set);
  const ColumnTables columns = plan_columns(params.x, kernels.width);
  const int64_t stride = scratch_stride(params.width, kernels.width);
  const int64_t rows = params.planes * params.y.out;
  const int64_t grain = std::max<int64_t>(1, 500'000 / (params.x.out + params.width));
  const bool large = rows * params.x.out * static_cast<int64_t>(sizeof(float)) >= kStreamBytes;
  std::vector<std::vector<float>> scratch(worker_count(rows, grain, params.threads));

  parallel_for(rows, grain, params.threads, [&](int worker, int64_t begin, int64_t end) {
    std::vector<float>& combined = scratch[worker];
    combined.resize(stride);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t plane = row / params.y.out;
      const int64_t y = row % params.y.out;
      kernels.combine_rows(params.input + plane * params.height * params.width, 1, params.height, params.width,
                           params.y.index + y * params.y.taps, params.y.weight + y * params.y.taps, params.y.taps,
                           combined.data(), stride);
      float* target = params.output + row * params.x.out;
      const bool past_caches = large && reinterpret_cast<uintptr_t>(target) % (kernels.width * sizeof(float)) == 0;
      kernels.expand_columns(combined.data(), columns.plan, target, params.x.out, past_caches);
    }
  });
}

}  // namespace deeplab
