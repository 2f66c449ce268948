// SPDX-License-Identifier: Apache-2.0
#include "runtime/pixels.h"

#include <algorithm>
#include <cstdlib>

#include "common/parallel.h"
#include "common/pixel_resize.h"
#include "runtime/error.h"

namespace deeplab::runtime {
namespace {

constexpr int64_t kMaxPixels = int64_t{1} << 31;

// Distances in bytes, with the defaults put in.
struct Strides {
  int64_t row, pixel;
};

Strides check_image(const deeplab_image& image) {
  constexpr deeplab_status bad = DEEPLAB_IMAGE;
  require(image.data != nullptr, bad, "the image has no data");
  require(image.height >= 1 && image.width >= 1, bad, "the image is empty: ", image.height, " x ", image.width);
  require(image.height <= kMaxPixels / image.width, bad, "the image is ", image.height, " x ", image.width,
          "; at most 2^31 pixels are accepted");
  require(image.color == DEEPLAB_RGB || image.color == DEEPLAB_BGR, bad, "color ", image.color,
          " is not DEEPLAB_RGB or DEEPLAB_BGR");
  const int64_t pixel = image.pixel_stride == 0 ? 3 : image.pixel_stride;
  require(pixel >= 3 && pixel <= 4096, bad, "pixel_stride ", pixel, " is not 3 (RGB), 4 (RGBA) or more, up to 4096");
  const int64_t row = image.row_stride == 0 ? image.width * pixel : image.row_stride;
  constexpr int64_t most = int64_t{1} << 46;
  require(row >= -most && row <= most, bad, "row_stride ", row, " is beyond any memory");
  const int64_t least = (image.width - 1) * pixel + 3;
  require(image.height == 1 || std::abs(row) >= least, bad, "row_stride ", row, " is too short: a row of ",
          image.width, " pixels, ", pixel, " bytes apart, has ", least, " bytes");
  return {row, pixel};
}

}  // namespace

Pixels::Pixels(const deeplab_image& image) : size_{image.height, image.width} {
  const Strides strides = check_image(image);
  if (image.color == DEEPLAB_RGB && strides.pixel == 3 && (strides.row == image.width * 3 || image.height == 1)) {
    data_ = image.data;
    return;
  }
  copy_.resize(image.height * image.width * 3);
  uint8_t* target = copy_.data();
  const int red = image.color == DEEPLAB_BGR ? 2 : 0;
  for (int64_t y = 0; y < image.height; ++y) {
    const uint8_t* source = image.data + y * strides.row;
    for (int64_t x = 0; x < image.width; ++x, source += strides.pixel, target += 3) {
      target[0] = source[red];
      target[1] = source[1];
      target[2] = source[2 - red];
    }
  }
  data_ = copy_.data();
}

Pixels resize_pixels(const Pixels& pixels, const Size& size, int threads) {
  const Size from = pixels.size();
  std::vector<PixelTaps> columns;
  columns.reserve(size.width);
  for (int64_t x = 0; x < size.width; ++x) columns.push_back(pixel_taps(from.width, size.width, x, true));
  std::vector<uint8_t> result(size.height * size.width * 3);
  const int64_t grain = std::max<int64_t>(1, 200'000 / (size.width * 3));
  parallel_for(size.height, grain, threads, [&](int, int64_t begin, int64_t end) {
    std::vector<int32_t> rows[2];
    int64_t held[2] = {-1, -1};  // source row of each
    // Source row resized along x, kept for the next output row; never in the slot that holds `other`.
    const auto widened = [&](int64_t row, int64_t other) -> const std::vector<int32_t>& {
      for (int slot : {0, 1}) {
        if (held[slot] == row) return rows[slot];
      }
      const int slot = held[0] == other ? 1 : 0;
      rows[slot].resize(size.width * 3);
      const uint8_t* source = pixels.data() + row * from.width * 3;
      int32_t* target = rows[slot].data();
      for (const PixelTaps& taps : columns) {
        const uint8_t *low = source + taps.low * 3, *high = source + taps.high * 3;
        for (int c = 0; c < 3; ++c) *target++ = low[c] * taps.low_weight + high[c] * taps.high_weight;
      }
      held[slot] = row;
      return rows[slot];
    };
    for (int64_t y = begin; y < end; ++y) {
      const PixelTaps taps = pixel_taps(from.height, size.height, y, false);
      const int32_t* low = widened(taps.low, taps.high).data();
      const int32_t* high = widened(taps.high, taps.low).data();
      uint8_t* target = result.data() + y * size.width * 3;
      for (int64_t i = 0; i < size.width * 3; ++i) target[i] = static_cast<uint8_t>(blend_rows(low[i], high[i], taps));
    }
  });
  return {std::move(result), size};
}

}  // namespace deeplab::runtime
