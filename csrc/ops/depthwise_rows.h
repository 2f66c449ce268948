// SPDX-License-Identifier: Apache-2.0
// CPU: the input rows under one output row of an atrous convolution, packed so that every tap is one run of vectors.
//
// An output row y reads input rows y * s + (i - k/2) * rate. Output rows whose distance is a multiple of the rate share
// input rows, so the work is cut into walks y = a, a + rate, a + 2 rate, ...: a ring of k packed rows then holds all
// that is needed, and every input row is packed once. Taps that see only padding are never computed.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "common/aligned.h"
#include "common/row_kernels.h"
#include "ops/depthwise.h"

namespace deeplab {

// Longest walk: long enough to hide the k - 1 rows that two neighbouring walks both pack, short enough to share out.
constexpr int64_t kWalkRows = 32;
constexpr int64_t kGroupChannels = 128;

// Output rows first, first + step, ... (count of them), for one rate.
struct Walk {
  int rate_index;
  int64_t first, step, count;
};

inline std::vector<Walk> plan_walks(const DepthwiseProblem& problem) {
  std::vector<Walk> walks;
  for (int r = 0; r < problem.rates; ++r) {
    const int64_t step = std::min(problem.rate[r] / std::gcd(problem.rate[r], problem.stride), problem.out_height);
    for (int64_t first = 0; first < step; ++first) {
      const int64_t rows = (problem.out_height - first + step - 1) / step;
      for (int64_t begin = 0; begin < rows; begin += kWalkRows) {
        walks.push_back({r, first + begin * step, step, std::min(kWalkRows, rows - begin)});
      }
    }
  }
  return walks;
}

// One line of the input: `pixels` at `pixel_stride`, each with the channels of the group.
template <typename S>
struct Line {
  const S* data;
  int64_t pixel_stride;
};

// Lines of a tensor in memory; types other than S are widened into scratch.
template <typename S>
class TensorLines {
 public:
  TensorLines(const void* data, const DepthwiseProblem& problem, const RowKernels<S>& kernels)
      : data_(static_cast<const char*>(data)), problem_(problem), kernels_(kernels) {}

  Line<S> line(int64_t image, int64_t channel, int64_t count, int64_t y, Scratch<S>& scratch) const {
    const bool nhwc = problem_.layout == Layout::nhwc;
    const int64_t row = nhwc ? ((image * problem_.height + y) * problem_.width) * problem_.channels + channel
                             : ((image * problem_.channels + channel) * problem_.height + y) * problem_.width;
    const int64_t size = size_of(problem_.dtype);
    const char* source = data_ + row * size;
    const int64_t pixel_stride = nhwc ? problem_.channels : 1;
    if (size == sizeof(S)) return {reinterpret_cast<const S*>(source), pixel_stride};
    const int64_t width = problem_.width;
    if (!nhwc || count == problem_.channels) {
      scratch.resize(width * count);
      kernels_.widen(problem_.dtype, source, scratch.data(), width * count);
    } else {
      scratch.resize(width * count);
      for (int64_t x = 0; x < width; ++x) {
        kernels_.widen(problem_.dtype, source + x * pixel_stride * size, scratch.data() + x * count, count);
      }
    }
    return {scratch.data(), count};
  }

  // NCHW: the same straight into a packed row.
  void fill_row(int64_t image, int64_t channel, int64_t y, S* target) const {
    const int64_t row = ((image * problem_.channels + channel) * problem_.height + y) * problem_.width;
    kernels_.widen(problem_.dtype, data_ + row * size_of(problem_.dtype), target, problem_.width);
  }

 private:
  const char* data_;
  const DepthwiseProblem& problem_;
  const RowKernels<S>& kernels_;
};

// Taps of one output row: `count` runs of vectors, for the first block of channels.
template <typename S>
struct Taps {
  const S* run[kMaxKernel * kMaxKernel];
  int index[kMaxKernel * kMaxKernel];  // i * k + j of each
  int count;
  int64_t block_stride;  // from a block of channels to the next
};

template <typename S>
class DepthwiseRows {
 public:
  DepthwiseRows(const DepthwiseProblem& problem, const RowKernels<S>& kernels)
      : problem_(problem), kernels_(kernels), nhwc_(problem.layout == Layout::nhwc) {
    lanes_ = nhwc_ ? kernels.width : 1;
  }

  // Channels handled together; 1 in NCHW.
  static int64_t group_channels(const DepthwiseProblem& problem, const RowKernels<S>& kernels) {
    if (problem.layout == Layout::nchw) return 1;
    const int64_t all = (problem.channels + kernels.width - 1) / kernels.width * kernels.width;
    return std::min(all, std::max<int64_t>(kernels.width, kGroupChannels));
  }

  // Begin a walk over channels [channel, channel + count) of one image.
  void start(int64_t image, int64_t channel, int64_t count, int rate_index) {
    image_ = image;
    channel_ = channel;
    count_ = count;
    rate_ = problem_.rate[rate_index];
    blocks_ = nhwc_ ? (count + lanes_ - 1) / lanes_ : 1;
    plan_columns();
    std::fill(row_in_slot_, row_in_slot_ + kMaxKernel, -1);
  }

  template <typename Source>
  Taps<S> taps(const Source& source, int64_t y) {
    Taps<S> taps{};
    taps.block_stride = block_stride_;
    const int k = problem_.kernel;
    for (int i = 0; i < k; ++i) {
      const int64_t row = y * problem_.stride + (i - k / 2) * rate_;
      if (row < 0 || row >= problem_.height) continue;
      const S* packed = packed_row(source, row);
      for (int j = 0; j < k; ++j) {
        if (!column_used_[j]) continue;
        taps.run[taps.count] = packed + column_offset_[j];
        taps.index[taps.count++] = i * k + j;
      }
    }
    return taps;
  }

  int64_t blocks() const { return blocks_; }
  // Vectors of one output row of one block.
  int64_t vectors() const {
    return nhwc_ ? problem_.out_width : (problem_.out_width + kernels_.width - 1) / kernels_.width;
  }

 private:
  // A tap column is used if it meets the image anywhere. Columns are split by their phase modulo the stride, so that
  // a tap's pixels are neighbours.
  void plan_columns() {
    const int k = problem_.kernel;
    const int64_t stride = problem_.stride;
    const int64_t last = (problem_.out_width - 1) * stride;
    int64_t right = 0;
    pad_ = 0;
    for (int j = 0; j < k; ++j) {
      const int64_t offset = (j - k / 2) * rate_;
      column_used_[j] = last + offset >= 0 && offset < problem_.width;
      if (!column_used_[j]) continue;
      pad_ = std::max(pad_, -offset);
      right = std::max(right, last + offset + 1 - problem_.width);
    }
    phase_length_ = (problem_.width + pad_ + std::max<int64_t>(right, 0) + stride - 1) / stride;
    for (int j = 0; j < k; ++j) {
      const int64_t position = pad_ + (j - k / 2) * rate_;
      if (column_used_[j]) column_offset_[j] = ((position % stride) * phase_length_ + position / stride) * lanes_;
    }
    // One vector of slack: the last vector of a row may read past it.
    const int64_t block = whole_lines<S>(phase_length_ * stride * lanes_ + kernels_.width);
    const int64_t needed = block * blocks_ * k;
    if (block != block_stride_ || pad_ != zeroed_pad_ || static_cast<int64_t>(ring_.size()) < needed) {
      ring_.assign(std::max<int64_t>(needed, ring_.size()), S{0});
      zeroed_pad_ = pad_;
    }
    block_stride_ = block;
  }

  template <typename Source>
  const S* packed_row(const Source& source, int64_t row) {
    int slot = 0;
    for (int i = 0; i < problem_.kernel; ++i) {
      if (row_in_slot_[i] == row) return ring_.data() + i * block_stride_ * blocks_;
      if (row_in_slot_[i] < row_in_slot_[slot]) slot = i;
    }
    row_in_slot_[slot] = row;
    S* target = ring_.data() + slot * block_stride_ * blocks_;
    pack(source.line(image_, channel_, count_, row, scratch_), target);
    return target;
  }

  void pack(const Line<S>& line, S* target) const {
    const int64_t stride = problem_.stride;
    if (!nhwc_) {
      if (stride == 1) {
        std::memcpy(target + pad_, line.data, problem_.width * sizeof(S));
        return;
      }
      for (int64_t x = 0; x < problem_.width; ++x) {
        target[(x + pad_) % stride * phase_length_ + (x + pad_) / stride] = line.data[x];
      }
      return;
    }
    const int64_t whole = count_ / lanes_;
    for (int64_t phase = 0; phase < std::min(stride, problem_.width); ++phase) {
      const int64_t pixels = (problem_.width - phase + stride - 1) / stride;
      S* to = target + ((phase + pad_) % stride * phase_length_ + (phase + pad_) / stride) * lanes_;
      const S* from = line.data + phase * line.pixel_stride;
      kernels_.copy_vectors(from, stride * line.pixel_stride, lanes_, to, lanes_, block_stride_, pixels, whole, false);
      for (int64_t x = 0; x < pixels && whole < blocks_; ++x) {
        const S* rest = from + x * stride * line.pixel_stride + whole * lanes_;
        std::copy_n(rest, count_ - whole * lanes_, to + whole * block_stride_ + x * lanes_);
      }
    }
  }

  const DepthwiseProblem& problem_;
  const RowKernels<S>& kernels_;
  bool nhwc_;
  int64_t lanes_ = 1, image_ = 0, channel_ = 0, count_ = 1, blocks_ = 1, rate_ = 1;
  int64_t pad_ = 0, phase_length_ = 0, block_stride_ = -1, zeroed_pad_ = -1;
  bool column_used_[kMaxKernel] = {};
  int64_t column_offset_[kMaxKernel] = {};
  int64_t row_in_slot_[kMaxKernel] = {};
  Scratch<S> ring_, scratch_;
};

// Per-vector parameters of a group: value(channel) in every lane (NCHW) or one channel a lane (NHWC), zero past the
// last channel. Returns blocks x width values.
template <typename S, typename Value>
void spread(const RowKernels<S>& kernels, Layout layout, int64_t count, const Value& value, S* target) {
  const int64_t width = kernels.width;
  if (layout == Layout::nchw) {
    std::fill_n(target, width, value(0));
    return;
  }
  for (int64_t lane = 0; lane < (count + width - 1) / width * width; ++lane) {
    target[lane] = lane < count ? value(lane) : S{0};
  }
}

}  // namespace deeplab
