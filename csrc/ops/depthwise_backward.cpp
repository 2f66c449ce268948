// SPDX-License-Identifier: Apache-2.0
#include "ops/depthwise_backward.h"

#include <algorithm>

#include "common/check.h"
#include "common/cuda_support.h"

namespace deeplab {
namespace {

// Chunks of pixels whose sums are made side by side: enough to fill a GPU, few enough to add up in order.
constexpr int64_t kChunkPixels = 2048;
constexpr int64_t kMaxChunks = 512;

float* check_workspace(const TensorView& workspace, const TensorView& input, const DepthwiseProblem& problem,
                       const Execution& execution, int64_t needed) {
  if (!on_gpu(input, execution)) return nullptr;
  const int64_t pixels = problem.batch * problem.out_height * problem.out_width;
  check(pixels < (int64_t{1} << 31), "x: has ", pixels, " output pixels; sums over fewer than 2^31 run on the GPU");
  check(workspace.data != nullptr, "workspace: is missing; the CUDA kernels need ", needed, " float32 values");
  check_dtype("workspace", workspace, {DType::float32});
  check_contiguous("workspace", workspace);
  check_same_device({{"x", &input}, {"workspace", &workspace}});
  check(workspace.elements() >= needed, "workspace: has ", workspace.elements(), " values, needs ", needed);
  return static_cast<float*>(workspace.data);
}

}  // namespace

int64_t depthwise_workspace(int64_t batch, int64_t channels, int64_t out_height, int64_t out_width, int64_t rates,
                            int64_t sums) {
  const int64_t pixels = batch * out_height * out_width;
  const int64_t chunks = std::clamp<int64_t>((pixels + kChunkPixels - 1) / kChunkPixels, 1, kMaxChunks);
  return chunks * rates * channels * sums;
}

void depthwise_statistics(const TensorView& input, const TensorView& weight, const TensorView& mean,
                          const TensorView& variance, const TensorView& workspace, const DepthwiseOptions& options,
                          const Execution& execution) {
  check_same_device({{"x", &input}, {"weight", &weight}, {"mean", &mean}, {"variance", &variance}});
  DepthwiseStatistics work{};
  work.problem = check_depthwise(input, weight, options);
  const DepthwiseProblem& problem = work.problem;
  check(problem.batch >= 1, "x: has no images; statistics need at least one value a channel");
  check_channel_parameters("mean", mean, problem);
  check_channel_parameters("variance", variance, problem);
  check_output({"mean", &mean}, {{"x", &input}, {"weight", &weight}});
  check_output({"variance", &variance}, {{"x", &input}, {"weight", &weight}, {"mean", &mean}});
  work.mean = mean.data;
  work.variance = variance.data;
  work.workspace_floats =
      depthwise_workspace(problem.batch, problem.channels, problem.out_height, problem.out_width, problem.rates, 2);
  work.workspace = check_workspace(workspace, input, problem, execution, work.workspace_floats);
  if (on_gpu(input, execution)) {
    const DeviceGuard guard(input, execution);
    depthwise_statistics_cuda(work, execution);
  } else {
    depthwise_statistics_cpu(work, execution);
  }
}

void depthwise_gradient(const TensorView& input, const TensorView& weight, const GradientViews& views,
                        const DepthwiseOptions& options, const Execution& execution) {
  check_same_device({{"x", &input},
                     {"weight", &weight},
                     {"dy", &views.dy},
                     {"scale", &views.scale},
                     {"shift", &views.shift},
                     {"sums", &views.sums}});
  DepthwiseGradient work{};
  DepthwiseProblem& problem = work.problem;
  problem = check_depthwise(input, weight, options);
  check_depthwise_output("dy", views.dy, problem, problem.out_height, problem.out_width);
  problem.scale = check_channel_parameters("scale", views.scale, problem);
  problem.shift = check_channel_parameters("shift", views.shift, problem);
  const DType parameters = problem.dtype == DType::float64 ? DType::float64 : DType::float32;
  check_dtype("sums", views.sums, {parameters});
  check_shape("sums", views.sums, {problem.rates, problem.channels, 2}, "[rates, C, 2]");
  check_contiguous("sums", views.sums);
  check_output({"sums", &views.sums}, {{"x", &input}, {"weight", &weight}, {"dy", &views.dy}});
  work.dy = views.dy.data;
  work.sums = views.sums.data;
  int64_t sums = 2;
  if (views.dconv.data != nullptr) {
    check_same_device({{"x", &input},
                       {"a", &views.a},
                       {"b", &views.b},
                       {"c", &views.c},
                       {"dconv", &views.dconv},
                       {"dweight", &views.dweight}});
    work.a = check_channel_parameters("a", views.a, problem);
    work.b = check_channel_parameters("b", views.b, problem);
    work.c = check_channel_parameters("c", views.c, problem);
    check_depthwise_output("dconv", views.dconv, problem, problem.out_height, problem.out_width);
    check_output({"dconv", &views.dconv}, {{"x", &input}, {"weight", &weight}, {"dy", &views.dy}});
    check_dtype("dweight", views.dweight, {parameters});
    check_shape("dweight", views.dweight, {problem.rates, problem.channels, problem.kernel, problem.kernel},
                "[rates, C, k, k]");
    check_contiguous("dweight", views.dweight);
    check_output({"dweight", &views.dweight}, {{"x", &input}, {"weight", &weight}, {"dy", &views.dy}});
    work.dconv = views.dconv.data;
    work.dweight = views.dweight.data;
    sums += problem.kernel * problem.kernel;
  }
  check(problem.batch >= 1, "x: has no images");
  check(problem.kernel == 3 || !on_gpu(input, execution), "weight: gradients on the GPU need 3x3 kernels, got ",
        problem.kernel, "x", problem.kernel);
  work.workspace_floats =
      depthwise_workspace(problem.batch, problem.channels, problem.out_height, problem.out_width, problem.rates, sums);
  work.workspace = check_workspace(views.workspace, input, problem, execution, work.workspace_floats);
  if (on_gpu(input, execution)) {
    const DeviceGuard guard(input, execution);
    depthwise_gradient_cuda(work, execution);
  } else {
    depthwise_gradient_cpu(work, execution);
  }
}

void depthwise_input_gradient(const TensorView& dconv, const TensorView& weight, const TensorView& dx,
                              const DepthwiseOptions& options, const Execution& execution) {
  check_same_device({{"dconv", &dconv}, {"weight", &weight}, {"dx", &dx}});
  DepthwiseProblem problem = check_depthwise(dx, weight, options);
  check_depthwise_output("dconv", dconv, problem, problem.out_height, problem.out_width);
  check_output({"dx", &dx}, {{"dconv", &dconv}, {"weight", &weight}});
  problem.input = nullptr;
  problem.output = dconv.data;
  if (problem.batch == 0) return;
  if (on_gpu(dx, execution)) {
    const DeviceGuard guard(dx, execution);
    depthwise_input_gradient_cuda(problem, dx.data, execution);
  } else {
    depthwise_input_gradient_cpu(problem, dx.data, execution);
  }
}

}  // namespace deeplab
