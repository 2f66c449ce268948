// SPDX-License-Identifier: Apache-2.0
// What training through the depthwise operators needs. Convolution outputs are never kept: they are computed again
// from the input wherever they are needed, which costs the same bytes as reading them back.
//
// With conv_r as in depthwise.h, z = dy where low < scale * conv + shift < high and 0 elsewhere, and M = N * H' * W':
//
//   depthwise_statistics       mean[r, c] and biased variance[r, c] of conv_r over (N, H', W')
//   depthwise_gradient         sums[r, c] = (sum of z, sum of z * conv)
//                              dconv = a * z + b + c * conv          a, b, c: [R, C]
//                              dweight[r, c, i, j] = sum over (N, H', W') of dconv * input at tap (i, j)
//   depthwise_input_gradient   dx[n, c, y, x] = sum over rates and taps of weight * dconv at the outputs that read (y,
//   x)
//
// Fixed scale and shift: a = scale, b = c = 0. Batch statistics, where mean and variance depend on conv: from the sums
// of a first pass without dconv (see deeplab_infer/ops/autograd.py).
// Sums are made in a fixed order: the same input gives the same bits, however many threads run.
#pragma once

#include "ops/depthwise.h"

namespace deeplab {

struct DepthwiseGradient {
  DepthwiseProblem problem;  // activation, weight, scale and shift as in the forward pass
  const void* dy;            // [R, N, C, H', W']
  const void* a;             // [R, C] each
  const void* b;
  const void* c;
  void* dconv;    // [R, N, C, H', W'] or nullptr: sums only
  void* sums;     // [R, C, 2]
  void* dweight;  // [R, C, k, k], with dconv only
  float* workspace;
  int64_t workspace_floats;
};

struct DepthwiseStatistics {
  DepthwiseProblem problem;
  void* mean;  // [R, C]
  void* variance;
  float* workspace;
  int64_t workspace_floats;
};

// Floats of workspace that a reduction of `sums` values a channel needs on the GPU; the CPU needs none.
int64_t depthwise_workspace(int64_t batch, int64_t channels, int64_t out_height, int64_t out_width, int64_t rates,
                            int64_t sums);

// Views that are not wanted have data == nullptr.
void depthwise_statistics(const TensorView& input, const TensorView& weight, const TensorView& mean,
                          const TensorView& variance, const TensorView& workspace, const DepthwiseOptions& options,
                          const Execution& execution);

struct GradientViews {
  TensorView dy, scale, shift, a, b, c, dconv, sums, dweight, workspace;
};
void depthwise_gradient(const TensorView& input, const TensorView& weight, const GradientViews& views,
                        const DepthwiseOptions& options, const Execution& execution);

void depthwise_input_gradient(const TensorView& dconv, const TensorView& weight, const TensorView& dx,
                              const DepthwiseOptions& options, const Execution& execution);

void depthwise_statistics_cpu(const DepthwiseStatistics& work, const Execution& execution);
void depthwise_statistics_cuda(const DepthwiseStatistics& work, const Execution& execution);
void depthwise_gradient_cpu(const DepthwiseGradient& work, const Execution& execution);
void depthwise_gradient_cuda(const DepthwiseGradient& work, const Execution& execution);
// problem.input is dx's memory seen as the forward input (its sizes), problem.output the dconv that is read.
void depthwise_input_gradient_cpu(const DepthwiseProblem& problem, void* dx, const Execution& execution);
void depthwise_input_gradient_cuda(const DepthwiseProblem& problem, void* dx, const Execution& execution);

}  // namespace deeplab
