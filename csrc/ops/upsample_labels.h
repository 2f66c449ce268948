// SPDX-License-Identifier: Apache-2.0
// upsample_argmax (see upsample_argmax.h) on the GPU, from logits of any float type and layout.
//
// Positions are exact rationals (common/position.h); with `via` the reference's two resizes, logits to network input
// and then to the image, are composed tap by tap in the same pass. Ties and NaN behave as on the CPU.
// Bytes that must move: logits once, one label a pixel.
#pragma once

#include <utility>

#include "common/execution.h"
#include "common/position.h"
#include "common/tensor_view.h"

namespace deeplab {

struct UpsampleLabelsProblem {
  DType dtype;
  Layout layout;
  int64_t batch, channels, in_height, in_width, height, width;
  bool two_steps;
  ResizeAxis y, x;          // the last (or only) resize
  ResizeAxis via_y, via_x;  // the first of two
  const void* logits;       // [batch, channels, in_height, in_width]
  uint8_t* labels_uint8;    // [batch, height, width]; exactly one of the two is set
  int32_t* labels_int32;
  float* scores;  // [batch, height, width] or nullptr
};

// labels [N, H, W] uint8 (up to 256 classes) or int32; scores float32 [N, H, W] or no data; `via` (0, 0): one resize.
// Throws std::invalid_argument or TypeMismatch that names the argument.
void upsample_labels(const TensorView& logits, const TensorView& labels, const TensorView& scores, bool align_corners,
                     const std::pair<int64_t, int64_t>& via, const Execution& execution);

void upsample_labels_cuda(const UpsampleLabelsProblem& problem, const Execution& execution);

}  // namespace deeplab
