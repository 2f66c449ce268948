// SPDX-License-Identifier: Apache-2.0
#include "ops/depthwise.h"

#include "common/check.h"
#include "common/cuda_support.h"

namespace deeplab {

DepthwiseProblem check_depthwise(const TensorView& input, const TensorView& weight, const DepthwiseOptions& options) {
  DepthwiseProblem problem{};
  if (input.device == Device::cpu) {
    check_dtype("x", input, {DType::float32, DType::float16, DType::bfloat16, DType::float64});
  } else {
    check_dtype("x", input, {DType::float32, DType::float16, DType::bfloat16});
  }
  problem.dtype = input.dtype;
  problem.layout = check_layout("x", input);
  problem.batch = input.shape[0];
  problem.channels = input.shape[1];
  problem.height = input.shape[2];
  problem.width = input.shape[3];
  check(problem.channels >= 1 && problem.height >= 1 && problem.width >= 1, "x: got shape ", shape_text(input),
        "; C, H and W must be at least 1");
  check(problem.height < (int64_t{1} << 31) && problem.width < (int64_t{1} << 31), "x: got shape ", shape_text(input),
        "; H and W must be below 2^31");
  const auto rates = static_cast<int64_t>(options.rates.size());
  check(rates >= 1 && rates <= kMaxRates, "rates: got ", rates, " of them; 1 to ", kMaxRates, " are accepted");
  problem.rates = static_cast<int>(rates);
  for (int i = 0; i < problem.rates; ++i) {
    const int64_t rate = options.rates[i];
    check(rate >= 1 && rate <= (int64_t{1} << 31), "dilation: got ", rate, "; an atrous rate is at least 1");
    problem.rate[i] = rate;
  }
  check(options.stride >= 1 && options.stride <= 8, "stride: got ", options.stride, "; 1 to 8 are accepted");
  problem.stride = options.stride;
  problem.out_height = (problem.height - 1) / problem.stride + 1;
  problem.out_width = (problem.width - 1) / problem.stride + 1;
  problem.activation = options.activation;

  check_dtype("weight", weight, {input.dtype == DType::float64 ? DType::float64 : DType::float32});
  const int64_t k = weight.dims >= 3 ? weight.shape[weight.dims - 1] : 0;
  check(weight.dims >= 3 && weight.shape[weight.dims - 2] == k && k % 2 == 1 && k <= kMaxKernel, "weight: got shape ",
        shape_text(weight), ", needs [rates, C, k, k], or [C, 1, k, k] for one rate, with k of 1, 3, 5 or 7");
  check(weight.elements() == rates * problem.channels * k * k, "weight: got shape ", shape_text(weight), ", needs ",
        rates, " x ", problem.channels, " kernels: ", rates == 1 ? "one rate" : "rates", " x the channels of x");
  problem.kernel = static_cast<int>(k);
  check_contiguous("weight", weight);
  problem.weight = weight.data;
  problem.input = input.data;
  return problem;
}

const void* check_channel_parameters(const char* name, const TensorView& view, const DepthwiseProblem& problem) {
  check_dtype(name, view, {problem.dtype == DType::float64 ? DType::float64 : DType::float32});
  const bool fits = view.dims >= 1 && view.shape[view.dims - 1] == problem.channels &&
                    view.elements() == problem.rates * problem.channels;
  check(fits, name, ": got shape ", shape_text(view), ", needs [rates, C] = [", problem.rates, ", ", problem.channels,
        "], or [C] for one rate");
  check_contiguous(name, view);
  return view.data;
}

void check_depthwise_output(const char* name, const TensorView& output, const DepthwiseProblem& problem, int64_t height,
                            int64_t width) {
  check_dtype(name, output, {problem.dtype});
  const bool single = problem.rates == 1 && output.dims == 4;
  if (single) {
    check_shape(name, output, {problem.batch, problem.channels, height, width}, "[N, C, H, W]");
  } else {
    check_shape(name, output, {problem.rates, problem.batch, problem.channels, height, width}, "[rates, N, C, H, W]");
  }
  const int64_t elements = problem.batch * problem.channels * height * width;
  check(elements == 0 || problem.rates == 1 || output.strides[0] == elements, name,
        ": leaves gaps between the rates; make it one block of memory");
  const Layout layout = check_layout(name, single ? output : output.slice(0), problem.layout);
  check(layout == problem.layout, name, ": must be ", problem.layout == Layout::nchw ? "contiguous" : "channels-last",
        " as x is");
}

void depthwise(const TensorView& input, const TensorView& weight, const TensorView& scale, const TensorView& shift,
               const TensorView& output, const DepthwiseOptions& options, const Execution& execution) {
  check_same_device({{"x", &input}, {"weight", &weight}, {"scale", &scale}, {"shift", &shift}, {"out", &output}});
  DepthwiseProblem problem = check_depthwise(input, weight, options);
  problem.scale = check_channel_parameters("scale", scale, problem);
  problem.shift = check_channel_parameters("shift", shift, problem);
  check_depthwise_output("out", output, problem, problem.out_height, problem.out_width);
  check_output({"out", &output}, {{"x", &input}, {"weight", &weight}, {"scale", &scale}, {"shift", &shift}});
  problem.output = output.data;
  const int64_t bytes =
      problem.batch * problem.channels * problem.out_height * problem.out_width * size_of(problem.dtype);
  for (int i = 0; i < problem.rates; ++i) problem.outputs[i] = static_cast<char*>(output.data) + i * bytes;
  if (problem.batch == 0) return;
  if (on_gpu(input, execution)) {
    const DeviceGuard guard(input, execution);
    depthwise_cuda(problem, execution);
  } else {
    depthwise_cpu(problem, execution);
  }
}

void depthwise_separate(const TensorView& input, const TensorView& weight, const TensorView& scale,
                        const TensorView& shift, const std::vector<TensorView>& outputs,
                        const DepthwiseOptions& options, const Execution& execution) {
  check_same_device({{"x", &input}, {"weight", &weight}, {"scale", &scale}, {"shift", &shift}});
  DepthwiseProblem problem = check_depthwise(input, weight, options);
  problem.scale = check_channel_parameters("scale", scale, problem);
  problem.shift = check_channel_parameters("shift", shift, problem);
  check(outputs.size() == options.rates.size(), "out: got ", outputs.size(), " of them for ", options.rates.size(),
        " rates");
  DepthwiseProblem one = problem;
  one.rates = 1;
  for (size_t i = 0; i < outputs.size(); ++i) {
    check_same_device({{"x", &input}, {"out", &outputs[i]}});
    check_depthwise_output("out", outputs[i], one, problem.out_height, problem.out_width);
    check_output({"out", &outputs[i]}, {{"x", &input}, {"weight", &weight}, {"scale", &scale}, {"shift", &shift}});
    problem.outputs[i] = outputs[i].data;
  }
  check(on_gpu(input, execution), "x: is on the CPU; depthwise is the function for CPU arrays");
  if (problem.batch == 0) return;
  const DeviceGuard guard(input, execution);
  depthwise_cuda(problem, execution);
}

}  // namespace deeplab
