// SPDX-License-Identifier: Apache-2.0
// The row kernels in double precision, one value at a time.
#include <cstdint>

#define DEEPLAB_ISA float64

namespace deeplab::DEEPLAB_ISA {

using Scalar = double;
struct Vec {
  static constexpr int width = 1;
  double v;
};

inline Vec broadcast(double value) {
  return {value};
}
inline Vec load(const double* source) {
  return {*source};
}
inline void store(double* target, Vec a) {
  *target = a.v;
}
inline void stream(double* target, Vec a) {
  *target = a.v;
}
inline Vec operator*(Vec a, Vec b) {
  return {a.v * b.v};
}
inline Vec operator+(Vec a, Vec b) {
  return {a.v + b.v};
}
inline Vec operator-(Vec a, Vec b) {
  return {a.v - b.v};
}
inline Vec fma(Vec a, Vec b, Vec c) {
  return {a.v * b.v + c.v};
}
inline Vec max(Vec a, Vec b) {
  return a.v > b.v ? a : b;
}
inline Vec min(Vec a, Vec b) {
  return a.v < b.v ? a : b;
}
inline bool operator>(Vec a, Vec b) {
  return a.v > b.v;
}
inline Vec select(bool mask, Vec yes, Vec no) {
  return mask ? yes : no;
}

}  // namespace deeplab::DEEPLAB_ISA

#include "common/row_kernels_impl.h"

namespace deeplab::DEEPLAB_ISA {
namespace {

void widen(DType, const void* source, double* target, int64_t count) {
  const auto* values = static_cast<const double*>(source);
  for (int64_t i = 0; i < count; ++i) target[i] = values[i];
}

void narrow(DType, const double* source, void* target, int64_t count) {
  auto* values = static_cast<double*>(target);
  for (int64_t i = 0; i < count; ++i) values[i] = source[i];
}

}  // namespace

extern const RowKernels<double> row_kernels;
const RowKernels<double> row_kernels{Vec::width, combine, combine_rows, gradient, dot,   moments,
                                     add_scaled, lerp,    copy_vectors, widen,    narrow};

}  // namespace deeplab::DEEPLAB_ISA
