// SPDX-License-Identifier: Apache-2.0
// CPU: rows of the concatenation are written where they belong, or packed for the convolution that eats them.
#include <vector>

#include "common/parallel.h"
#include "common/streaming.h"
#include "ops/depthwise_walks.h"
#include "ops/upsample_lines.h"

namespace deeplab {
namespace {

constexpr int64_t kPieceValues = 250'000;

template <typename S>
void concat(const UpsampleConcatProblem& problem, const Execution& execution) {
  const RowKernels<S>& kernels = row_kernels_for<S>(execution.instruction_set);
  const ConcatLines<S> lines(problem, execution);
  const bool nhwc = problem.layout == Layout::nhwc;
  const int64_t channels = problem.channels + problem.low_channels;
  const int64_t planes = nhwc ? 1 : channels;
  const int64_t count = nhwc ? channels : 1;  // values a pixel
  const int64_t size = size_of(problem.dtype);
  const int64_t rows = problem.batch * planes * problem.height;
  const int64_t row_values = problem.width * count;
  const bool large = rows * row_values * size >= kStreamBytes;
  std::vector<typename ConcatLines<S>::Own> scratch(workers_of(execution.threads));

  parallel_for(rows, std::max<int64_t>(1, kPieceValues / row_values), execution.threads,
               [&](int worker, int64_t begin, int64_t end) {
                 auto& own = scratch[worker];
                 for (int64_t row = begin; row < end; ++row) {
                   const int64_t plane = row / problem.height, y = row % problem.height;
                   const int64_t image = plane / planes, first = plane % planes;
                   char* target = static_cast<char*>(problem.output) + row * row_values * size;
                   const bool direct = size == sizeof(S);
                   if (!direct) own.line.resize(row_values);
                   S* values = direct ? reinterpret_cast<S*>(target) : own.line.data();
                   const int64_t vector_bytes = kernels.width * sizeof(S);
                   const bool aligned =
                       reinterpret_cast<uintptr_t>(values) % vector_bytes == 0 &&
                       (!nhwc || (count % kernels.width == 0 && problem.channels % kernels.width == 0));
                   // In NHWC some channels at a time, so that the rows that are resized stay in the cache.
                   for (int64_t c = 0; c < count; c += kGroupChannels) {
                     const int64_t part = std::min(kGroupChannels, count - c);
                     lines.fill(image, first + c, part, y, values + c, count, direct && large && aligned, own);
                   }
                   if (!direct) kernels.narrow(problem.dtype, values, target, row_values);
                 }
               });
}

// Gathers along y into one row, then along x: each axis is the transpose of its table of taps.
template <typename S>
void gradient(const UpsampleConcatProblem& problem, void* dx, const Execution& execution) {
  const RowKernels<S>& kernels = row_kernels_for<S>(execution.instruction_set);
  const auto y_positions = positions_of<S>(resize_axis(problem.in_height, problem.height, problem.align_corners));
  const auto x_positions = positions_of<S>(resize_axis(problem.in_width, problem.width, problem.align_corners));
  const bool nhwc = problem.layout == Layout::nhwc;
  const int64_t all = problem.channels + problem.low_channels;
  const int64_t group = nhwc ? std::min<int64_t>(problem.channels, kGroupChannels) : 1;
  const int64_t groups = (problem.channels + group - 1) / group;
  DepthwiseProblem lines{};
  lines.dtype = problem.dtype;
  lines.layout = problem.layout;
  lines.batch = problem.batch;
  lines.channels = all;
  lines.height = problem.height;
  lines.width = problem.width;
  const TensorLines<S> dy(problem.output, lines, kernels);
  // Output rows that read each input row: positions rise with y, so they are neighbours.
  std::vector<int64_t> begin_y(problem.in_height, problem.height), end_y(problem.in_height, 0);
  for (int64_t y = 0; y < problem.height; ++y) {
    for (int64_t row : {y_positions[y].low, y_positions[y].high}) {
      begin_y[row] = std::min(begin_y[row], y);
      end_y[row] = std::max(end_y[row], y + 1);
    }
  }
  struct Own {
    Scratch<S> line, sum, out;
  };
  std::vector<Own> scratch(workers_of(execution.threads));
  const int64_t size = size_of(problem.dtype);

  parallel_for(
      problem.batch * groups * problem.in_height, std::max<int64_t>(1, kPieceValues / (problem.width * group)),
      execution.threads, [&](int worker, int64_t begin, int64_t end) {
        Own& own = scratch[worker];
        for (int64_t task = begin; task < end; ++task) {
          const int64_t row = task % problem.in_height, unit = task / problem.in_height;
          const int64_t image = unit / groups, channel = unit % groups * group;
          const int64_t count = nhwc ? std::min(group, problem.channels - channel) : 1;
          own.sum.assign(problem.width * count, S{0});
          for (int64_t y = begin_y[row]; y < end_y[row]; ++y) {
            const LinePosition<S>& p = y_positions[y];
            const S weight = (p.low == row ? S{1} - p.fraction : S{0}) + (p.high == row ? p.fraction : S{0});
            if (weight == S{0}) continue;
            const Line<S> line = dy.line(image, channel, count, y, own.line);
            for (int64_t x = 0; x < problem.width; ++x) {
              for (int64_t c = 0; c < count; ++c)
                own.sum[x * count + c] += weight * line.data[x * line.pixel_stride + c];
            }
          }
          own.out.assign(problem.in_width * count, S{0});
          for (int64_t x = 0; x < problem.width; ++x) {
            const LinePosition<S>& p = x_positions[x];
            for (int64_t c = 0; c < count; ++c) own.out[p.low * count + c] += (1 - p.fraction) * own.sum[x * count + c];
            for (int64_t c = 0; c < count; ++c) own.out[p.high * count + c] += p.fraction * own.sum[x * count + c];
          }
          if (!nhwc) {
            const int64_t offset = ((image * problem.channels + channel) * problem.in_height + row) * problem.in_width;
            kernels.narrow(problem.dtype, own.out.data(), static_cast<char*>(dx) + offset * size, problem.in_width);
            continue;
          }
          for (int64_t x = 0; x < problem.in_width; ++x) {
            const int64_t pixel = (image * problem.in_height + row) * problem.in_width + x;
            kernels.narrow(problem.dtype, &own.out[x * count],
                           static_cast<char*>(dx) + (pixel * problem.channels + channel) * size, count);
          }
        }
      });
}

template <typename S>
void depthwise_of_concat(const UpsampleConcatProblem& concat_problem, const DepthwiseProblem& problem,
                         const Execution& execution) {
  const ConcatLines<S> lines(concat_problem, execution);
  run_depthwise<S>(problem, execution, lines);
}

}  // namespace

void upsample_concat_cpu(const UpsampleConcatProblem& problem, const Execution& execution) {
  problem.dtype == DType::float64 ? concat<double>(problem, execution) : concat<float>(problem, execution);
}

void upsample_concat_gradient_cpu(const UpsampleConcatProblem& problem, void* dx, const Execution& execution) {
  problem.dtype == DType::float64 ? gradient<double>(problem, dx, execution) : gradient<float>(problem, dx, execution);
}

void upsample_concat_depthwise_cpu(const UpsampleConcatProblem& concat_problem, const DepthwiseProblem& problem,
                                   const Execution& execution) {
  problem.dtype == DType::float64 ? depthwise_of_concat<double>(concat_problem, problem, execution)
                                  : depthwise_of_concat<float>(concat_problem, problem, execution);
}

}  // namespace deeplab
