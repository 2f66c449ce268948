// SPDX-License-Identifier: Apache-2.0
// Bilinear resizing of uint8 pixels in the fixed-point arithmetic of OpenCV's INTER_LINEAR, bit for bit: networks were
// trained and evaluated on images resized that way. Eleven bits of weight an axis, rounded once at the end.
#pragma once

#include <cmath>
#include <cstdint>

#include "common/position.h"

namespace deeplab {

constexpr int kWeightOne = 2048;

struct PixelTaps {
  int32_t low, high;  // positions
  int32_t low_weight, high_weight;
};

// No fused multiply-add may creep in: the position is a double product and a double difference, then a float.
DEEPLAB_HD PixelTaps pixel_taps(int64_t in, int64_t out, int64_t i, bool horizontal) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
#if defined(__CUDA_ARCH__)
  const float position = static_cast<float>(__dadd_rn(__dmul_rn(static_cast<double>(i) + 0.5, scale), -0.5));
#else
  const double product = (static_cast<double>(i) + 0.5) * scale;
  const float position = static_cast<float>(product - 0.5);
#endif
  const float whole = floorf(position);
  float fraction = position - whole;
  int64_t low = static_cast<int64_t>(whole);
  int64_t high = low + 1;
  // Columns outside take the border's pixel alone; rows outside blend it with itself, which rounds differently.
  if (horizontal && low < 0) low = 0, fraction = 0;
  if (horizontal && low >= in - 1) low = in - 1, fraction = 0;
  low = low < 0 ? 0 : low > in - 1 ? in - 1 : low;
  high = high < 0 ? 0 : high > in - 1 ? in - 1 : high;
  return {static_cast<int32_t>(low), static_cast<int32_t>(high),
          static_cast<int32_t>(rintf((1.0f - fraction) * kWeightOne)),
          static_cast<int32_t>(rintf(fraction * kWeightOne))};
}

// One pixel value from two values of the rows above and below, each already combined along x.
DEEPLAB_HD int32_t blend_rows(int32_t low, int32_t high, const PixelTaps& row) {
  const int32_t value = ((row.low_weight * (low >> 4)) >> 16) + ((row.high_weight * (high >> 4)) >> 16);
  return (value + 2) >> 2;
}

}  // namespace deeplab
