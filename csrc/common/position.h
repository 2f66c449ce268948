// SPDX-License-Identifier: Apache-2.0
// Where a bilinear resize reads: exact integer arithmetic, the same on the CPU and on the GPU.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define DEEPLAB_HD __host__ __device__ inline
#else
#define DEEPLAB_HD inline
#endif

namespace deeplab {

// One axis of torch.nn.functional.interpolate(mode="bilinear"). Output i samples the input at the rational position
// max(0, i * step + offset) / denominator:
//   align_corners      i * (in - 1) / (out - 1)
//   otherwise          ((2 i + 1) * in - out) / (2 out)
struct ResizeAxis {
  int64_t in, out, step, offset, denominator;
  float inverse;  // 1 / denominator
};

inline ResizeAxis resize_axis(int64_t in, int64_t out, bool align_corners) {
  const int64_t denominator = align_corners ? (out > 1 ? out - 1 : 1) : 2 * out;
  const float inverse = 1.0f / static_cast<float>(denominator);
  if (align_corners) return {in, out, in - 1, 0, denominator, inverse};
  return {in, out, 2 * in, in - out, denominator, inverse};
}

struct Position {
  int64_t low, high;
  float fraction;  // value = (1 - fraction) * input[low] + fraction * input[high]
  int64_t rest;    // fraction = rest / axis.denominator, for those who need more than float32
};

DEEPLAB_HD Position position_of(const ResizeAxis& axis, int64_t i) {
  int64_t numerator = i * axis.step + axis.offset;
  if (numerator < 0) numerator = 0;
  // Exact division from a guess that is off by one at most for positions below 2^21: a GPU has no integer division.
  int64_t low = static_cast<int64_t>(static_cast<float>(numerator) * axis.inverse);
  int64_t rest = numerator - low * axis.denominator;
  while (rest < 0) {
    rest += axis.denominator;
    --low;
  }
  while (rest >= axis.denominator) {
    rest -= axis.denominator;
    ++low;
  }
  if (low >= axis.in - 1) return {axis.in - 1, axis.in - 1, 0.0f, 0};
  return {low, low + 1, static_cast<float>(rest) / static_cast<float>(axis.denominator), rest};
}

}  // namespace deeplab
