// SPDX-License-Identifier: Apache-2.0
// Inner loops over packed rows, which the depthwise operators are made of.
//
// A packed row is a sequence of vectors: of 8 (16) neighbouring pixels of one channel (NCHW), or of 8 (16) channels of
// one pixel (NHWC). The loops are the same for both; per-vector parameters (`width` values each) are equal in all
// lanes in the first case and one per channel in the second.
#pragma once

#include <cstdint>

#include "common/instruction_set.h"
#include "common/tensor_view.h"

namespace deeplab {

template <typename S>
struct RowKernels {
  int64_t width;  // lanes of a vector

  // out = min(max(scale * sum_i weights[i] * taps[i] + shift, low), high); NaN stays NaN. At least one tap.
  void (*combine)(const S* const* taps, const S* weights, int count, const S* scale, const S* shift, S low, S high,
                  S* out, int64_t vectors);
  // The same over rows: `length` values of out (any number), `rows` times, the taps advancing by tap_stride and out by
  // out_stride. `stream` writes past the caches and needs aligned rows of `out`.
  void (*combine_rows)(const S* const* taps, const S* weights, int count, const S* scale, const S* shift, S low, S high,
                       S* out, int64_t length, int64_t rows, int64_t tap_stride, int64_t out_stride, bool stream);
  // With conv = sum_i weights[i] * taps[i] and z = dy where low < scale * conv + shift < high, else 0:
  // dconv = a * z + b + c * conv; sums[0] = sum of z, sums[1] = sum of z * conv, lane by lane.
  void (*gradient)(const S* const* taps, const S* weights, int count, const S* scale, const S* shift, S low, S high,
                   const S* a, const S* b, const S* c, const S* dy, S* dconv, int64_t vectors, S* sums);
  // sum = sum over the vectors of x * y, lane by lane.
  void (*dot)(const S* x, const S* y, int64_t vectors, S* sum);
  // sums[0] = sum of (x - origin), sums[1] = sum of (x - origin)^2, lane by lane.
  void (*moments)(const S* x, const S* origin, int64_t vectors, S* sums);
  // target += weight * source.
  void (*add_scaled)(S* target, const S* source, const S* weight, int64_t vectors);
  // out[i] = low[i] + fraction * (high[i] - low[i]) for i < count, computed as (1 - fraction) * low + fraction * high.
  void (*lerp)(const S* low, const S* high, S fraction, S* out, int64_t count, bool stream);
  // Copies pixels x blocks vectors from source[x * source_pixel + b * source_block] to the same of target.
  void (*copy_vectors)(const S* source, int64_t source_pixel, int64_t source_block, S* target, int64_t target_pixel,
                       int64_t target_block, int64_t pixels, int64_t blocks, bool stream);
  // Conversion of `count` values from and to a storage type, rounding to nearest even.
  void (*widen)(DType dtype, const void* source, S* target, int64_t count);
  void (*narrow)(DType dtype, const S* source, void* target, int64_t count);
};

namespace portable {
extern const RowKernels<float> row_kernels;
}
namespace avx2 {
extern const RowKernels<float> row_kernels;
}
namespace avx512 {
extern const RowKernels<float> row_kernels;
}
namespace float64 {
extern const RowKernels<double> row_kernels;
}

template <typename S>
const RowKernels<S>& row_kernels_for(InstructionSet set);

}  // namespace deeplab
