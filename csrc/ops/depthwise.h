// SPDX-License-Identifier: Apache-2.0
// Atrous depthwise convolution, per-channel scale and shift, activation, in one pass over memory:
//
//   output[r, n, c, y, x] = activation(scale[r, c] * conv_r + shift[r, c])
//   conv_r = sum_ij weight[r, c, i, j] * input[n, c, y * stride + (i - k/2) * rate_r, x * stride + (j - k/2) * rate_r]
//
// with zeros outside the image; the output has ceil(size / stride) rows and columns. One rate is
// depthwise_conv_bn_relu; all rates of an ASPP at once, over one read of the input, are aspp_depthwise.
//
// Bytes that must move: the input once, every output once.
#pragma once

#include <cstdint>
#include <vector>

#include "common/activation.h"
#include "common/execution.h"
#include "common/tensor_view.h"

namespace deeplab {

constexpr int kMaxKernel = 7;
constexpr int kMaxRates = 8;

struct DepthwiseOptions {
  int64_t stride = 1;
  std::vector<int64_t> rates;
  Activation activation{};
};

// What the implementations read: checked sizes and bare pointers. Parameters are float32, float64 for float64 inputs.
struct DepthwiseProblem {
  DType dtype;
  Layout layout;
  int64_t batch, channels, height, width, out_height, out_width, stride;
  int kernel;
  int rates;
  int64_t rate[kMaxRates];
  const void* input;   // [batch, channels, height, width]
  const void* weight;  // [rates, channels, kernel, kernel]
  const void* scale;   // [rates, channels]
  const void* shift;   // [rates, channels]
  Activation activation;
  void* output;              // [rates, batch, channels, out_height, out_width], each rate in the layout of the input
  void* outputs[kMaxRates];  // GPU: [batch, channels, out_height, out_width] of each rate, wherever in memory
};

// Shapes: input [N, C, H, W], weight [R, C, k, k], scale and shift [R, C], output [R, N, C, ceil(H/s), ceil(W/s)]; for
// one rate also weight [C, 1, k, k], scale and shift [C], output [N, C, ceil(H/s), ceil(W/s)].
// Input and output are float32, float16, bfloat16 or float64 (CPU only), NCHW or channels-last; k is 1, 3, 5 or 7.
// Throws std::invalid_argument or TypeMismatch that names the argument.
void depthwise(const TensorView& input, const TensorView& weight, const TensorView& scale, const TensorView& shift,
               const TensorView& output, const DepthwiseOptions& options, const Execution& execution);

// The same on the GPU into one output [N, C, ceil(H/s), ceil(W/s)] a rate, each its own memory.
void depthwise_separate(const TensorView& input, const TensorView& weight, const TensorView& scale,
                        const TensorView& shift, const std::vector<TensorView>& outputs,
                        const DepthwiseOptions& options, const Execution& execution);

// Checks that all depthwise operators share; fills everything but scale, shift and outputs.
DepthwiseProblem check_depthwise(const TensorView& input, const TensorView& weight, const DepthwiseOptions& options);
// Throws unless `view` holds [R, C] parameters of the problem's type.
const void* check_channel_parameters(const char* name, const TensorView& view, const DepthwiseProblem& problem);
// Throws unless `output` has the shape, type and layout of the problem's result.
void check_depthwise_output(const char* name, const TensorView& output, const DepthwiseProblem& problem, int64_t height,
                            int64_t width);

void depthwise_cpu(const DepthwiseProblem& problem, const Execution& execution);
void depthwise_cuda(const DepthwiseProblem& problem, const Execution& execution);

}  // namespace deeplab
