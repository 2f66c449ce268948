// SPDX-License-Identifier: Apache-2.0
// From uint8 pixels to what a network eats, in one pass: bilinear resize in 8 bits (as OpenCV's INTER_LINEAR, bit for
// bit), order of the channels, (pixel - mean) / std, cast and layout.
//
//   output[n, c, y, x] = (resize(images[n])[y, x, c or 2 - c] - mean[c]) / std[c]
//
// Bytes that must move: the images and the output, once each.
#pragma once

#include <vector>

#include "common/execution.h"
#include "common/tensor_view.h"

namespace deeplab {

struct PreprocessProblem {
  DType dtype;
  Layout layout;  // of the output
  int64_t batch, in_height, in_width, height, width;
  const uint8_t* images;  // [batch, in_height, in_width, 3]
  void* output;           // [batch, 3, height, width]
  float mean[3], std[3];  // in the order of the output's channels
  bool reverse_channels;
};

// images uint8 [N, H, W, 3] contiguous; output [N, 3, h, w] float32, float16 or bfloat16, NCHW or channels-last.
// Throws std::invalid_argument or TypeMismatch that names the argument.
void preprocess(const TensorView& images, const TensorView& output, const std::vector<float>& mean,
                const std::vector<float>& std, bool reverse_channels, const Execution& execution);

void preprocess_cpu(const PreprocessProblem& problem, const Execution& execution);
void preprocess_cuda(const PreprocessProblem& problem, const Execution& execution);

}  // namespace deeplab
