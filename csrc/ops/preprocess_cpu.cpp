// SPDX-License-Identifier: Apache-2.0
// CPU: two source rows at a time are resized along x, blended along y, and looked up in a table of the 256 normalised
// values of each channel; an image of the right size goes straight to the table.
#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

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

// A row resized along x: low * low_weight + high * high_weight for the three channels of every pixel.
void widen(const uint8_t* pixels, [[maybe_unused]] int64_t width, const std::vector<PixelTaps>& columns, int32_t* out) {
#if defined(__SSE2__)
  // Four bytes of a pixel at once; the row's last pixel has no fourth byte to read.
  const auto load = [&](int32_t x) {
    int32_t bytes = 0;
    if (x + 1 < width) {
      std::memcpy(&bytes, pixels + x * 3, 4);  // of a constant size: a plain load
    } else {
      std::memcpy(&bytes, pixels + x * 3, 3);
    }
    return _mm_cvtsi32_si128(bytes);
  };
  const __m128i zero = _mm_setzero_si128();
  for (const PixelTaps& taps : columns) {
    const __m128i pairs = _mm_unpacklo_epi8(_mm_unpacklo_epi8(load(taps.low), load(taps.high)), zero);
    const __m128i weights = _mm_set1_epi32(taps.high_weight << 16 | taps.low_weight);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_madd_epi16(pairs, weights));
    out += 3;
  }
#else
  for (const PixelTaps& taps : columns) {
    const uint8_t* low = pixels + taps.low * 3;
    const uint8_t* high = pixels + taps.high * 3;
    for (int c = 0; c < 3; ++c) *out++ = low[c] * taps.low_weight + high[c] * taps.high_weight;
  }
#endif
}

// blend_rows() of `count` values; shifted right by 4 they are below 255 * 2048 / 16 and fit 16 bits.
void blend(const int32_t* low, const int32_t* high, const PixelTaps& taps, int64_t count, uint8_t* out) {
  int64_t i = 0;
#if defined(__SSE2__)
  const auto load = [](const int32_t* values) {
    const auto* four = reinterpret_cast<const __m128i*>(values);
    return _mm_packs_epi32(_mm_srai_epi32(_mm_loadu_si128(four), 4), _mm_srai_epi32(_mm_loadu_si128(four + 1), 4));
  };
  const __m128i low_weight = _mm_set1_epi16(static_cast<int16_t>(taps.low_weight));
  const __m128i high_weight = _mm_set1_epi16(static_cast<int16_t>(taps.high_weight));
  const __m128i half = _mm_set1_epi16(2);
  for (; i + 8 <= count; i += 8) {
    const __m128i sum =
        _mm_add_epi16(_mm_mulhi_epi16(load(low + i), low_weight), _mm_mulhi_epi16(load(high + i), high_weight));
    const __m128i values = _mm_srai_epi16(_mm_add_epi16(sum, half), 2);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(out + i), _mm_packus_epi16(values, values));
  }
#endif
  for (; i < count; ++i) out[i] = static_cast<uint8_t>(blend_rows(low[i], high[i], taps));
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
    blend(low.data(), high.data(), taps, problem_.width * 3, scratch.pixels.data());
    return scratch.pixels.data();
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
    target.resize(problem_.width * 3 + 1);  // a pixel is written as four values, of which the next takes the last
    widen(source + row * problem_.in_width * 3, problem_.in_width, columns_, target.data());
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
