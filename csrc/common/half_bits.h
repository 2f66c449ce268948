// SPDX-License-Identifier: Apache-2.0
// float16 and bfloat16 as bits, converted without the processor's help. For *_simd.cpp: no standard template.
#pragma once

#include <cstdint>

namespace deeplab::DEEPLAB_ISA {

union FloatBits {
  float value;
  uint32_t bits;
};

inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t rest = half & 0x7fffu;
  FloatBits result;
  if (rest >= 0x7c00u) {  // infinity, NaN
    result.bits = sign | 0x7f800000u | (rest & 0x3ffu) << 13;
  } else if (rest >= 0x400u) {
    result.bits = sign | ((rest << 13) + 0x38000000u);
  } else {  // subnormal: rest * 2^-24, exact in float32
    result.value = static_cast<float>(rest) * 5.9604644775390625e-8f;
    result.bits |= sign;
  }
  return result.value;
}

inline uint16_t float_to_half(float value) {
  FloatBits input;
  input.value = value;
  const uint16_t sign = static_cast<uint16_t>(input.bits >> 16 & 0x8000u);
  input.bits &= 0x7fffffffu;
  if (input.bits > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (input.bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // 65520 and more round to infinity
  if (input.bits < 0x38800000u) {  // below 2^-14: adding 0.5 leaves a multiple of 2^-24, rounded to nearest even
    input.value += 0.5f;
    return static_cast<uint16_t>(sign | (input.bits - 0x3f000000u));
  }
  const uint32_t odd = input.bits >> 13 & 1u;
  return static_cast<uint16_t>(sign | (input.bits - 0x38000000u + 0xfffu + odd) >> 13);
}

inline float bfloat16_to_float(uint16_t value) {
  FloatBits result;
  result.bits = static_cast<uint32_t>(value) << 16;
  return result.value;
}

inline uint16_t float_to_bfloat16(float value) {
  FloatBits input;
  input.value = value;
  if ((input.bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(input.bits >> 16 | 0x40u);
  return static_cast<uint16_t>((input.bits + 0x7fffu + (input.bits >> 16 & 1u)) >> 16);
}

}  // namespace deeplab::DEEPLAB_ISA
