// SPDX-License-Identifier: Apache-2.0
// CPU: from packed rows to [N, C, H, W] memory of any storage type.
#pragma once

#include <algorithm>
#include <cstring>

#include "common/aligned.h"
#include "common/row_kernels.h"
#include "common/streaming.h"

namespace deeplab {

// Where the rows of one result lie.
struct OutputShape {
  DType dtype;
  Layout layout;
  int64_t channels, height, width;
};

template <typename S>
class OutputRows {
 public:
  OutputRows(void* data, const OutputShape& shape, const RowKernels<S>& kernels, int64_t total_elements)
      : data_(static_cast<char*>(data)),
        shape_(shape),
        kernels_(kernels),
        large_(total_elements * size_of(shape.dtype) >= kStreamBytes) {}

  // Address of row y of a channel (NCHW), or of the row's first pixel at that channel (NHWC).
  char* row(int64_t image, int64_t channel, int64_t y) const {
    const int64_t offset = shape_.layout == Layout::nhwc
                               ? ((image * shape_.height + y) * shape_.width) * shape_.channels + channel
                               : ((image * shape_.channels + channel) * shape_.height + y) * shape_.width;
    return data_ + offset * size_of(shape_.dtype);
  }

  // Whether combine() may write whole vectors of an NCHW row straight to memory.
  bool direct() const { return shape_.layout == Layout::nchw && size_of(shape_.dtype) == sizeof(S); }
  bool streams(const void* target) const {
    return large_ && reinterpret_cast<uintptr_t>(target) % (kernels_.width * sizeof(S)) == 0;
  }

  // Writes one packed row: NCHW `width` values; NHWC blocks of [width][lanes], block_stride apart, `count` channels.
  void store(int64_t image, int64_t channel, int64_t count, int64_t y, const S* packed, int64_t block_stride) {
    char* target = row(image, channel, y);
    const int64_t size = size_of(shape_.dtype);
    if (shape_.layout == Layout::nchw) {
      kernels_.narrow(shape_.dtype, packed, target, shape_.width);
      return;
    }
    const int64_t lanes = kernels_.width;
    const int64_t whole = count / lanes;
    if (size == sizeof(S)) {
      S* out = reinterpret_cast<S*>(target);
      const bool stream = streams(out) && shape_.channels % lanes == 0;
      kernels_.copy_vectors(packed, lanes, block_stride, out, shape_.channels, lanes, shape_.width, whole, stream);
      if (whole * lanes == count) return;
      for (int64_t x = 0; x < shape_.width; ++x) {
        std::copy_n(packed + whole * block_stride + x * lanes, count - whole * lanes,
                    out + x * shape_.channels + whole * lanes);
      }
      return;
    }
    const int64_t blocks = (count + lanes - 1) / lanes;
    pixel_.resize(blocks * lanes);
    for (int64_t x = 0; x < shape_.width; ++x) {
      kernels_.copy_vectors(packed + x * lanes, 0, block_stride, pixel_.data(), 0, lanes, 1, blocks, false);
      kernels_.narrow(shape_.dtype, pixel_.data(), target + x * shape_.channels * size, count);
    }
  }

 private:
  char* data_;
  OutputShape shape_;
  const RowKernels<S>& kernels_;
  bool large_;
  Scratch<S> pixel_;
};

}  // namespace deeplab
