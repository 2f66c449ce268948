// SPDX-License-Identifier: Apache-2.0
#include "ops/upsample_labels.h"

#include <algorithm>
#include <limits>

#include "common/check.h"
#include "common/cuda_support.h"
#include "ops/upsample_argmax.h"

namespace deeplab {

void upsample_labels(const TensorView& logits, const TensorView& labels, const TensorView& scores, bool align_corners,
                     const std::pair<int64_t, int64_t>& via, const Execution& execution) {
  check_same_device({{"logits", &logits}, {"labels", &labels}});
  check_dtype("logits", logits, {DType::float32, DType::float16, DType::bfloat16});
  UpsampleLabelsProblem problem{};
  problem.dtype = logits.dtype;
  problem.layout = check_layout("logits", logits);
  problem.batch = logits.shape[0];
  problem.channels = logits.shape[1];
  problem.in_height = logits.shape[2];
  problem.in_width = logits.shape[3];
  check(problem.channels >= 1 && problem.in_height >= 1 && problem.in_width >= 1, "logits: got shape ",
        shape_text(logits), "; C, h and w must be at least 1");
  check(std::max(problem.in_height, problem.in_width) < std::numeric_limits<int32_t>::max(), "logits: got shape ",
        shape_text(logits), "; h and w must be below 2^31");
  check(problem.channels < std::numeric_limits<int32_t>::max(), "logits: too many classes (", problem.channels, ")");
  check_dtype("labels", labels, {DType::uint8, DType::int32});
  check(labels.dtype == DType::int32 || problem.channels <= kMaxUint8Classes, "labels: uint8 holds ", kMaxUint8Classes,
        " classes, logits have ", problem.channels, "; pass an int32 array");
  check(labels.dims == 3 && labels.shape[0] == problem.batch, "labels: got shape ", shape_text(labels),
        ", needs [N, H, W] with the N of logits, ", problem.batch);
  check(labels.shape[1] >= 1 && labels.shape[2] >= 1, "labels: got shape ", shape_text(labels),
        "; H and W must be at least 1");
  check_contiguous("labels", labels);
  check_output({"labels", &labels}, {{"logits", &logits}});
  problem.height = labels.shape[1];
  problem.width = labels.shape[2];
  if (scores.data != nullptr) {
    check_same_device({{"logits", &logits}, {"scores", &scores}});
    check_dtype("scores", scores, {DType::float32});
    check_shape("scores", scores, {problem.batch, problem.height, problem.width}, "[N, H, W]");
    check_contiguous("scores", scores);
    check_output({"scores", &scores}, {{"logits", &logits}, {"labels", &labels}});
    problem.scores = static_cast<float*>(scores.data);
  }
  check(via.first >= 0 && via.second >= 0 && (via.first == 0) == (via.second == 0), "via: got (", via.first, ", ",
        via.second, "), needs a positive (height, width)");
  problem.two_steps = via.first > 0;
  const int64_t mid_height = problem.two_steps ? via.first : problem.in_height;
  const int64_t mid_width = problem.two_steps ? via.second : problem.in_width;
  problem.via_y = resize_axis(problem.in_height, mid_height, align_corners);
  problem.via_x = resize_axis(problem.in_width, mid_width, align_corners);
  problem.y = resize_axis(mid_height, problem.height, align_corners);
  problem.x = resize_axis(mid_width, problem.width, align_corners);
  problem.logits = logits.data;
  if (labels.dtype == DType::uint8) {
    problem.labels_uint8 = static_cast<uint8_t*>(labels.data);
  } else {
    problem.labels_int32 = static_cast<int32_t*>(labels.data);
  }
  check(on_gpu(logits, execution), "logits: are on the CPU; upsample_argmax is the function for CPU arrays");
  if (problem.batch == 0) return;
  const DeviceGuard guard(logits, execution);
  upsample_labels_cuda(problem, execution);
}

}  // namespace deeplab
