// SPDX-License-Identifier: Apache-2.0
// upsample_labels() on the GPU: a thread makes four neighbouring labels and runs over the classes once.
//
// Upsampling by 4, four neighbours read four columns at most: per class 2 x 4 loads (cache), 8 FMA along y, 16 along x,
// 12 to keep the best: 11 instructions a pixel and class. 19 classes at 1024 x 2048: 440 M / (132 SM x 128 lanes x
// 1.75 GHz) = 15 us; the 7 MB that must move take 2 us, so this is bound by arithmetic.
#include "common/launch.cuh"
#include "common/vector.cuh"
#include "ops/upsample_labels.h"

namespace deeplab {
namespace {

constexpr int kPixels = 4;
constexpr int kColumns = 4;

// Taps of one output position: 2 for one resize, 4 for two.
template <int Taps>
struct AxisTaps {
  int32_t index[Taps];
  float weight[Taps];
};

template <bool Two>
DEEPLAB_DEVICE AxisTaps<Two ? 4 : 2> taps_of(const ResizeAxis& last, const ResizeAxis& via, int64_t i) {
  const Position p = position_of(last, i);
  AxisTaps<Two ? 4 : 2> taps;
  if constexpr (!Two) {
    taps.index[0] = static_cast<int32_t>(p.low);
    taps.index[1] = static_cast<int32_t>(p.high);
    taps.weight[0] = 1.0f - p.fraction;
    taps.weight[1] = p.fraction;
  } else {
    const Position a = position_of(via, p.low), b = position_of(via, p.high);
    taps.index[0] = static_cast<int32_t>(a.low);
    taps.index[1] = static_cast<int32_t>(a.high);
    taps.index[2] = static_cast<int32_t>(b.low);
    taps.index[3] = static_cast<int32_t>(b.high);
    taps.weight[0] = (1.0f - p.fraction) * (1.0f - a.fraction);
    taps.weight[1] = (1.0f - p.fraction) * a.fraction;
    taps.weight[2] = p.fraction * (1.0f - b.fraction);
    taps.weight[3] = p.fraction * b.fraction;
  }
  // A tap of weight 0 reads where a used one reads: it must not meet a stray NaN.
  constexpr int kTaps = Two ? 4 : 2;
  int32_t used = taps.index[0];
#pragma unroll
  for (int k = kTaps - 1; k >= 0; --k) used = taps.weight[k] != 0.0f ? taps.index[k] : used;
#pragma unroll
  for (int k = 0; k < kTaps; ++k) taps.index[k] = taps.weight[k] != 0.0f ? taps.index[k] : used;
  return taps;
}

struct Best {
  float value, sum;  // sum of exp(values - value)
  int32_t label;

  template <bool Scores>
  DEEPLAB_DEVICE void offer(float candidate, int32_t c) {
    if constexpr (Scores) {
      if (candidate > value) {
        sum = fmaf(sum, expf(value - candidate), 1.0f);
      } else if (candidate > -INFINITY) {
        sum += expf(candidate - value);
      }
    }
    const bool better = candidate > value;
    value = better ? candidate : value;
    label = better ? c : label;
  }
};

template <typename T, bool Two, bool Scores>
struct UpsampleLabels {
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = Two ? 3 : 4;
  static constexpr int kTaps = Two ? 4 : 2;

  UpsampleLabelsProblem problem;

  __host__ __device__ int64_t groups() const { return (problem.width + kPixels - 1) / kPixels; }
  __host__ __device__ int64_t blocks_per_image() const { return (groups() * problem.height + threads - 1) / threads; }
  int64_t blocks() const { return problem.batch * blocks_per_image(); }

  DEEPLAB_DEVICE void operator()(uint32_t block, int thread) const {
    const uint32_t per_image = static_cast<uint32_t>(blocks_per_image());
    const int64_t image = block / per_image;
    int64_t index = int64_t{block % per_image} * threads + thread;
    if (index >= groups() * problem.height) return;
    const int64_t y = take_quotient(index, groups());
    const int64_t x = index * kPixels;
    const bool nhwc = problem.layout == Layout::nhwc;
    const int64_t column = nhwc ? problem.channels : 1, row = problem.in_width * column;
    const int64_t next_class = nhwc ? 1 : problem.in_height * problem.in_width;
    const T* logits =
        static_cast<const T*>(problem.logits) + image * problem.channels * problem.in_height * problem.in_width;

    const AxisTaps<kTaps> rows = taps_of<Two>(problem.y, problem.via_y, y);
    int64_t line[kTaps];
#pragma unroll
    for (int i = 0; i < kTaps; ++i) line[i] = rows.index[i] * row;

    // Columns that the four pixels read, and their weights where these are few.
    int32_t first = static_cast<int32_t>(problem.in_width), last = 0;
#pragma unroll
    for (int p = 0; p < kPixels; ++p) {
      const AxisTaps<kTaps> columns = column_taps(x + p);
#pragma unroll
      for (int k = 0; k < kTaps; ++k) {
        first = columns.index[k] < first ? columns.index[k] : first;
        last = columns.index[k] > last ? columns.index[k] : last;
      }
    }
    float weight[kPixels][kColumns];
#pragma unroll
    for (int p = 0; p < kPixels; ++p) {
      const AxisTaps<kTaps> columns = column_taps(x + p);
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        weight[p][j] = 0.0f;
#pragma unroll
        for (int k = 0; k < kTaps; ++k) weight[p][j] += columns.index[k] == first + j ? columns.weight[k] : 0.0f;
      }
    }
    int64_t offset[kColumns];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) offset[j] = int64_t{first + j < last ? first + j : last} * column;
    const bool near = last - first < kColumns;

    Best best[kPixels];
#pragma unroll
    for (int p = 0; p < kPixels; ++p) best[p] = {-INFINITY, 0.0f, 0};
    for (int32_t c = 0; c < problem.channels; ++c, logits += next_class) {
      float sum[kColumns];
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        sum[j] = 0.0f;
#pragma unroll
        for (int i = 0; i < kTaps; ++i) sum[j] = fmaf(rows.weight[i], to_float(logits[line[i] + offset[j]]), sum[j]);
      }
      // A column that is not finite would spoil the pixels that give it weight 0.
      const bool dense = near && fabsf(sum[0]) + fabsf(sum[1]) + fabsf(sum[2]) + fabsf(sum[3]) < INFINITY;
#pragma unroll
      for (int p = 0; p < kPixels; ++p) {
        float value = 0.0f;
        if (dense) {
#pragma unroll
          for (int j = 0; j < kColumns; ++j) value = fmaf(weight[p][j], sum[j], value);
        } else {
          value = value_at(logits, y, x + p, row, column);
        }
        best[p].template offer<Scores>(value, c);
      }
    }
    put(image, y, x, best);
  }

  // Taps of a column; pixels past the row's end repeat its last one.
  DEEPLAB_DEVICE AxisTaps<kTaps> column_taps(int64_t x) const {
    return taps_of<Two>(problem.x, problem.via_x, x < problem.width ? x : problem.width - 1);
  }

  // One value from its own taps alone: for far columns and for logits that are not finite. Taps are computed again
  // rather than kept, which would cost every thread the registers.
  DEEPLAB_DEVICE float value_at(const T* logits, int64_t y, int64_t x, int64_t row, int64_t column) const {
    const AxisTaps<kTaps> rows = taps_of<Two>(problem.y, problem.via_y, y);
    const AxisTaps<kTaps> columns = column_taps(x);
    float value = 0.0f;
#pragma unroll
    for (int j = 0; j < kTaps; ++j) {
      float sum = 0.0f;
#pragma unroll
      for (int i = 0; i < kTaps; ++i) {
        sum = fmaf(rows.weight[i], to_float(logits[rows.index[i] * row + columns.index[j] * column]), sum);
      }
      value = fmaf(columns.weight[j], sum, value);
    }
    return value;
  }

  DEEPLAB_DEVICE void put(int64_t image, int64_t y, int64_t x, const Best (&best)[kPixels]) const {
    const int64_t at = (image * problem.height + y) * problem.width + x;
    const bool whole = x + kPixels <= problem.width && at % kPixels == 0;
    if (problem.labels_uint8 != nullptr && whole && reinterpret_cast<uintptr_t>(problem.labels_uint8) % 4 == 0) {
      uint32_t packed = 0;
#pragma unroll
      for (int p = 0; p < kPixels; ++p) packed |= static_cast<uint32_t>(best[p].label) << (8 * p);
      *reinterpret_cast<uint32_t*>(problem.labels_uint8 + at) = packed;
    }
#pragma unroll
    for (int p = 0; p < kPixels; ++p) {
      if (x + p >= problem.width) continue;
      if (problem.labels_int32 != nullptr) {
        problem.labels_int32[at + p] = best[p].label;
      } else if (!whole || reinterpret_cast<uintptr_t>(problem.labels_uint8) % 4 != 0) {
        problem.labels_uint8[at + p] = static_cast<uint8_t>(best[p].label);
      }
      if constexpr (Scores) problem.scores[at + p] = best[p].value > -INFINITY ? 1.0f / best[p].sum : NAN;
    }
  }
};

template <typename T, bool Two>
void run_steps(const UpsampleLabelsProblem& problem, const Execution& execution) {
  if (problem.scores != nullptr) {
    const UpsampleLabels<T, Two, true> kernel{problem};
    return launch(kernel, kernel.blocks(), execution);
  }
  const UpsampleLabels<T, Two, false> kernel{problem};
  launch(kernel, kernel.blocks(), execution);
}

}  // namespace

void upsample_labels_cuda(const UpsampleLabelsProblem& problem, const Execution& execution) {
  with_gpu_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    problem.two_steps ? run_steps<T, true>(problem, execution) : run_steps<T, false>(problem, execution);
  });
}

}  // namespace deeplab
