// SPDX-License-Identifier: Apache-2.0
#include "ops/merge_windows.h"

#include <algorithm>
#include <limits>

#include "common/check.h"
#include "common/cuda_support.h"

namespace deeplab {
namespace {

constexpr int64_t kTooLong = std::numeric_limits<int32_t>::max();

WindowAxis window_axis(const char* axis, int64_t length, int64_t window, int64_t stride) {
  check(window >= 1, "window: got a ", axis, " of ", window, ", needs at least 1");
  check(stride >= 1, "stride: got a ", axis, " of ", stride, ", needs at least 1");
  window = std::min(window, length);
  stride = std::min(stride, length);
  const int64_t rest = length - window;
  check(std::min(stride, rest) <= window, "stride: windows with a ", axis, " of ", window, " that are ", stride,
        " apart leave gaps; needs a stride of at most the window");
  return {length, window, stride, (rest + stride - 1) / stride + 1};
}

}  // namespace

void merge_windows(const TensorView& logits, const TensorView& output, const std::pair<int64_t, int64_t>& window,
                   const std::pair<int64_t, int64_t>& stride, bool align_corners, const Execution& execution) {
  check_same_device({{"logits", &logits}, {"out", &output}});
  const bool gpu = on_gpu(logits, execution);
  if (gpu) {
    check_dtype("logits", logits, {DType::float32, DType::float16, DType::bfloat16});
  } else {
    check_dtype("logits", logits, {DType::float32});
  }
  MergeWindowsProblem problem{};
  problem.dtype = logits.dtype;
  problem.layout = check_layout("logits", logits);
  check(gpu || problem.layout == Layout::nchw,
        "logits: are channels-last, which is for the GPU; make a contiguous copy");
  problem.channels = logits.shape[1];
  problem.in_height = logits.shape[2];
  problem.in_width = logits.shape[3];
  check(problem.channels >= 1 && problem.in_height >= 1 && problem.in_width >= 1, "logits: got shape ",
        shape_text(logits), "; C, h and w must be at least 1");
  check(std::max(problem.in_height, problem.in_width) < kTooLong, "logits: got shape ", shape_text(logits),
        "; h and w must be below 2^31");
  check_dtype("out", output, {DType::float32});
  check(output.dims == 3 && output.shape[0] == problem.channels, "out: got shape ", shape_text(output),
        ", needs [C, H, W] with the C of logits, ", problem.channels);
  check(output.shape[1] >= 1 && output.shape[2] >= 1 && std::max(output.shape[1], output.shape[2]) < kTooLong,
        "out: got shape ", shape_text(output), "; H and W must be at least 1 and below 2^31");
  check_contiguous("out", output);
  check_output({"out", &output}, {{"logits", &logits}});
  problem.rows = window_axis("height", output.shape[1], window.first, stride.first);
  problem.columns = window_axis("width", output.shape[2], window.second, stride.second);
  check(logits.shape[0] == problem.rows.count * problem.columns.count, "logits: has ", logits.shape[0],
        " windows, but ", problem.rows.count, " x ", problem.columns.count, " windows of ", problem.rows.window, " x ",
        problem.columns.window, " lie on a map of ", output.shape[1], " x ", output.shape[2]);
  problem.y = resize_axis(problem.in_height, problem.rows.window, align_corners);
  problem.x = resize_axis(problem.in_width, problem.columns.window, align_corners);
  problem.logits = logits.data;
  problem.output = static_cast<float*>(output.data);
  if (gpu) {
    const DeviceGuard guard(logits, execution);
    merge_windows_cuda(problem, execution);
  } else {
    merge_windows_cpu(problem, execution);
  }
}

}  // namespace deeplab
