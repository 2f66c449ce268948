// SPDX-License-Identifier: Apache-2.0
#include "common/vec.h"
//
#include "common/row_kernels_impl.h"

namespace deeplab::DEEPLAB_ISA {
namespace {

void widen(DType dtype, const void* source, float* target, int64_t count) {
  int64_t i = 0;
  if (dtype == DType::float16) {
    const auto* values = static_cast<const uint16_t*>(source);
#if defined(__F16C__)
    for (; i + 8 <= count; i += 8) {
      _mm256_storeu_ps(target + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values + i))));
    }
#endif
    for (; i < count; ++i) target[i] = half_to_float(values[i]);
  } else if (dtype == DType::bfloat16) {
    const auto* values = static_cast<const uint16_t*>(source);
    for (; i < count; ++i) target[i] = bfloat16_to_float(values[i]);
  } else {
    const auto* values = static_cast<const float*>(source);
    for (; i < count; ++i) target[i] = values[i];
  }
}

void narrow(DType dtype, const float* source, void* target, int64_t count) {
  int64_t i = 0;
  if (dtype == DType::float16) {
    auto* values = static_cast<uint16_t*>(target);
#if defined(__F16C__)
    for (; i + 8 <= count; i += 8) {
      const __m128i halves = _mm256_cvtps_ph(_mm256_loadu_ps(source + i), _MM_FROUND_TO_NEAREST_INT);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(values + i), halves);
    }
#endif
    for (; i < count; ++i) values[i] = float_to_half(source[i]);
  } else if (dtype == DType::bfloat16) {
    auto* values = static_cast<uint16_t*>(target);
    for (; i < count; ++i) values[i] = float_to_bfloat16(source[i]);
  } else {
    auto* values = static_cast<float*>(target);
    for (; i < count; ++i) values[i] = source[i];
  }
}

}  // namespace

extern const RowKernels<float> row_kernels;
const RowKernels<float> row_kernels{Vec::width, combine, combine_rows, gradient, dot,   moments,
                                    add_scaled, lerp,    copy_vectors, widen,    narrow};

}  // namespace deeplab::DEEPLAB_ISA
