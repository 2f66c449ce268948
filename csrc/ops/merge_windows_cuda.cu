// SPDX-License-Identifier: Apache-2.0
// merge_windows() on the GPU: a thread gathers one pixel of ten classes.
//
// Positions and weights of a window are computed once for the ten; neighbouring threads write neighbouring pixels and
// read the same few columns, mostly from cache. 19 classes at 1025 x 2049 from 8 windows of 769 x 769: 182 MB must move
// with float32 logits at a quarter of the size, 42 us at 4.3 TB/s; 1000 instructions a thread, 220 of them a window,
// take 150 us.
#include <limits>
#include <type_traits>

#include "common/launch.cuh"
#include "common/vector.cuh"
#include "ops/merge_windows.h"

namespace deeplab {
namespace {

constexpr int kClasses = 10;  // 19 classes in two slices, 150 in fifteen

template <typename Int>
struct Place {
  Int low;
  float fraction;
};

// position_of() in integers of this size.
template <typename Int>
DEEPLAB_DEVICE Place<Int> place_of(const ResizeAxis& axis, Int i) {
  using Unsigned = std::make_unsigned_t<Int>;
  const Int position = i * static_cast<Int>(axis.step) + static_cast<Int>(axis.offset);
  const Unsigned numerator = position < 0 ? 0 : position, denominator = static_cast<Unsigned>(axis.denominator);
  const Int low = numerator / denominator, last = static_cast<Int>(axis.in - 1);
  if (low >= last) return {last, 0.0f};
  return {low, static_cast<float>(numerator - low * denominator) * axis.inverse};
}

// Int: int32_t wherever all positions, and offsets within a window's logits, fit.
template <typename T, typename Int>
struct MergeWindows {
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = sizeof(Int) == 4 ? 6 : 3;

  MergeWindowsProblem problem;

  __host__ __device__ int64_t pixels() const { return problem.rows.length * problem.columns.length; }
  __host__ __device__ int64_t blocks_per_slice() const { return (pixels() + threads - 1) / threads; }
  int64_t blocks() const { return (problem.channels + kClasses - 1) / kClasses * blocks_per_slice(); }

  DEEPLAB_DEVICE void operator()(uint32_t block, int thread) const {
    const uint32_t per_slice = static_cast<uint32_t>(blocks_per_slice());
    const int64_t pixel = int64_t{block % per_slice} * threads + thread;
    if (pixel >= pixels()) return;
    const int64_t channel = int64_t{block / per_slice} * kClasses;
    const int count = problem.channels - channel < kClasses ? static_cast<int>(problem.channels - channel) : kClasses;
    int64_t rest = pixel;
    const Int y = static_cast<Int>(take_quotient(rest, problem.columns.length)), x = static_cast<Int>(rest);

    const bool nhwc = problem.layout == Layout::nhwc;
    const Int column = nhwc ? static_cast<Int>(problem.channels) : 1;
    const Int row = static_cast<Int>(problem.in_width) * column;
    const Int next_class = nhwc ? 1 : static_cast<Int>(problem.in_height * problem.in_width);
    const int64_t next_window = problem.channels * problem.in_height * problem.in_width;
    const T* logits = static_cast<const T*>(problem.logits) + channel * next_class;

    const Int top = problem.rows.first(y), bottom = problem.rows.last(y);
    const Int left = problem.columns.first(x), right = problem.columns.last(x);
    float sum[kClasses];
#pragma unroll
    for (int k = 0; k < kClasses; ++k) sum[k] = 0.0f;
    for (Int i = top; i <= bottom; ++i) {
      const Place<Int> rows = place_of(problem.y, static_cast<Int>(y - problem.rows.start(i)));
      // A value of weight 0 is not read: it may lie outside, or be a stray NaN.
      const Int down = rows.fraction != 0.0f ? row : 0;
      for (Int j = left; j <= right; ++j) {
        const Place<Int> columns = place_of(problem.x, static_cast<Int>(x - problem.columns.start(j)));
        const Int aside = columns.fraction != 0.0f ? column : 0;
        const T* window = logits + (i * problem.columns.count + j) * next_window;
        const T* source = window + (rows.low * row + columns.low * column);
#pragma unroll
        for (int k = 0; k < kClasses; ++k) {
          // Classes past the last repeat it: a branch here would make each class wait for the loads of the one before.
          const T* low = source + (k < count ? k : count - 1) * next_class;
          const float a = mix(low[0], low[down], rows.fraction);
          const float b = mix(low[aside], low[down + aside], rows.fraction);
          sum[k] += fmaf(columns.fraction, b, (1.0f - columns.fraction) * a);
        }
      }
    }
    const float share = 1.0f / static_cast<float>((bottom - top + 1) * (right - left + 1));
    float* target = problem.output + channel * pixels() + pixel;
#pragma unroll
    for (int k = 0; k < kClasses; ++k) {
      if (k < count) target[k * pixels()] = sum[k] * share;
    }
  }

  DEEPLAB_DEVICE static float mix(T low, T high, float fraction) {
    return fmaf(fraction, to_float(high), (1.0f - fraction) * to_float(low));
  }
};

bool fits_32_bits(const MergeWindowsProblem& problem) {
  constexpr int64_t limit = std::numeric_limits<int32_t>::max() / 2;
  const auto fits = [](const WindowAxis& windows, const ResizeAxis& axis) {
    return windows.length < limit && axis.out * axis.step + axis.in < limit;
  };
  return fits(problem.rows, problem.y) && fits(problem.columns, problem.x) &&
         problem.channels * problem.in_height * problem.in_width < limit;
}

template <typename T, typename Int>
void run(const MergeWindowsProblem& problem, const Execution& execution) {
  const MergeWindows<T, Int> kernel{problem};
  launch(kernel, kernel.blocks(), execution);
}

}  // namespace

void merge_windows_cuda(const MergeWindowsProblem& problem, const Execution& execution) {
  with_gpu_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    fits_32_bits(problem) ? run<T, int32_t>(problem, execution) : run<T, int64_t>(problem, execution);
  });
}

}  // namespace deeplab
