// SPDX-License-Identifier: Apache-2.0
// CPU: the walks of the forward operator with reductions beside them. Each walk's sums are kept apart in double and
// added in the order of the walks, so the result does not depend on the number of threads.
#include <vector>

#include "ops/depthwise_backward.h"
#include "ops/depthwise_walks.h"

namespace deeplab {
namespace {

// Sums of every walk, [image x group][walk][value][lane of the group].
class WalkSums {
 public:
  WalkSums(int64_t batch, int64_t channels, int64_t group, int64_t walks, int64_t values)
      : channels_(channels),
        group_(group),
        groups_((channels + group - 1) / group),
        walks_(walks),
        values_(values),
        sums_(batch * groups_ * walks * values * group) {}

  double* at(int64_t image, int64_t channel, int64_t walk) {
    return &sums_[((image * groups_ + channel / group_) * walks_ + walk) * values_ * group_];
  }
  int64_t group() const { return group_; }

 private:
  int64_t channels_, group_, groups_, walks_, values_;
  std::vector<double> sums_;
};

// Adds the lanes of one vector of sums: all lanes are one channel (NCHW), or each is its own (NHWC).
template <typename S>
void add_lanes(Layout layout, const S* lanes, int64_t width, int64_t channels, double* target) {
  for (int64_t lane = 0; lane < (layout == Layout::nchw ? width : std::min(width, channels)); ++lane) {
    target[layout == Layout::nchw ? 0 : lane] += static_cast<double>(lanes[lane]);
  }
}

// One packed row of a tensor: blocks of [vectors][width], zero past the row's end and past the last channel.
template <typename S>
void pack_row(const Line<S>& line, Layout layout, const RowKernels<S>& kernels, int64_t pixels, int64_t count,
              int64_t vectors, S* target) {
  const int64_t width = kernels.width;
  if (layout == Layout::nchw) {
    std::copy_n(line.data, pixels, target);
    std::fill(target + pixels, target + vectors * width, S{0});
    return;
  }
  const int64_t whole = count / width;
  kernels.copy_vectors(line.data, line.pixel_stride, width, target, width, vectors * width, pixels, whole, false);
  if (whole * width == count) return;
  S* last = target + whole * vectors * width;
  for (int64_t x = 0; x < pixels; ++x) {
    for (int64_t lane = 0; lane < width; ++lane) {
      const int64_t channel = whole * width + lane;
      last[x * width + lane] = channel < count ? line.data[x * line.pixel_stride + channel] : S{0};
    }
  }
}

// The problem of a tensor with the sizes of the output, to read its lines.
DepthwiseProblem at_output_size(const DepthwiseProblem& problem) {
  DepthwiseProblem other = problem;
  other.height = problem.out_height;
  other.width = problem.out_width;
  return other;
}

template <typename S>
struct ReductionScratch {
  DepthwiseRows<S> rows;
  GroupParameters<S> parameters;
  Scratch<S> weights, row, dy, line, a, b, c, sums;
};

template <typename S>
void statistics(const DepthwiseStatistics& work, const Execution& execution) {
  const DepthwiseProblem& problem = work.problem;
  const RowKernels<S>& kernels = row_kernels_for<S>(execution.instruction_set);
  const int64_t width = kernels.width;
  const std::vector<Walk> walks = plan_walks(problem);
  const int64_t group = DepthwiseRows<S>::group_channels(problem, kernels);
  WalkSums partial(problem.batch, problem.channels, group, walks.size(), 3);  // origin, sum, squares
  const TensorLines<S> source(problem.input, problem, kernels);
  std::vector<ReductionScratch<S>> scratch;
  const int64_t workers = workers_of(execution.threads);
  for (int64_t i = 0; i < workers; ++i)
    scratch.push_back({DepthwiseRows<S>(problem, kernels), {}, {}, {}, {}, {}, {}, {}, {}, {}});
  const S infinity = std::numeric_limits<S>::infinity();

  for_each_walk(
      problem, kernels, execution.threads, walks,
      [&](int worker, int64_t image, int64_t channel, int64_t count, const Walk& walk, int64_t walk_index) {
        ReductionScratch<S>& own = scratch[worker];
        own.rows.start(image, channel, count, walk.rate_index);
        own.parameters.load(problem, kernels, walk.rate_index, channel, count);
        own.weights.resize(kMaxKernel * kMaxKernel * width);
        own.sums.resize(2 * width);
        const int64_t vectors = own.rows.vectors(), blocks = own.rows.blocks();
        own.row.resize(vectors * width);
        own.a.resize(blocks * width);  // origins
        double* sums = partial.at(image, channel, walk_index);
        for (int64_t i = 0; i < walk.count; ++i) {
          Taps<S> taps = own.rows.taps(source, walk.first + i * walk.step);
          for (int64_t block = 0; block < blocks; ++block) {
            own.parameters.gather(taps, width, block, own.weights.data());
            kernels.combine(taps.run, own.weights.data(), taps.count, &own.parameters.scale[block * width],
                            &own.parameters.shift[block * width], -infinity, infinity, own.row.data(), vectors);
            for (int k = 0; k < taps.count; ++k) taps.run[k] += taps.block_stride;
            S* origin = &own.a[block * width];
            if (i == 0) {
              for (int64_t lane = 0; lane < width; ++lane) {
                origin[lane] = own.row[problem.layout == Layout::nchw ? 0 : lane];
                if (block * width + lane < group) sums[block * width + lane] = static_cast<double>(origin[lane]);
              }
            }
            if (problem.layout == Layout::nchw)
              std::fill(own.row.begin() + problem.out_width, own.row.end(), origin[0]);
            kernels.moments(own.row.data(), origin, vectors, own.sums.data());
            const int64_t channels = count - block * width;
            add_lanes(problem.layout, own.sums.data(), width, channels, sums + group + block * width);
            add_lanes(problem.layout, own.sums.data() + width, width, channels, sums + 2 * group + block * width);
          }
        }
      });

  // Chan, Golub, LeVeque 1979: moments of parts become those of the whole without cancellation.
  for (int64_t r = 0; r < problem.rates; ++r) {
    for (int64_t channel = 0; channel < problem.channels; ++channel) {
      double total = 0, mean = 0, squares = 0;
      for (int64_t image = 0; image < problem.batch; ++image) {
        for (size_t w = 0; w < walks.size(); ++w) {
          if (walks[w].rate_index != r) continue;
          const double* sums = partial.at(image, channel, w) + channel % group;
          const double n = static_cast<double>(walks[w].count * problem.out_width);
          const double part_mean = sums[0] + sums[group] / n;
          const double part_squares = sums[2 * group] - sums[group] * sums[group] / n;
          const double delta = part_mean - mean;
          total += n;
          mean += delta * n / total;
          squares += part_squares + delta * delta * n * (total - n) / total;
        }
      }
      static_cast<S*>(work.mean)[r * problem.channels + channel] = static_cast<S>(mean);
      static_cast<S*>(work.variance)[r * problem.channels + channel] = static_cast<S>(std::max(0.0, squares / total));
    }
  }
}

template <typename S>
void gradient(const DepthwiseGradient& work, const Execution& execution) {
  const DepthwiseProblem& problem = work.problem;
  const RowKernels<S>& kernels = row_kernels_for<S>(execution.instruction_set);
  const int64_t width = kernels.width;
  const int taps_count = problem.kernel * problem.kernel;
  const bool apply = work.dconv != nullptr;
  const int64_t values = apply ? 2 + taps_count : 2;
  const std::vector<Walk> walks = plan_walks(problem);
  const int64_t group = DepthwiseRows<S>::group_channels(problem, kernels);
  WalkSums partial(problem.batch, problem.channels, group, walks.size(), values);
  const TensorLines<S> source(problem.input, problem, kernels);
  const DepthwiseProblem out_problem = at_output_size(problem);
  const TensorLines<S> dy(work.dy, out_problem, kernels);
  const OutputShape shape{problem.dtype, problem.layout, problem.channels, problem.out_height, problem.out_width};
  const int64_t elements = problem.batch * problem.channels * problem.out_height * problem.out_width * problem.rates;
  const OutputRows<S> output(work.dconv, shape, kernels, elements);
  std::vector<ReductionScratch<S>> scratch;
  std::vector<OutputRows<S>> outputs(workers_of(execution.threads), output);
  for (size_t i = 0; i < outputs.size(); ++i)
    scratch.push_back({DepthwiseRows<S>(problem, kernels), {}, {}, {}, {}, {}, {}, {}, {}, {}});

  for_each_walk(problem, kernels, execution.threads, walks,
                [&](int worker, int64_t image, int64_t channel, int64_t count, const Walk& walk, int64_t walk_index) {
                  ReductionScratch<S>& own = scratch[worker];
                  own.rows.start(image, channel, count, walk.rate_index);
                  own.parameters.load(problem, kernels, walk.rate_index, channel, count);
                  const int64_t first = walk.rate_index * problem.channels + channel;
                  own.parameters.spread_channels(work.a, problem, kernels, first, count, S{0}, own.a);
                  own.parameters.spread_channels(work.b, problem, kernels, first, count, S{0}, own.b);
                  own.parameters.spread_channels(work.c, problem, kernels, first, count, S{0}, own.c);
                  own.weights.resize(kMaxKernel * kMaxKernel * width);
                  own.sums.resize(2 * width);
                  const int64_t vectors = own.rows.vectors(), blocks = own.rows.blocks();
                  own.row.resize(blocks * vectors * width);
                  own.dy.resize(blocks * vectors * width);
                  double* sums = partial.at(image, channel, walk_index);
                  const int64_t image_of_rate = walk.rate_index * problem.batch + image;
                  const S low = problem.activation.low, high = problem.activation.high;
                  for (int64_t i = 0; i < walk.count; ++i) {
                    const int64_t y = walk.first + i * walk.step;
                    pack_row(dy.line(image_of_rate, channel, count, y, own.line), problem.layout, kernels,
                             problem.out_width, count, vectors, own.dy.data());
                    Taps<S> taps = own.rows.taps(source, y);
                    for (int64_t block = 0; block < blocks; ++block) {
                      own.parameters.gather(taps, width, block, own.weights.data());
                      S* dconv = &own.row[block * vectors * width];
                      kernels.gradient(taps.run, own.weights.data(), taps.count, &own.parameters.scale[block * width],
                                       &own.parameters.shift[block * width], low, high, &own.a[block * width],
                                       &own.b[block * width], &own.c[block * width], &own.dy[block * vectors * width],
                                       dconv, vectors, own.sums.data());
                      const int64_t channels = count - block * width;
                      double* target = sums + block * width;
                      add_lanes(problem.layout, own.sums.data(), width, channels, target);
                      add_lanes(problem.layout, own.sums.data() + width, width, channels, target + group);
                      if (apply) {
                        if (problem.layout == Layout::nchw)
                          std::fill(dconv + problem.out_width, dconv + vectors * width, S{0});
                        for (int k = 0; k < taps.count; ++k) {
                          kernels.dot(dconv, taps.run[k], vectors, own.sums.data());
                          add_lanes(problem.layout, own.sums.data(), width, channels,
                                    target + (2 + taps.index[k]) * group);
                        }
                      }
                      for (int k = 0; k < taps.count; ++k) taps.run[k] += taps.block_stride;
                    }
                    if (apply) outputs[worker].store(image_of_rate, channel, count, y, own.row.data(), vectors * width);
                  }
                });

  for (int64_t r = 0; r < problem.rates; ++r) {
    for (int64_t channel = 0; channel < problem.channels; ++channel) {
      for (int64_t value = 0; value < values; ++value) {
        double sum = 0;
        for (int64_t image = 0; image < problem.batch; ++image) {
          for (size_t w = 0; w < walks.size(); ++w) {
            if (walks[w].rate_index == r) sum += partial.at(image, channel, w)[value * group + channel % group];
          }
        }
        const int64_t index = r * problem.channels + channel;
        if (value < 2) {
          static_cast<S*>(work.sums)[index * 2 + value] = static_cast<S>(sum);
        } else {
          static_cast<S*>(work.dweight)[index * taps_count + value - 2] = static_cast<S>(sum);
        }
      }
    }
  }
}

// Scatter: every row of dconv is added, times one weight, to the rows of dx that its taps read. One group of channels
// at a time, in a padded plane that holds dx in full precision until all rates have added their share.
template <typename S>
void input_gradient(const DepthwiseProblem& problem, void* dx, const Execution& execution) {
  const RowKernels<S>& kernels = row_kernels_for<S>(execution.instruction_set);
  const int64_t width = kernels.width;
  const bool nhwc = problem.layout == Layout::nhwc;
  const int64_t group = nhwc ? std::max<int64_t>(width, 16) : 1;
  const int64_t groups = (problem.channels + group - 1) / group;
  const int64_t lanes = nhwc ? width : 1;
  const DepthwiseProblem out_problem = at_output_size(problem);
  const TensorLines<S> dconv(problem.output, out_problem, kernels);
  const int64_t k = problem.kernel, stride = problem.stride;
  const int64_t last = (problem.out_width - 1) * stride;
  int64_t pad = 0, right = 0;
  for (int r = 0; r < problem.rates; ++r) {
    for (int64_t j = 0; j < k; ++j) {
      const int64_t offset = (j - k / 2) * problem.rate[r];
      if (last + offset < 0 || offset >= problem.width) continue;
      pad = std::max(pad, -offset);
      right = std::max(right, last + offset + 1 - problem.width);
    }
  }
  const int64_t plane_row = whole_lines<S>((pad + problem.width + right) * lanes + width);
  const OutputShape shape{problem.dtype, problem.layout, problem.channels, problem.height, problem.width};
  const OutputRows<S> output(dx, shape, kernels, problem.batch * problem.channels * problem.height * problem.width);
  struct Own {
    OutputRows<S> output;
    GroupParameters<S> parameters;
    Scratch<S> plane, row, line;
  };
  std::vector<Own> scratch(workers_of(execution.threads), Own{output, {}, {}, {}, {}});

  parallel_for(problem.batch * groups, 1, execution.threads, [&](int worker, int64_t begin, int64_t end) {
    Own& own = scratch[worker];
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t image = unit / groups, channel = unit % groups * group;
      const int64_t count = std::min(group, problem.channels - channel);
      const int64_t blocks = nhwc ? (count + width - 1) / width : 1;
      const int64_t vectors = nhwc ? problem.out_width : (problem.out_width + width - 1) / width;
      const int64_t block_stride = problem.height * plane_row;
      own.plane.assign(blocks * block_stride, S{0});
      own.row.resize(blocks * vectors * width);
      for (int r = 0; r < problem.rates; ++r) {
        own.parameters.load(problem, kernels, r, channel, count);
        const int64_t rate = problem.rate[r];
        for (int64_t y = 0; y < problem.out_height; ++y) {
          pack_row(dconv.line(r * problem.batch + image, channel, count, y, own.line), problem.layout, kernels,
                   problem.out_width, count, vectors, own.row.data());
          for (int64_t tap = 0; tap < k * k; ++tap) {
            const int64_t target_y = y * stride + (tap / k - k / 2) * rate;
            const int64_t offset = (tap % k - k / 2) * rate;
            if (target_y < 0 || target_y >= problem.height || last + offset < 0 || offset >= problem.width) continue;
            for (int64_t block = 0; block < blocks; ++block) {
              const S* weight = &own.parameters.weight[tap * own.parameters.lanes + block * width];
              const S* source = &own.row[block * vectors * width];
              S* target = &own.plane[block * block_stride + target_y * plane_row + (pad + offset) * lanes];
              if (stride == 1) {
                kernels.add_scaled(target, source, weight, vectors);
              } else if (nhwc) {
                for (int64_t x = 0; x < problem.out_width; ++x) {
                  kernels.add_scaled(target + x * stride * width, source + x * width, weight, 1);
                }
              } else {
                for (int64_t x = 0; x < problem.out_width; ++x) target[x * stride] += weight[0] * source[x];
              }
            }
          }
        }
      }
      for (int64_t y = 0; y < problem.height; ++y) {
        own.output.store(image, channel, count, y, &own.plane[y * plane_row + pad * lanes], block_stride);
      }
    }
  });
}

}  // namespace

void depthwise_statistics_cpu(const DepthwiseStatistics& work, const Execution& execution) {
  work.problem.dtype == DType::float64 ? statistics<double>(work, execution) : statistics<float>(work, execution);
}

void depthwise_gradient_cpu(const DepthwiseGradient& work, const Execution& execution) {
  work.problem.dtype == DType::float64 ? gradient<double>(work, execution) : gradient<float>(work, execution);
}

void depthwise_input_gradient_cpu(const DepthwiseProblem& problem, void* dx, const Execution& execution) {
  problem.dtype == DType::float64 ? input_gradient<double>(problem, dx, execution)
                                  : input_gradient<float>(problem, dx, execution);
}

}  // namespace deeplab
