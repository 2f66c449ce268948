// SPDX-License-Identifier: Apache-2.0
// One vector of floats and one of int32 in the widest registers of the instruction set being compiled.
//
// For *_simd.cpp only: everything lives in a namespace of the instruction set (DEEPLAB_ISA), and no standard template
// is used, because the linker keeps one copy of such a function and could keep one with instructions that the
// processor lacks.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace deeplab::DEEPLAB_ISA {

using Scalar = float;

#if defined(__AVX512F__)

struct Vec {
  static constexpr int width = 16;
  __m512 v;
};
struct VecInt {
  __m512i v;
};
struct Mask {
  __mmask16 v;
};

inline Vec broadcast(float value) {
  return {_mm512_set1_ps(value)};
}
inline VecInt broadcast(int32_t value) {
  return {_mm512_set1_epi32(value)};
}
inline Vec load(const float* source) {
  return {_mm512_loadu_ps(source)};
}
inline VecInt load(const int32_t* source) {
  return {_mm512_loadu_si512(source)};
}
inline void store(float* target, Vec a) {
  _mm512_storeu_ps(target, a.v);
}
inline void store(int32_t* target, VecInt a) {
  _mm512_storeu_si512(target, a.v);
}
inline Vec operator*(Vec a, Vec b) {
  return {_mm512_mul_ps(a.v, b.v)};
}
inline Vec operator+(Vec a, Vec b) {
  return {_mm512_add_ps(a.v, b.v)};
}
inline Vec operator-(Vec a, Vec b) {
  return {_mm512_sub_ps(a.v, b.v)};
}
inline Vec operator/(Vec a, Vec b) {
  return {_mm512_div_ps(a.v, b.v)};
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
inline Vec max(Vec a, Vec b) {
  return {_mm512_max_ps(a.v, b.v)};
}  // b where either is NaN
inline Vec min(Vec a, Vec b) {
  return {_mm512_min_ps(a.v, b.v)};
}  // b where either is NaN
// Past the caches; `target` must be aligned to the vector.
inline void stream(float* target, Vec a) {
  _mm512_stream_ps(target, a.v);
}
inline Vec negative_abs(Vec a) {
  return {_mm512_or_ps(a.v, _mm512_set1_ps(-0.0f))};
}
inline Vec round(Vec a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline Vec times_power_of_two(Vec a, Vec exponent) {
  const __m512i shifted = _mm512_slli_epi32(_mm512_cvtps_epi32(exponent.v), 23);
  return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), shifted))};
}
inline Mask operator>(Vec a, Vec b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)};
}
inline Vec select(Mask mask, Vec yes, Vec no) {
  return {_mm512_mask_blend_ps(mask.v, no.v, yes.v)};
}
inline VecInt select(Mask mask, VecInt yes, VecInt no) {
  return {_mm512_mask_blend_epi32(mask.v, no.v, yes.v)};
}
inline Vec permute(Vec a, VecInt lane) {
  return {_mm512_permutexvar_ps(lane.v, a.v)};
}
inline Vec gather(const float* source, VecInt index) {
  return {_mm512_i32gather_ps(index.v, source, 4)};
}

#elif defined(__AVX2__)

struct Vec {
  static constexpr int width = 8;
  __m256 v;
};
struct VecInt {
  __m256i v;
};
struct Mask {
  __m256 v;
};

inline Vec broadcast(float value) {
  return {_mm256_set1_ps(value)};
}
inline VecInt broadcast(int32_t value) {
  return {_mm256_set1_epi32(value)};
}
inline Vec load(const float* source) {
  return {_mm256_loadu_ps(source)};
}
inline VecInt load(const int32_t* source) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source))};
}
inline void store(float* target, Vec a) {
  _mm256_storeu_ps(target, a.v);
}
inline void store(int32_t* target, VecInt a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), a.v);
}
inline Vec operator*(Vec a, Vec b) {
  return {_mm256_mul_ps(a.v, b.v)};
}
inline Vec operator+(Vec a, Vec b) {
  return {_mm256_add_ps(a.v, b.v)};
}
inline Vec operator-(Vec a, Vec b) {
  return {_mm256_sub_ps(a.v, b.v)};
}
inline Vec operator/(Vec a, Vec b) {
  return {_mm256_div_ps(a.v, b.v)};
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return {_mm256_fmadd_ps(a.v, b.v, c.v)};
}
inline Vec max(Vec a, Vec b) {
  return {_mm256_max_ps(a.v, b.v)};
}  // b where either is NaN
inline Vec min(Vec a, Vec b) {
  return {_mm256_min_ps(a.v, b.v)};
}  // b where either is NaN
// Past the caches; `target` must be aligned to the vector.
inline void stream(float* target, Vec a) {
  _mm256_stream_ps(target, a.v);
}
inline Vec negative_abs(Vec a) {
  return {_mm256_or_ps(a.v, _mm256_set1_ps(-0.0f))};
}
inline Vec round(Vec a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline Vec times_power_of_two(Vec a, Vec exponent) {
  const __m256i shifted = _mm256_slli_epi32(_mm256_cvtps_epi32(exponent.v), 23);
  return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), shifted))};
}
inline Mask operator>(Vec a, Vec b) {
  return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)};
}
inline Vec select(Mask mask, Vec yes, Vec no) {
  return {_mm256_blendv_ps(no.v, yes.v, mask.v)};
}
inline VecInt select(Mask mask, VecInt yes, VecInt no) {
  return {_mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(no.v), _mm256_castsi256_ps(yes.v), mask.v))};
}
inline Vec permute(Vec a, VecInt lane) {
  return {_mm256_permutevar8x32_ps(a.v, lane.v)};
}
inline Vec gather(const float* source, VecInt index) {
  return {_mm256_i32gather_ps(source, index.v, 4)};
}

#else

// Plain loops of a fixed length: the compiler turns most of them into the target's own vectors.
// clang-format off
#define DEEPLAB_LANES for (int i = 0; i < Vec::width; ++i)

struct Vec {
  static constexpr int width = 8;
  float v[width];
};
struct VecInt {
  int32_t v[Vec::width];
};
struct Mask {
  int32_t v[Vec::width];
};

inline Vec broadcast(float value) { Vec r; DEEPLAB_LANES r.v[i] = value; return r; }
inline VecInt broadcast(int32_t value) { VecInt r; DEEPLAB_LANES r.v[i] = value; return r; }
inline Vec load(const float* source) { Vec r; DEEPLAB_LANES r.v[i] = source[i]; return r; }
inline VecInt load(const int32_t* source) { VecInt r; DEEPLAB_LANES r.v[i] = source[i]; return r; }
inline void store(float* target, Vec a) { DEEPLAB_LANES target[i] = a.v[i]; }
inline void store(int32_t* target, VecInt a) { DEEPLAB_LANES target[i] = a.v[i]; }
inline Vec operator*(Vec a, Vec b) { Vec r; DEEPLAB_LANES r.v[i] = a.v[i] * b.v[i]; return r; }
inline Vec operator+(Vec a, Vec b) { Vec r; DEEPLAB_LANES r.v[i] = a.v[i] + b.v[i]; return r; }
inline Vec operator-(Vec a, Vec b) { Vec r; DEEPLAB_LANES r.v[i] = a.v[i] - b.v[i]; return r; }
inline Vec operator/(Vec a, Vec b) { Vec r; DEEPLAB_LANES r.v[i] = a.v[i] / b.v[i]; return r; }
inline Vec fma(Vec a, Vec b, Vec c) { Vec r; DEEPLAB_LANES r.v[i] = a.v[i] * b.v[i] + c.v[i]; return r; }
inline Vec max(Vec a, Vec b) { Vec r; DEEPLAB_LANES r.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i]; return r; }
inline Vec min(Vec a, Vec b) { Vec r; DEEPLAB_LANES r.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i]; return r; }
inline void stream(float* target, Vec a) { store(target, a); }
inline Vec negative_abs(Vec a) { Vec r; DEEPLAB_LANES r.v[i] = -::fabsf(a.v[i]); return r; }
// Adding and taking away 1.5 * 2^23 rounds to the nearest integer, for |a| < 2^22.
inline Vec round(Vec a) { Vec r; DEEPLAB_LANES r.v[i] = (a.v[i] + 12582912.0f) - 12582912.0f; return r; }
inline Vec times_power_of_two(Vec a, Vec exponent) {
  Vec r;
  DEEPLAB_LANES {
    union { int32_t bits; float value; } power{(static_cast<int32_t>(exponent.v[i]) + 127) << 23};
    r.v[i] = a.v[i] * power.value;
  }
  return r;
}
inline Mask operator>(Vec a, Vec b) { Mask r; DEEPLAB_LANES r.v[i] = a.v[i] > b.v[i]; return r; }
inline Vec select(Mask m, Vec yes, Vec no) { Vec r; DEEPLAB_LANES r.v[i] = m.v[i] ? yes.v[i] : no.v[i]; return r; }
inline VecInt select(Mask m, VecInt yes, VecInt no) {
  VecInt r;
  DEEPLAB_LANES r.v[i] = m.v[i] ? yes.v[i] : no.v[i];
  return r;
}
inline Vec permute(Vec a, VecInt lane) { Vec r; DEEPLAB_LANES r.v[i] = a.v[lane.v[i]]; return r; }
inline Vec gather(const float* source, VecInt index) { Vec r; DEEPLAB_LANES r.v[i] = source[index.v[i]]; return r; }

#undef DEEPLAB_LANES
// clang-format on

#endif

// exp(a) for a <= 0, relative error below 2e-7; NaN and anything below -87 give exp(-87), about 1.6e-38.
inline Vec exp_of_nonpositive(Vec a) {
  a = max(a, broadcast(-87.0f));
  const Vec n = round(a * broadcast(1.44269504088896341f));
  // ln 2 in two parts keeps the remainder exact to float32; the polynomial is Cephes' expf.
  const Vec r = fma(n, broadcast(2.12194440e-4f), fma(n, broadcast(-0.693359375f), a));
  Vec p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  return times_power_of_two(fma(p, r * r, r) + broadcast(1.0f), n);
}

}  // namespace deeplab::DEEPLAB_ISA
