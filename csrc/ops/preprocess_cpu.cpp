// SPDX-License-Identifier: Apache-2.0
// CPU: two source rows at a time are resized along x, blended along y, and looked up in a table of the 256 normalised
// values of each channel; an image of the right size goes straight to the table.
#include <algorithm>
#include <array>
#include <vector>

#include "common/parallel.h"
#include "common/pixel_resize.h"
#include "common/row_kernels.h"
#include "ops/preprocess.h"

namespace deeplab {
namespace {

using Tables = std::array<std::array<float, 256>, 3>;  // in the order of the pixels' channels

Tables normalised_values(const PreprocessProblem& problem) {
  Tables tables;
  for (int channel = 0; channel < 3; ++channel) {
    const int to = problem.reverse_channels ? 2 - channel : channel;
    for (int value = 0; value < 256; ++value) {
      tables[channel][value] = (static_cast<float>(value) - problem.mean[to]) / problem.std[to];
    }
  }
  return tables;
}

struct Scratch {
  std::vector<int32_t> rows[2];
  int64_t row[2] = {-1, -1};  // source row of each, image included
  std::vector<uint8_t> pixels;
  std::vector<float> values;
};

class Resizer {
 public:
  explicit Resizer(const PreprocessProblem& problem)
      : problem_(problem), same_(problem.in_height == problem.height && problem.in_width == problem.width) {
    for (int64_t x = 0; x < problem.width && !same_; ++x) {
      columns_.push_back(pixel_taps(problem.in_width, problem.width, x, true));
    }
  }

  // Row y of the resized image: 3 * width values.
  const uint8_t* row(int64_t image, int64_t y, Scratch& scratch) const {
    const uint8_t* source = problem_.images + image * problem_.in_height * problem_.in_width * 3;
    if (same_) return source + y * problem_.in_width * 3;
    const PixelTaps taps = pixel_taps(problem_.in_height, problem_.height, y, false);
    const std::vector<int32_t>& low = widened(source, image, taps.low, taps.high, scratch);
    const std::vector<int32_t>& high = widened(source, image, taps.high, taps.low, scratch);
    scratch.pixels.resize(problem_.width * 3);
    const int32_t* a = low.data();
    const int32_t* b = high.data();
    uint8_t* out = scratch.pixels.data();
    for (int64_t i = 0; i < problem_.width * 3; ++i) out[i] = static_cast<uint8_t>(blend_rows(a[i], b[i], taps));
    return out;
  }

 private:
  // Source row resized along x, kept for the next output row; never in the slot that holds `other`.
  const std::vector<int32_t>& widened(const uint8_t* source, int64_t image, int64_t row, int64_t other,
                                      Scratch& scratch) const {
    const int64_t key = image * problem_.in_height + row;
    for (int slot : {0, 1}) {
      if (scratch.row[slot] == key) return scratch.rows[slot];
    }
    const int slot = scratch.row[0] == image * problem_.in_height + other ? 1 : 0;
    std::vector<int32_t>& target = scratch.rows[slot];
    target.resize(problem_.width * 3);
    const uint8_t* pixels = source + row * problem_.in_width * 3;
    int32_t* out = target.data();
    for (const PixelTaps& taps : columns_) {
      const uint8_t* low = pixels + taps.low * 3;
      const uint8_t* high = pixels + taps.high * 3;
      for (int c = 0; c < 3; ++c) *out++ = low[c] * taps.low_weight + high[c] * taps.high_weight;
    }
    scratch.row[slot] = key;
    return target;
  }

  const PreprocessProblem& problem_;
  bool same_;
  std::vector<PixelTaps> columns_;
};

void planes_of_row(const uint8_t* pixels, const Tables& tables, int64_t width, float* const planes[3]) {
  for (int c = 0; c < 3; ++c) {
    const float* table = tables[c].data();
    float* plane = planes[c];
    const uint8_t* source = pixels + c;
    for (int64_t x = 0; x < width; ++x) plane[x] = table[source[3 * x]];
  }
}

}  // namespace

void preprocess_cpu(const PreprocessProblem& problem, const Execution& execution) {
  const RowKernels<float>& kernels = row_kernels_for<float>(execution.instruction_set);
  const Tables tables = normalised_values(problem);
  const Resizer resizer(problem);
  const bool nhwc = problem.layout == Layout::nhwc, direct = problem.dtype == DType::float32;
  const int64_t width = problem.width, size = size_of(problem.dtype);
  const int64_t rows = problem.batch * problem.height;
  const int64_t grain = std::max<int64_t>(1, 200'000 / (width * 3));
  std::vector<Scratch> scratch(worker_count(rows, grain, execution.threads));

  parallel_for(rows, grain, execution.threads, [&](int worker, int64_t begin, int64_t end) {
    Scratch& own = scratch[worker];
    own.values.resize(width * 3);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / problem.height, y = task % problem.height;
      const uint8_t* pixels = resizer.row(image, y, own);
      char* output = static_cast<char*>(problem.output);
      if (nhwc) {
        char* target = output + task * width * 3 * size;
        float* values = direct ? reinterpret_cast<float*>(target) : own.values.data();
        for (int64_t x = 0; x < width; ++x) {
          for (int c = 0; c < 3; ++c) {
            values[3 * x + (problem.reverse_channels ? 2 - c : c)] = tables[c][pixels[3 * x + c]];
          }
        }
        if (!direct) kernels.narrow(problem.dtype, values, target, width * 3);
        continue;
      }
      float* planes[3];
      char* targets[3];
      for (int c = 0; c < 3; ++c) {
        const int to = problem.reverse_channels ? 2 - c : c;
        targets[c] = output + ((image * 3 + to) * problem.height + y) * width * size;
        planes[c] = direct ? reinterpret_cast<float*>(targets[c]) : own.values.data() + c * width;
      }
      planes_of_row(pixels, tables, width, planes);
      for (int c = 0; c < 3 && !direct; ++c) kernels.narrow(problem.dtype, planes[c], targets[c], width);
    }
  });
}

}  // namespace deeplab
