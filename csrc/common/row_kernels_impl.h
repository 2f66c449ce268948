// SPDX-License-Identifier: Apache-2.0
// The loops of row_kernels.h over Vec and Scalar of whichever file includes this. All are bound by the loads and fused
// multiply-adds of taps: 9 of each per vector of a 3x3 convolution.
#include "common/half_bits.h"
#include "common/row_kernels.h"

namespace deeplab::DEEPLAB_ISA {
namespace {

constexpr int kMaxUnrolled = 9;

template <int Count>
inline Vec weighted_sum(const Scalar* const* taps, const Vec* weight, int64_t i) {
  // Two chains halve the time that a chain of dependent multiply-adds takes.
  Vec even = load(taps[0] + i) * weight[0];
  if constexpr (Count == 1) return even;
  Vec odd = load(taps[1] + i) * weight[1];
  for (int k = 2; k < Count; k += 2) even = fma(load(taps[k] + i), weight[k], even);
  for (int k = 3; k < Count; k += 2) odd = fma(load(taps[k] + i), weight[k], odd);
  return even + odd;
}

template <int Count>
void combine_of(const Scalar* const* taps, const Scalar* weights, const Scalar* scale, const Scalar* shift, Scalar low,
                Scalar high, Scalar* out, int64_t vectors) {
  Vec weight[Count];
  const Scalar* source[Count];
  for (int k = 0; k < Count; ++k) {
    weight[k] = load(weights + k * Vec::width);
    source[k] = taps[k];
  }
  const Vec a = load(scale), b = load(shift), lowest = broadcast(low), highest = broadcast(high);
  for (int64_t i = 0; i < vectors * Vec::width; i += Vec::width) {
    store(out + i, min(highest, max(lowest, fma(weighted_sum<Count>(source, weight, i), a, b))));
  }
}

void combine(const Scalar* const* taps, const Scalar* weights, int count, const Scalar* scale, const Scalar* shift,
             Scalar low, Scalar high, Scalar* out, int64_t vectors) {
  if (count <= kMaxUnrolled) {
    constexpr decltype(&combine_of<1>) by_count[] = {combine_of<1>, combine_of<2>, combine_of<3>,
                                                     combine_of<4>, combine_of<5>, combine_of<6>,
                                                     combine_of<7>, combine_of<8>, combine_of<9>};
    by_count[count - 1](taps, weights, scale, shift, low, high, out, vectors);
    return;
  }
  for (int64_t i = 0; i < vectors * Vec::width; i += Vec::width) {
    Vec sum = broadcast(Scalar{0});
    for (int k = 0; k < count; ++k) sum = fma(load(taps[k] + i), load(weights + k * Vec::width), sum);
    store(out + i, min(broadcast(high), max(broadcast(low), fma(sum, load(scale), load(shift)))));
  }
}

template <int Count, bool Stream>
void combine_rows_of(const Scalar* const* taps, const Scalar* weights, const Scalar* scale, const Scalar* shift,
                     Scalar low, Scalar high, Scalar* out, int64_t length, int64_t rows, int64_t tap_stride,
                     int64_t out_stride) {
  Vec weight[Count];
  const Scalar* source[Count];
  for (int k = 0; k < Count; ++k) {
    weight[k] = load(weights + k * Vec::width);
    source[k] = taps[k];
  }
  const Vec a = load(scale), b = load(shift), lowest = broadcast(low), highest = broadcast(high);
  for (int64_t row = 0; row < rows; ++row, out += out_stride) {
    int64_t i = 0;
    for (; i + Vec::width <= length; i += Vec::width) {
      const Vec value = min(highest, max(lowest, fma(weighted_sum<Count>(source, weight, i), a, b)));
      if constexpr (Stream) {
        stream(out + i, value);
      } else {
        store(out + i, value);
      }
    }
    if (i < length) {
      // The last vector ends at the row's end: some values are computed twice, to the same result.
      const int64_t last = length >= Vec::width ? length - Vec::width : 0;
      const Vec value = min(highest, max(lowest, fma(weighted_sum<Count>(source, weight, last), a, b)));
      if (length >= Vec::width) {
        store(out + last, value);
      } else {
        Scalar lanes[Vec::width];
        store(lanes, value);
        for (int64_t lane = 0; lane < length; ++lane) out[lane] = lanes[lane];
      }
    }
    for (int k = 0; k < Count; ++k) source[k] += tap_stride;
  }
}

template <bool Stream>
void combine_rows_with(const Scalar* const* taps, const Scalar* weights, int count, const Scalar* scale,
                       const Scalar* shift, Scalar low, Scalar high, Scalar* out, int64_t length, int64_t rows,
                       int64_t tap_stride, int64_t out_stride) {
  constexpr decltype(&combine_rows_of<1, Stream>) by_count[] = {
      combine_rows_of<1, Stream>, combine_rows_of<2, Stream>, combine_rows_of<3, Stream>,
      combine_rows_of<4, Stream>, combine_rows_of<5, Stream>, combine_rows_of<6, Stream>,
      combine_rows_of<7, Stream>, combine_rows_of<8, Stream>, combine_rows_of<9, Stream>};
  by_count[count - 1](taps, weights, scale, shift, low, high, out, length, rows, tap_stride, out_stride);
}

void combine_rows(const Scalar* const* taps, const Scalar* weights, int count, const Scalar* scale, const Scalar* shift,
                  Scalar low, Scalar high, Scalar* out, int64_t length, int64_t rows, int64_t tap_stride,
                  int64_t out_stride, bool past_caches) {
  if (count <= kMaxUnrolled) {
    const auto run = past_caches ? combine_rows_with<true> : combine_rows_with<false>;
    run(taps, weights, count, scale, shift, low, high, out, length, rows, tap_stride, out_stride);
    return;
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < length; i += Vec::width) {
      Vec sum = broadcast(Scalar{0});
      for (int k = 0; k < count; ++k) {
        sum = fma(load(taps[k] + row * tap_stride + i), load(weights + k * Vec::width), sum);
      }
      Scalar lanes[Vec::width];
      store(lanes, min(broadcast(high), max(broadcast(low), fma(sum, load(scale), load(shift)))));
      for (int64_t lane = 0; lane < Vec::width && i + lane < length; ++lane) {
        out[row * out_stride + i + lane] = lanes[lane];
      }
    }
  }
}

void gradient(const Scalar* const* taps, const Scalar* weights, int count, const Scalar* scale, const Scalar* shift,
              Scalar low, Scalar high, const Scalar* a, const Scalar* b, const Scalar* c, const Scalar* dy,
              Scalar* dconv, int64_t vectors, Scalar* sums) {
  const Vec zero = broadcast(Scalar{0});
  Vec sum = zero, product = zero;
  for (int64_t i = 0; i < vectors * Vec::width; i += Vec::width) {
    Vec conv = zero;
    for (int k = 0; k < count; ++k) conv = fma(load(taps[k] + i), load(weights + k * Vec::width), conv);
    const Vec value = fma(conv, load(scale), load(shift));
    const Vec inside = select(value > broadcast(low), load(dy + i), zero);
    const Vec z = select(broadcast(high) > value, inside, zero);
    sum = sum + z;
    product = fma(z, conv, product);
    store(dconv + i, fma(z, load(a), fma(conv, load(c), load(b))));
  }
  store(sums, sum);
  store(sums + Vec::width, product);
}

void dot(const Scalar* x, const Scalar* y, int64_t vectors, Scalar* sum) {
  Vec even = broadcast(Scalar{0}), odd = even;
  int64_t v = 0;
  for (; v + 2 <= vectors; v += 2) {
    const int64_t i = v * Vec::width;
    even = fma(load(x + i), load(y + i), even);
    odd = fma(load(x + i + Vec::width), load(y + i + Vec::width), odd);
  }
  if (v < vectors) even = fma(load(x + v * Vec::width), load(y + v * Vec::width), even);
  store(sum, even + odd);
}

void moments(const Scalar* x, const Scalar* origin, int64_t vectors, Scalar* sums) {
  Vec sum = broadcast(Scalar{0}), squares = sum;
  for (int64_t i = 0; i < vectors * Vec::width; i += Vec::width) {
    const Vec d = load(x + i) - load(origin);
    sum = sum + d;
    squares = fma(d, d, squares);
  }
  store(sums, sum);
  store(sums + Vec::width, squares);
}

void add_scaled(Scalar* target, const Scalar* source, const Scalar* weight, int64_t vectors) {
  const Vec factor = load(weight);
  for (int64_t i = 0; i < vectors * Vec::width; i += Vec::width) {
    store(target + i, fma(load(source + i), factor, load(target + i)));
  }
}

void lerp(const Scalar* low, const Scalar* high, Scalar fraction, Scalar* out, int64_t count, bool past_caches) {
  const Scalar rest = 1 - fraction;
  const Vec f = broadcast(fraction), r = broadcast(rest);
  int64_t i = 0;
  if (past_caches) {
    for (; i + Vec::width <= count; i += Vec::width) stream(out + i, fma(load(high + i), f, load(low + i) * r));
  } else {
    for (; i + Vec::width <= count; i += Vec::width) store(out + i, fma(load(high + i), f, load(low + i) * r));
  }
  for (; i < count; ++i) out[i] = rest * low[i] + fraction * high[i];
}

template <bool Stream>
void copy_vectors_of(const Scalar* source, int64_t source_pixel, int64_t source_block, Scalar* target,
                     int64_t target_pixel, int64_t target_block, int64_t pixels, int64_t blocks) {
  constexpr int64_t kAhead = 16;  // pixels
  for (int64_t x = 0; x < pixels; ++x) {
    const Scalar* from = source + x * source_pixel;
    Scalar* to = target + x * target_pixel;
    for (int64_t b = 0; b < blocks; ++b) {
      // Pixels of many channels lie pages apart, where the processor does not look ahead by itself.
      if constexpr (!Stream) __builtin_prefetch(from + kAhead * source_pixel + b * source_block);
      if constexpr (Stream) {
        stream(to + b * target_block, load(from + b * source_block));
      } else {
        store(to + b * target_block, load(from + b * source_block));
      }
    }
  }
}

void copy_vectors(const Scalar* source, int64_t source_pixel, int64_t source_block, Scalar* target,
                  int64_t target_pixel, int64_t target_block, int64_t pixels, int64_t blocks, bool stream) {
  const auto copy = stream ? copy_vectors_of<true> : copy_vectors_of<false>;
  copy(source, source_pixel, source_block, target, target_pixel, target_block, pixels, blocks);
}

}  // namespace
}  // namespace deeplab::DEEPLAB_ISA
