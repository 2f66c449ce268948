// SPDX-License-Identifier: Apache-2.0
// V neighbouring elements of a storage type in one load or store of up to 16 bytes, as floats in between.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "common/tensor_view.h"

#define DEEPLAB_DEVICE __host__ __device__ __forceinline__

namespace deeplab {

DEEPLAB_DEVICE float to_float(float value) {
  return value;
}
DEEPLAB_DEVICE float to_float(__half value) {
  return __half2float(value);
}
DEEPLAB_DEVICE float to_float(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

template <typename T>
DEEPLAB_DEVICE T from_float(float value);
template <>
DEEPLAB_DEVICE float from_float<float>(float value) {
  return value;
}
template <>
DEEPLAB_DEVICE __half from_float<__half>(float value) {
  return __float2half_rn(value);
}
template <>
DEEPLAB_DEVICE __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

template <int Bytes>
struct RawOf;
template <>
struct RawOf<2> {
  using type = uint16_t;
};
template <>
struct RawOf<4> {
  using type = uint32_t;
};
template <>
struct RawOf<8> {
  using type = uint2;
};
template <>
struct RawOf<16> {
  using type = uint4;
};

// Elements as they lie in memory: kept packed until they are used, so that loads in flight cost few registers.
template <typename T, int V>
struct alignas(sizeof(T) * V) Packed {
  T value[V];
};

template <typename T, int V>
DEEPLAB_DEVICE Packed<T, V> load_packed(const T* source) {
  using Raw = typename RawOf<sizeof(T) * V>::type;
  union {
    Raw raw;
    Packed<T, V> packed;
  } bits;
#if defined(__CUDA_ARCH__)
  bits.raw = __ldg(reinterpret_cast<const Raw*>(source));
#else
  bits.raw = *reinterpret_cast<const Raw*>(source);
#endif
  return bits.packed;
}

template <typename T, int V>
DEEPLAB_DEVICE Packed<T, V> zero_packed() {
  Packed<T, V> packed;
#pragma unroll
  for (int i = 0; i < V; ++i) packed.value[i] = from_float<T>(0.0f);
  return packed;
}

template <typename T, int V>
DEEPLAB_DEVICE void store_packed(T* target, const float (&values)[V]) {
  using Raw = typename RawOf<sizeof(T) * V>::type;
  union {
    Raw raw;
    Packed<T, V> packed;
  } bits;
#pragma unroll
  for (int i = 0; i < V; ++i) bits.packed.value[i] = from_float<T>(values[i]);
#if defined(__CUDA_ARCH__)
  __stwb(reinterpret_cast<Raw*>(target), bits.raw);  // a plain assignment was seen split into four stores
#else
  *reinterpret_cast<Raw*>(target) = bits.raw;
#endif
}

// index / size, which becomes the remainder's quotient: index keeps the remainder. 64-bit division costs a GPU four
// times as much as 32-bit, so it is left to indices that need it.
DEEPLAB_DEVICE int64_t take_quotient(int64_t& index, int64_t size) {
  int64_t quotient;
  if (((index | size) >> 32) == 0) {
    quotient = static_cast<uint32_t>(index) / static_cast<uint32_t>(size);
  } else {
    quotient = index / size;
  }
  index -= quotient * size;
  return quotient;
}

// min(max(value, low), high) that keeps NaN, as torch's activations do.
DEEPLAB_DEVICE float clamp_keeping_nan(float value, float low, float high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

template <typename T>
bool aligned_for(const void* pointer, int64_t elements) {
  return reinterpret_cast<uintptr_t>(pointer) % (elements * sizeof(T)) == 0;
}

// Calls body(T{}) with the element type of a float DType of the GPU.
template <typename Body>
void with_gpu_type(DType dtype, const Body& body) {
  switch (dtype) {
    case DType::float16: return body(__half{});
    case DType::bfloat16: return body(__nv_bfloat16{});
    default: return body(float{});
  }
}

}  // namespace deeplab
