// SPDX-License-Identifier: Apache-2.0
// CPU: the loop over images, groups of channels, rates and walks that depthwise operators share.
#pragma once

#include <vector>

#include "common/parallel.h"
#include "ops/depthwise.h"
#include "ops/depthwise_output.h"
#include "ops/depthwise_rows.h"

namespace deeplab {

// Outputs that one thread makes in the time that starting another takes.
constexpr int64_t kSmallWork = 400'000;

// Calls body(worker, image, channel, count, walk, walk_index) for every group of channels and walk, on several threads;
// walks of one group follow each other on one thread where there are groups enough, so that its rows stay in cache.
template <typename S, typename Body>
void for_each_walk(const DepthwiseProblem& problem, const RowKernels<S>& kernels, int threads,
                   const std::vector<Walk>& walks, const Body& body) {
  const int64_t group = DepthwiseRows<S>::group_channels(problem, kernels);
  const int64_t groups = (problem.channels + group - 1) / group;
  const int64_t units = problem.batch * groups;
  const auto per_unit = static_cast<int64_t>(walks.size());
  const int64_t wanted = threads > 0 ? threads : available_threads();
  const int64_t work = problem.batch * problem.channels * problem.out_height * problem.out_width * problem.rates;
  const int workers = work < kSmallWork ? 1 : static_cast<int>(wanted);
  const int64_t grain = units >= 4 * wanted ? per_unit : 1;
  parallel_for(units * per_unit, grain, workers, [&](int worker, int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t unit = task / per_unit;
      const int64_t channel = unit % groups * group;
      body(worker, unit / groups, channel, std::min(group, problem.channels - channel), walks[task % per_unit],
           task % per_unit);
    }
  });
}

inline int64_t workers_of(int threads) {
  return threads > 0 ? threads : available_threads();
}

// Parameters of one group and rate, spread over lanes.
template <typename S>
struct GroupParameters {
  Scratch<S> weight, scale, shift;  // weight: [k * k][blocks * width]
  int64_t lanes;                    // blocks * width

  void load(const DepthwiseProblem& problem, const RowKernels<S>& kernels, int rate_index, int64_t channel,
            int64_t count) {
    const int64_t width = kernels.width;
    const int taps = problem.kernel * problem.kernel;
    lanes = problem.layout == Layout::nchw ? width : (count + width - 1) / width * width;
    const int64_t first = rate_index * problem.channels + channel;
    weight.resize(taps * lanes);
    for (int k = 0; k < taps; ++k) {
      const S* source = static_cast<const S*>(problem.weight) + first * taps + k;
      spread(
          kernels, problem.layout, count, [&](int64_t c) { return source[c * taps]; }, &weight[k * lanes]);
    }
    spread_channels(problem.scale, problem, kernels, first, count, S{1}, scale);
    spread_channels(problem.shift, problem, kernels, first, count, S{0}, shift);
  }

  // Weights of one block for the taps that a row uses, [count][width].
  void gather(const Taps<S>& taps, int64_t width, int64_t block, S* target) const {
    for (int i = 0; i < taps.count; ++i) {
      std::copy_n(&weight[taps.index[i] * lanes + block * width], width, target + i * width);
    }
  }

  void spread_channels(const void* values, const DepthwiseProblem& problem, const RowKernels<S>& kernels, int64_t first,
                       int64_t count, S otherwise, Scratch<S>& target) const {
    target.resize(lanes);
    const S* source = static_cast<const S*>(values);
    spread(
        kernels, problem.layout, count, [&](int64_t c) { return source == nullptr ? otherwise : source[first + c]; },
        target.data());
  }
};

template <typename S>
struct WalkScratch {
  DepthwiseRows<S> rows;
  OutputRows<S> output;
  GroupParameters<S> parameters;
  Scratch<S> packed, weights;
  int64_t group = -1;  // image, channels and rate whose parameters are loaded
};

// Taps of whole columns: which of the k meet the image, and where they begin in a packed row that has `pad` zeros in
// front of the pixels, split by phase modulo the stride.
struct ColumnTaps {
  bool used[kMaxKernel];
  int64_t offset[kMaxKernel];
};

// NCHW: a band of one channel's rows is packed with zeros at both ends; every rate then runs over it, all rows that use
// the same taps in one call. A band that stays in the second-level cache serves all taps of all rates.
constexpr int64_t kBandBytes = int64_t{192} << 10;

template <typename S, typename Source>
void run_depthwise_planes(const DepthwiseProblem& problem, const RowKernels<S>& kernels, const Execution& execution,
                          const Source& source) {
  const int k = problem.kernel;
  const int64_t stride = problem.stride, width = kernels.width;
  const int64_t last_x = (problem.out_width - 1) * stride;
  int64_t pad = 0, right = 0, reach = 0;
  ColumnTaps columns[kMaxRates] = {};
  for (int r = 0; r < problem.rates; ++r) {
    for (int j = 0; j < k; ++j) {
      const int64_t offset = (j - k / 2) * problem.rate[r];
      columns[r].used[j] = last_x + offset >= 0 && offset < problem.width;
      if (columns[r].used[j])
        pad = std::max(pad, -offset), right = std::max(right, last_x + offset + 1 - problem.width);
    }
    reach = std::max(reach, std::min<int64_t>(k / 2 * problem.rate[r], problem.height));
  }
  pad = whole_lines<S>(pad);  // pixels, and taps whose rate is a multiple of a line, stay aligned
  const int64_t phase_length = (pad + problem.width + std::max<int64_t>(right, 0) + stride - 1) / stride;
  const int64_t row_length = whole_lines<S>(phase_length * stride + width);  // a vector of slack at the end
  for (int r = 0; r < problem.rates; ++r) {
    for (int j = 0; j < k; ++j) {
      const int64_t position = pad + (j - k / 2) * problem.rate[r];
      if (columns[r].used[j]) columns[r].offset[j] = position % stride * phase_length + position / stride;
    }
  }
  // Neighbouring bands both pack `reach` rows: a band shorter than that would cost more than a plane out of cache.
  const int64_t fitting = kBandBytes / (row_length * static_cast<int64_t>(sizeof(S))) - 2 * reach;
  const int64_t band_rows = fitting >= 2 * reach && fitting >= 8 ? fitting / stride : problem.out_height;
  const int64_t bands = (problem.out_height + band_rows - 1) / band_rows;

  const OutputShape shape{problem.dtype, problem.layout, problem.channels, problem.out_height, problem.out_width};
  const int64_t per_rate = problem.batch * problem.channels * problem.out_height * problem.out_width;
  const OutputRows<S> output(problem.output, shape, kernels, per_rate * problem.rates);
  const bool direct = output.direct();
  struct Own {
    Scratch<S> band, line, weights, result;
    GroupParameters<S> parameters;
  };
  const bool small = per_rate * problem.rates < kSmallWork;
  const int workers = small ? 1 : static_cast<int>(workers_of(execution.threads));
  std::vector<Own> scratch(workers);
  const int64_t tasks = problem.batch * problem.channels * bands;
  const int64_t piece = std::max<int64_t>(1, 200'000 / (band_rows * problem.out_width * problem.rates));

  parallel_for(tasks, piece, workers, [&](int worker, int64_t begin, int64_t end) {
    Own& own = scratch[worker];
    own.weights.resize(k * k * width);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t plane = task / bands, image = plane / problem.channels, channel = plane % problem.channels;
      const int64_t y_begin = task % bands * band_rows;
      const int64_t y_end = std::min(y_begin + band_rows, problem.out_height);
      const int64_t first = std::max<int64_t>(0, y_begin * stride - reach);
      const int64_t last = std::min(problem.height, (y_end - 1) * stride + reach + 1);
      const auto needed = static_cast<size_t>((last - first) * row_length);
      if (own.band.size() < needed) own.band.assign(needed, S{0});  // the zeros at the ends stay
      for (int64_t row = first; row < last; ++row) {
        S* target = &own.band[(row - first) * row_length];
        if (stride == 1) {
          source.fill_row(image, channel, row, target + pad);
        } else {
          const Line<S> line = source.line(image, channel, 1, row, own.line);
          for (int64_t x = 0; x < problem.width; ++x) {
            target[(x + pad) % stride * phase_length + (x + pad) / stride] = line.data[x];
          }
        }
      }
      for (int r = 0; r < problem.rates; ++r) {
        own.parameters.load(problem, kernels, r, channel, 1);
        // Rows between two of these borders use the same taps.
        int64_t borders[2 * kMaxKernel + 2];
        int count = 0;
        borders[count++] = y_begin;
        borders[count++] = y_end;
        for (int i = 0; i < k; ++i) {
          const int64_t offset = (i - k / 2) * problem.rate[r];
          const int64_t border =
              offset < 0 ? (-offset + stride - 1) / stride : (problem.height - offset - 1) / stride + 1;
          if (offset < problem.height && border > y_begin && border < y_end) borders[count++] = border;
        }
        std::sort(borders, borders + count);
        for (int segment = 0; segment + 1 < count; ++segment) {
          const int64_t y = borders[segment], rows = borders[segment + 1] - y;
          if (rows == 0) continue;
          Taps<S> taps{};
          for (int i = 0; i < k; ++i) {
            const int64_t row = y * stride + (i - k / 2) * problem.rate[r];
            if (row < 0 || row >= problem.height) continue;
            for (int j = 0; j < k; ++j) {
              if (!columns[r].used[j]) continue;
              taps.run[taps.count] = &own.band[(row - first) * row_length + columns[r].offset[j]];
              taps.index[taps.count++] = i * k + j;
            }
          }
          own.parameters.gather(taps, width, 0, own.weights.data());
          const int64_t image_of_rate = r * problem.batch + image;
          S* target = reinterpret_cast<S*>(output.row(image_of_rate, channel, y));
          const bool past_caches = direct && output.streams(target) && problem.out_width % width == 0;
          if (!direct) {
            own.result.resize(rows * problem.out_width);
            target = own.result.data();
          }
          kernels.combine_rows(taps.run, own.weights.data(), taps.count, own.parameters.scale.data(),
                               own.parameters.shift.data(), static_cast<S>(problem.activation.low),
                               static_cast<S>(problem.activation.high), target, problem.out_width, rows,
                               row_length * stride, problem.out_width, past_caches);
          if (!direct) {
            kernels.narrow(problem.dtype, target, output.row(image_of_rate, channel, y), rows * problem.out_width);
          }
        }
      }
    }
  });
}

// NHWC: walks over groups of channels (depthwise_rows.h).
template <typename S, typename Source>
void run_depthwise_walks(const DepthwiseProblem& problem, const RowKernels<S>& kernels, const Execution& execution,
                         const Source& source) {
  const std::vector<Walk> walks = plan_walks(problem);
  const OutputShape shape{problem.dtype, problem.layout, problem.channels, problem.out_height, problem.out_width};
  const int64_t per_rate = problem.batch * problem.channels * problem.out_height * problem.out_width;
  const OutputRows<S> output(problem.output, shape, kernels, per_rate * problem.rates);
  std::vector<WalkScratch<S>> scratch;
  const int64_t workers = workers_of(execution.threads);
  for (int64_t i = 0; i < workers; ++i) scratch.push_back({DepthwiseRows<S>(problem, kernels), output, {}, {}, {}, -1});
  const int64_t width = kernels.width;
  const int all_taps = problem.kernel * problem.kernel;
  const S low = problem.activation.low, high = problem.activation.high;

  for_each_walk(problem, kernels, execution.threads, walks,
                [&](int worker, int64_t image, int64_t channel, int64_t count, const Walk& walk, int64_t) {
                  WalkScratch<S>& own = scratch[worker];
                  own.rows.start(image, channel, count, walk.rate_index);
                  const int64_t group = channel * problem.rates + walk.rate_index;
                  if (group != own.group) own.parameters.load(problem, kernels, walk.rate_index, channel, count);
                  own.group = group;
                  const int64_t vectors = own.rows.vectors(), blocks = own.rows.blocks();
                  const int64_t block_stride = vectors * width;
                  own.packed.resize(blocks * block_stride);
                  own.weights.resize(blocks * all_taps * width);
                  int gathered_first = -1, gathered_count = -1;  // taps whose weights lie in own.weights
                  const int64_t image_of_rate = walk.rate_index * problem.batch + image;
                  for (int64_t i = 0; i < walk.count; ++i) {
                    const int64_t y = walk.first + i * walk.step;
                    Taps<S> taps = own.rows.taps(source, y);
                    if (taps.index[0] != gathered_first || taps.count != gathered_count) {
                      for (int64_t block = 0; block < blocks; ++block) {
                        own.parameters.gather(taps, width, block, &own.weights[block * all_taps * width]);
                      }
                      gathered_first = taps.index[0];
                      gathered_count = taps.count;
                    }
                    for (int64_t block = 0; block < blocks; ++block) {
                      kernels.combine(taps.run, &own.weights[block * all_taps * width], taps.count,
                                      &own.parameters.scale[block * width], &own.parameters.shift[block * width], low,
                                      high, own.packed.data() + block * block_stride, vectors);
                      for (int k = 0; k < taps.count; ++k) taps.run[k] += taps.block_stride;
                    }
                    own.output.store(image_of_rate, channel, count, y, own.packed.data(), block_stride);
                  }
                });
}

template <typename S, typename Source>
void run_depthwise(const DepthwiseProblem& problem, const Execution& execution, const Source& source) {
  const RowKernels<S>& kernels = row_kernels_for<S>(execution.instruction_set);
  if (problem.layout == Layout::nchw) {
    run_depthwise_planes(problem, kernels, execution, source);
  } else {
    run_depthwise_walks(problem, kernels, execution, source);
  }
}

}  // namespace deeplab
