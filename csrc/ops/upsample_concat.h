// SPDX-License-Identifier: Apache-2.0
// Bilinear upsampling written straight into its place in a concatenation, the low-level features beside it:
//
//   output = concat(interpolate(input, size of low), low) along the channels
//
// and the same feeding an atrous depthwise convolution (depthwise.h), in which case the concatenation is never in
// memory. Bytes that must move: input, low and output, once each.
#pragma once

#include "ops/depthwise.h"

namespace deeplab {

struct UpsampleConcatProblem {
  DType dtype;
  Layout layout;
  int64_t batch;
  int64_t channels, in_height, in_width;  // of the tensor that is resized
  int64_t low_channels, height, width;    // of the low-level features; height and width are the output's
  bool align_corners;
  const void* input;  // [batch, channels, in_height, in_width]
  const void* low;    // [batch, low_channels, height, width]
  void* output;       // [batch, channels + low_channels, height, width]
};

// Types as for depthwise(): float32, float16, bfloat16, or float64 on the CPU; NCHW or channels-last, all alike.
void upsample_concat(const TensorView& input, const TensorView& low, const TensorView& output, bool align_corners,
                     const Execution& execution);

// dx[N, C, h, w]: the share of dy[N, C + low, H, W] that came through the resize, summed in a fixed order.
void upsample_concat_gradient(const TensorView& dy, const TensorView& dx, bool align_corners,
                              const Execution& execution);

// One rate and stride 1: output [1, N, C + low, H, W]; weight [1, C + low, k, k]; scale, shift [1, C + low].
void upsample_concat_depthwise(const TensorView& input, const TensorView& low, const TensorView& weight,
                               const TensorView& scale, const TensorView& shift, const TensorView& output,
                               bool align_corners, const DepthwiseOptions& options, const Execution& execution);

void upsample_concat_cpu(const UpsampleConcatProblem& problem, const Execution& execution);
void upsample_concat_cuda(const UpsampleConcatProblem& problem, const Execution& execution);
// problem.output is dy, which is read; problem.low is not used.
void upsample_concat_gradient_cpu(const UpsampleConcatProblem& problem, void* dx, const Execution& execution);
void upsample_concat_gradient_cuda(const UpsampleConcatProblem& problem, void* dx, const Execution& execution);
void upsample_concat_depthwise_cpu(const UpsampleConcatProblem& concat, const DepthwiseProblem& problem,
                                   const Execution& execution);
void upsample_concat_depthwise_cuda(const UpsampleConcatProblem& concat, const DepthwiseProblem& problem,
                                    const Execution& execution);

}  // namespace deeplab
