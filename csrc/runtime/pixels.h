// SPDX-License-Identifier: Apache-2.0
// Images in memory: somebody's pixels as packed RGB, and the two 8-bit resizes of OpenCV that Python uses.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "deeplab/deeplab.h"
#include "runtime/manifest.h"

namespace deeplab::runtime {

// uint8 [height, width, 3] RGB, packed: the caller's own memory where it is that already, else a copy.
class Pixels {
 public:
  // Throws StatusError (DEEPLAB_IMAGE) for what is no image.
  explicit Pixels(const deeplab_image& image);
  Pixels(std::vector<uint8_t> copy, const Size& size) : copy_(std::move(copy)), data_(copy_.data()), size_(size) {}
  Pixels(Pixels&&) = default;  // a moved vector keeps its memory
  Pixels(const Pixels&) = delete;

  const uint8_t* data() const { return data_; }
  const Size& size() const { return size_; }

 private:
  std::vector<uint8_t> copy_;
  const uint8_t* data_ = nullptr;
  Size size_{};
};

// OpenCV's INTER_LINEAR, bit for bit (common/pixel_resize.h).
Pixels resize_pixels(const Pixels& pixels, const Size& size, int threads);

// OpenCV's INTER_NEAREST of [from.height, from.width] into [to.height, to.width].
template <typename T>
void resize_nearest(const T* source, const Size& from, T* target, const Size& to) {
  const auto places = [](int64_t in, int64_t out) {
    const double scale = 1.0 / (static_cast<double>(out) / static_cast<double>(in));
    std::vector<int64_t> found(out);
    for (int64_t i = 0; i < out; ++i) {
      const auto place = static_cast<int64_t>(static_cast<double>(i) * scale);
      found[i] = place < in - 1 ? place : in - 1;
    }
    return found;
  };
  const std::vector<int64_t> rows = places(from.height, to.height), columns = places(from.width, to.width);
  for (const int64_t row : rows) {
    for (const int64_t column : columns) *target++ = source[row * from.width + column];
  }
}

}  // namespace deeplab::runtime
