// SPDX-License-Identifier: Apache-2.0
#include "ops/upsample_concat.h"

#include <limits>

#include "common/check.h"
#include "common/cuda_support.h"

namespace deeplab {
namespace {

void check_float(const char* name, const TensorView& view) {
  if (view.device == Device::cpu) {
    check_dtype(name, view, {DType::float32, DType::float16, DType::bfloat16, DType::float64});
  } else {
    check_dtype(name, view, {DType::float32, DType::float16, DType::bfloat16});
  }
}

void check_not_empty(const char* name, const TensorView& view) {
  check(view.shape[1] >= 1 && view.shape[2] >= 1 && view.shape[3] >= 1, name, ": got shape ", shape_text(view),
        "; C, H and W must be at least 1");
  check(view.shape[2] < std::numeric_limits<int32_t>::max() && view.shape[3] < std::numeric_limits<int32_t>::max(),
        name, ": got shape ", shape_text(view), "; H and W must be below 2^31");
}

UpsampleConcatProblem check_concat(const TensorView& input, const TensorView& low, Layout preferred,
                                   bool align_corners) {
  check_float("x", input);
  check_dtype("low", low, {input.dtype});
  UpsampleConcatProblem problem{};
  problem.dtype = input.dtype;
  // A single pixel or channel leaves the layout open; the other tensor then decides, or the output.
  problem.layout = check_layout("low", low, check_layout("x", input, preferred));
  const Layout layout = check_layout("x", input, problem.layout);
  check(layout == problem.layout, "low: is ", problem.layout == Layout::nchw ? "contiguous" : "channels-last",
        ", but x is ", layout == Layout::nchw ? "contiguous" : "channels-last", "; both must be laid out alike");
  check_not_empty("x", input);
  check_not_empty("low", low);
  check(input.shape[0] == low.shape[0], "low: got a batch of ", low.shape[0], ", needs that of x, ", input.shape[0]);
  problem.batch = input.shape[0];
  problem.channels = input.shape[1];
  problem.in_height = input.shape[2];
  problem.in_width = input.shape[3];
  problem.low_channels = low.shape[1];
  problem.height = low.shape[2];
  problem.width = low.shape[3];
  problem.align_corners = align_corners;
  problem.input = input.data;
  problem.low = low.data;
  return problem;
}

}  // namespace

void upsample_concat(const TensorView& input, const TensorView& low, const TensorView& output, bool align_corners,
                     const Execution& execution) {
  check_same_device({{"x", &input}, {"low", &low}, {"out", &output}});
  UpsampleConcatProblem problem = check_concat(input, low, check_layout("out", output), align_corners);
  check_dtype("out", output, {problem.dtype});
  check_shape("out", output, {problem.batch, problem.channels + problem.low_channels, problem.height, problem.width},
              "[N, C + C_low, H, W]");
  check(check_layout("out", output, problem.layout) == problem.layout, "out: must be laid out as x and low are");
  check_output({"out", &output}, {{"x", &input}, {"low", &low}});
  problem.output = output.data;
  if (problem.batch == 0) return;
  if (on_gpu(input, execution)) {
    const DeviceGuard guard(input, execution);
    upsample_concat_cuda(problem, execution);
  } else {
    upsample_concat_cpu(problem, execution);
  }
}

void upsample_concat_gradient(const TensorView& dy, const TensorView& dx, bool align_corners,
                              const Execution& execution) {
  check_same_device({{"dy", &dy}, {"dx", &dx}});
  check_float("dy", dy);
  check_dtype("dx", dx, {dy.dtype});
  UpsampleConcatProblem problem{};
  problem.dtype = dy.dtype;
  problem.layout = check_layout("dy", dy, check_layout("dx", dx));
  check(check_layout("dx", dx, problem.layout) == problem.layout, "dx: must be laid out as dy is");
  check_not_empty("dy", dy);
  check_not_empty("dx", dx);
  check(dy.shape[0] == dx.shape[0] && dy.shape[1] >= dx.shape[1], "dx: got shape ", shape_text(dx),
        ", needs the batch and at most the channels of dy, ", shape_text(dy));
  problem.batch = dx.shape[0];
  problem.channels = dx.shape[1];
  problem.in_height = dx.shape[2];
  problem.in_width = dx.shape[3];
  problem.low_channels = dy.shape[1] - dx.shape[1];
  problem.height = dy.shape[2];
  problem.width = dy.shape[3];
  problem.align_corners = align_corners;
  check_output({"dx", &dx}, {{"dy", &dy}});
  problem.output = dy.data;
  if (problem.batch == 0) return;
  if (on_gpu(dy, execution)) {
    const DeviceGuard guard(dy, execution);
    upsample_concat_gradient_cuda(problem, dx.data, execution);
  } else {
    upsample_concat_gradient_cpu(problem, dx.data, execution);
  }
}

void upsample_concat_depthwise(const TensorView& input, const TensorView& low, const TensorView& weight,
                               const TensorView& scale, const TensorView& shift, const TensorView& output,
                               bool align_corners, const DepthwiseOptions& options, const Execution& execution) {
  check_same_device(
      {{"x", &input}, {"low", &low}, {"weight", &weight}, {"scale", &scale}, {"shift", &shift}, {"out", &output}});
  check(output.dims == 4 || output.dims == 5, "out: got shape ", shape_text(output), ", needs [N, C + C_low, H, W]");
  const Layout preferred = check_layout("out", output.dims == 5 ? output.slice(0) : output);
  const UpsampleConcatProblem concat = check_concat(input, low, preferred, align_corners);
  check(options.stride == 1, "stride: got ", options.stride, "; this operator has stride 1");
  check(options.rates.size() == 1, "rates: got ", options.rates.size(), "; this operator takes one");
  // The concatenation as depthwise() would see it, though it is never in memory.
  TensorView virtual_input = output;
  virtual_input.dims = 4;
  virtual_input.shape = {concat.batch, concat.channels + concat.low_channels, concat.height, concat.width};
  const int64_t channels = virtual_input.shape[1], pixels = concat.height * concat.width;
  if (concat.layout == Layout::nchw) {
    virtual_input.strides = {channels * pixels, pixels, concat.width, 1};
  } else {
    virtual_input.strides = {channels * pixels, 1, concat.width * channels, channels};
  }
  virtual_input.dtype = concat.dtype;
  DepthwiseProblem problem = check_depthwise(virtual_input, weight, options);
  problem.layout = concat.layout;
  problem.input = nullptr;
  problem.scale = check_channel_parameters("scale", scale, problem);
  problem.shift = check_channel_parameters("shift", shift, problem);
  check_depthwise_output("out", output, problem, concat.height, concat.width);
  check_output({"out", &output},
               {{"x", &input}, {"low", &low}, {"weight", &weight}, {"scale", &scale}, {"shift", &shift}});
  problem.output = output.data;
  if (problem.batch == 0) return;
  if (on_gpu(input, execution)) {
    const DeviceGuard guard(input, execution);
    upsample_concat_depthwise_cuda(concat, problem, execution);
  } else {
    upsample_concat_depthwise_cpu(concat, problem, execution);
  }
}

}  // namespace deeplab
