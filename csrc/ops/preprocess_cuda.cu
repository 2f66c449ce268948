// SPDX-License-Identifier: Apache-2.0
// preprocess() on the GPU: one thread a pixel of the output; 12 byte loads (from cache but for the first), 3 stores.
#include "common/launch.cuh"
#include "common/pixel_resize.h"
#include "common/vector.cuh"
#include "ops/preprocess.h"

namespace deeplab {
namespace {

template <typename T>
struct Preprocess {
  static constexpr int threads = 256;
  static constexpr int blocks_per_multiprocessor = 4;

  PreprocessProblem problem;

  __host__ __device__ int64_t blocks_per_row() const { return (problem.width + threads - 1) / threads; }
  int64_t blocks() const { return problem.batch * problem.height * blocks_per_row(); }

  DEEPLAB_DEVICE void operator()(uint32_t block, int thread) const {
    const uint32_t per_row = static_cast<uint32_t>(blocks_per_row());
    const int64_t x = int64_t{block % per_row} * threads + thread;
    if (x >= problem.width) return;
    int64_t y = block / per_row;
    const int64_t image = take_quotient(y, problem.height);
    const uint8_t* source = problem.images + image * problem.in_height * problem.in_width * 3;
    int32_t pixel[3];
    if (problem.in_height == problem.height && problem.in_width == problem.width) {
      for (int c = 0; c < 3; ++c) pixel[c] = source[(y * problem.width + x) * 3 + c];
    } else {
      const PixelTaps rows = pixel_taps(problem.in_height, problem.height, y, false);
      const PixelTaps columns = pixel_taps(problem.in_width, problem.width, x, true);
      const uint8_t* low = source + int64_t{rows.low} * problem.in_width * 3;
      const uint8_t* high = source + int64_t{rows.high} * problem.in_width * 3;
      for (int c = 0; c < 3; ++c) {
        const int64_t a = int64_t{columns.low} * 3 + c, b = int64_t{columns.high} * 3 + c;
        pixel[c] = blend_rows(low[a] * columns.low_weight + low[b] * columns.high_weight,
                              high[a] * columns.low_weight + high[b] * columns.high_weight, rows);
      }
    }
    const bool nhwc = problem.layout == Layout::nhwc;
    const int64_t plane = problem.height * problem.width;
    T* target = static_cast<T*>(problem.output) + image * 3 * plane + (y * problem.width + x) * (nhwc ? 3 : 1);
    if (problem.reverse_channels) {
      const int32_t first = pixel[0];
      pixel[0] = pixel[2];
      pixel[2] = first;
    }
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      const float value = (static_cast<float>(pixel[c]) - problem.mean[c]) / problem.std[c];
      target[nhwc ? c : c * plane] = from_float<T>(value);
    }
  }
};

}  // namespace

void preprocess_cuda(const PreprocessProblem& problem, const Execution& execution) {
  with_gpu_type(problem.dtype, [&](auto type) {
    const Preprocess<decltype(type)> kernel{problem};
    launch(kernel, kernel.blocks(), execution);
  });
}

}  // namespace deeplab
