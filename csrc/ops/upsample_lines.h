// SPDX-License-Identifier: Apache-2.0
// CPU: rows of a bilinearly resized tensor, and of its concatenation with another, made when they are asked for.
#pragma once

#include <algorithm>
#include <vector>

#include "common/position.h"
#include "common/taps.h"
#include "ops/depthwise_rows.h"
#include "ops/upsample_concat.h"
#include "ops/upsample_simd.h"

namespace deeplab {

// A position with its fraction in S.
template <typename S>
struct LinePosition {
  int64_t low, high;
  S fraction;
};

template <typename S>
std::vector<LinePosition<S>> positions_of(const ResizeAxis& axis) {
  std::vector<LinePosition<S>> positions(axis.out);
  for (int64_t i = 0; i < axis.out; ++i) {
    const Position p = position_of(axis, i);
    positions[i] = {p.low, p.high, static_cast<S>(p.rest) / static_cast<S>(axis.denominator)};
  }
  return positions;
}

template <typename S>
class ConcatLines {
 public:
  ConcatLines(const UpsampleConcatProblem& problem, const Execution& execution)
      : problem_(problem),
        kernels_(row_kernels_for<S>(execution.instruction_set)),
        wide_(upsample_kernels_for(execution.instruction_set)),
        y_(positions_of<S>(resize_axis(problem.in_height, problem.height, problem.align_corners))),
        x_(positions_of<S>(resize_axis(problem.in_width, problem.width, problem.align_corners))),
        input_problem_(lines_problem(problem, problem.channels, problem.in_height, problem.in_width)),
        low_problem_(lines_problem(problem, problem.low_channels, problem.height, problem.width)),
        input_(problem.input, input_problem_, kernels_),
        low_(problem.low, low_problem_, kernels_) {
    std::vector<int32_t> index;
    std::vector<float> weight;
    for (const LinePosition<S>& p : x_) {
      index.insert(index.end(), {static_cast<int32_t>(p.low), static_cast<int32_t>(p.high)});
      weight.insert(weight.end(), {static_cast<float>(1 - p.fraction), static_cast<float>(p.fraction)});
    }
    columns_ = plan_columns({index.data(), weight.data(), problem.width, 2}, wide_.width);
  }
  ConcatLines(const ConcatLines&) = delete;

  struct Own {
    Scratch<S> low, high, combined, line;
  };

  // Writes row y of channels [channel, channel + count) of the concatenation: in NCHW (count 1) `width` values, in NHWC
  // `count` values a pixel, `pixel_stride` apart. `past_caches` needs every pixel aligned to a vector.
  void fill(int64_t image, int64_t channel, int64_t count, int64_t y, S* target, int64_t pixel_stride, bool past_caches,
            Own& scratch) const {
    const int64_t upsampled = std::clamp<int64_t>(problem_.channels - channel, 0, count);
    if (upsampled > 0) fill_upsampled(image, channel, upsampled, y, target, pixel_stride, past_caches, scratch);
    if (upsampled == count) return;
    const int64_t rest = count - upsampled;
    const Line<S> line = low_.line(image, channel + upsampled - problem_.channels, rest, y, scratch.low);
    if (problem_.layout == Layout::nchw) {
      const int64_t vectors = problem_.width / kernels_.width;
      kernels_.copy_vectors(line.data, kernels_.width, 0, target, kernels_.width, 0, vectors, 1, past_caches);
      std::copy(line.data + vectors * kernels_.width, line.data + problem_.width, target + vectors * kernels_.width);
      return;
    }
    for (int64_t x = 0; x < problem_.width; ++x) {
      std::copy_n(line.data + x * line.pixel_stride, rest, target + x * pixel_stride + upsampled);
    }
  }

  // As a source of DepthwiseRows.
  Line<S> line(int64_t image, int64_t channel, int64_t count, int64_t y, Scratch<S>& target) const {
    thread_local Own scratch;
    if (channel >= problem_.channels) return low_.line(image, channel - problem_.channels, count, y, target);
    target.resize(problem_.width * count);
    fill(image, channel, count, y, target.data(), count, false, scratch);
    return {target.data(), count};
  }

  // NCHW: the same straight into a packed row.
  void fill_row(int64_t image, int64_t channel, int64_t y, S* target) const {
    thread_local Own scratch;
    if (channel >= problem_.channels) return low_.fill_row(image, channel - problem_.channels, y, target);
    fill_upsampled(image, channel, 1, y, target, 1, false, scratch);
  }

 private:
  static DepthwiseProblem lines_problem(const UpsampleConcatProblem& problem, int64_t channels, int64_t height,
                                        int64_t width) {
    DepthwiseProblem lines{};
    lines.dtype = problem.dtype;
    lines.layout = problem.layout;
    lines.batch = problem.batch;
    lines.channels = channels;
    lines.height = height;
    lines.width = width;
    return lines;
  }

  void fill_upsampled(int64_t image, int64_t channel, int64_t count, int64_t y, S* target, int64_t pixel_stride,
                      bool past_caches, Own& scratch) const {
    const bool nhwc = problem_.layout == Layout::nhwc;
    const LinePosition<S>& row = y_[y];
    const Line<S> low = input_.line(image, channel, count, row.low, scratch.low);
    const Line<S> high = input_.line(image, channel, count, row.high, scratch.high);
    if (!nhwc) {
      scratch.combined.resize(problem_.in_width + kernels_.width + wide_.width);
      kernels_.lerp(low.data, high.data, row.fraction, scratch.combined.data(), problem_.in_width, false);
      widen_columns(scratch.combined.data(), target, past_caches);
      return;
    }
    scratch.combined.resize(problem_.in_width * count);
    for (int64_t x = 0; x < problem_.in_width; ++x) {
      kernels_.lerp(low.data + x * low.pixel_stride, high.data + x * high.pixel_stride, row.fraction,
                    &scratch.combined[x * count], count, false);
    }
    for (int64_t x = 0; x < problem_.width; ++x) {
      const LinePosition<S>& column = x_[x];
      kernels_.lerp(&scratch.combined[column.low * count], &scratch.combined[column.high * count], column.fraction,
                    target + x * pixel_stride, count, past_caches);
    }
  }

  void widen_columns(const float* combined, float* target, bool past_caches) const {
    wide_.expand_columns(combined, columns_.plan, target, problem_.width, past_caches);
  }
  void widen_columns(const double* combined, double* target, bool) const {
    for (int64_t x = 0; x < problem_.width; ++x) {
      const LinePosition<S>& p = x_[x];
      target[x] = (1 - p.fraction) * combined[p.low] + p.fraction * combined[p.high];
    }
  }

  const UpsampleConcatProblem& problem_;
  const RowKernels<S>& kernels_;
  const UpsampleKernels& wide_;
  std::vector<LinePosition<S>> y_, x_;
  DepthwiseProblem input_problem_, low_problem_;
  TensorLines<S> input_, low_;
  ColumnTables columns_;
};

}  // namespace deeplab
