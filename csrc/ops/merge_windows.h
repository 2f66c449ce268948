// SPDX-License-Identifier: Apache-2.0
// merge_windows: one map of logits from the logits of sliding windows, each pixel the mean over the windows that cover
// it.
//
//   output[c, y, x] = sum_w resize(logits[w], window)[c, y - top[w], x - left[w]] / (number of such windows)
//
// The windows form a grid, row by row: along an axis there are max(length - window + stride - 1, 0) / stride + 1,
// `stride` apart, and the last is shifted back to end at the border (windows.py: place_windows). So an output pixel
// computes which windows cover it and gathers from them, in the order in which they come: nothing is zeroed first,
// nothing is added atomically, every value is written once and has the same bits every time.
// Bytes that must move: the logits and the output, once each.
#pragma once

#include <cstdint>
#include <utility>

#include "common/execution.h"
#include "common/position.h"
#include "common/tensor_view.h"

namespace deeplab {

// Windows along one axis of the map.
struct WindowAxis {
  int64_t length, window, stride, count;

  template <typename Int>
  DEEPLAB_HD Int start(Int i) const {
    const Int regular = i * static_cast<Int>(stride), last = static_cast<Int>(length - window);
    return regular < last ? regular : last;
  }
  // The windows that cover position p are first(p)..last(p). Lengths are below 2^31: a GPU divides 32 bits faster.
  template <typename Int>
  DEEPLAB_HD Int first(Int p) const {
    if (p < static_cast<Int>(window)) return 0;
    const Int i = static_cast<uint32_t>(p - static_cast<Int>(window)) / static_cast<uint32_t>(stride) + 1;
    return i < static_cast<Int>(count) ? i : static_cast<Int>(count - 1);
  }
  template <typename Int>
  DEEPLAB_HD Int last(Int p) const {
    if (p >= static_cast<Int>(length - window)) return static_cast<Int>(count - 1);
    return static_cast<uint32_t>(p) / static_cast<uint32_t>(stride);
  }
};

struct MergeWindowsProblem {
  DType dtype;
  Layout layout;  // of the logits
  int64_t channels, in_height, in_width;
  WindowAxis rows, columns;
  ResizeAxis y, x;     // from the logits to one window
  const void* logits;  // [rows.count * columns.count, channels, in_height, in_width]
  float* output;       // [channels, rows.length, columns.length]
};

// logits [n, C, h, w]: float32; on the GPU also float16, bfloat16 and channels-last. output float32 [C, H, W].
// `window` and `stride` are (vertical, horizontal); a window larger than the map is cut to it.
// Throws std::invalid_argument or TypeMismatch that names the argument.
void merge_windows(const TensorView& logits, const TensorView& output, const std::pair<int64_t, int64_t>& window,
                   const std::pair<int64_t, int64_t>& stride, bool align_corners, const Execution& execution);

void merge_windows_cpu(const MergeWindowsProblem& problem, const Execution& execution);
void merge_windows_cuda(const MergeWindowsProblem& problem, const Execution& execution);

}  // namespace deeplab
