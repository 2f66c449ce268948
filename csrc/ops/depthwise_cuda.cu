// SPDX-License-Identifier: Apache-2.0
// depthwise() on the GPU.
//
// 3x3, stride 1: output rows y = a, a + rate, a + 2 rate, ... share input rows, so a thread walks down one such
// sequence with three running sums: every input row is read once per column of taps (3 loads an output instead of 9),
// of which the side columns hit in L1, because other threads of the block read them as their centre. Bytes from device
// memory: input once, outputs once; all rates of a slice of channels (NHWC) or of a plane (NCHW) run before the next,
// so later rates read the input from L2 (128 channels x 128 x 256 x fp16 = 8 MB).
//
// Arithmetic on an H200, 2048 x 128 x 256 fp16, one rate: 268 MB = 62 us at 4.3 TB/s. Per vector of 8 outputs 3 loads
// and 1 store of 16 bytes, 72 FMA, about 24 conversions, 16 for the clamp: 8.4 M x 130 / (132 SM x 128 lanes x 1.75
// GHz) = 37 us of issue slots, hidden behind the memory time. 12 warps an SM with 6 loads of 16 bytes in flight each
// lane are 37 KB in flight, above the 29 KB that 4.3 TB/s at 900 ns need.
//
// Other kernels and strides: one thread an output vector, all taps read where they are.
#include "common/launch.cuh"
#include "common/vector.cuh"
#include "ops/depthwise.h"
#include "ops/depthwise_walk.cuh"

namespace deeplab {
namespace {

// NHWC: V channels of one column of pixels.
template <typename T, int V>
struct DepthwiseNhwc {
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 3;
  static constexpr int kLanes = V == 1 ? 32 : 2;  // 2 x 16 bytes fill a sector
  static constexpr int kPixels = threads / kLanes;
  static constexpr int kParts = V == 1 ? 4 : 8;  // blocks side by side in a slice: 256 bytes of every pixel at a time

  DepthwiseProblem problem;
  WalkPlan walks;

  int64_t blocks() const {
    const int64_t tiles = (problem.width + kPixels - 1) / kPixels;
    return problem.batch * slices() * walks.total * tiles * kParts;
  }
  __host__ __device__ int64_t slices() const {
    return (problem.channels + kLanes * V * kParts - 1) / (kLanes * V * kParts);
  }

  DEEPLAB_DEVICE void operator()(uint32_t block, int thread) const {
    const uint32_t tiles = static_cast<uint32_t>((problem.width + kPixels - 1) / kPixels);
    const uint32_t part = block % kParts;
    block /= kParts;
    const uint32_t tile = block % tiles;
    block /= tiles;
    const uint32_t walk_index = block % static_cast<uint32_t>(walks.total);
    block /= static_cast<uint32_t>(walks.total);
    const uint32_t slice = block % static_cast<uint32_t>(slices());
    const int64_t image = block / static_cast<uint32_t>(slices());
    const int64_t c = (int64_t{slice} * kParts + part) * (kLanes * V) + thread % kLanes * V;
    const int64_t x = int64_t{tile} * kPixels + thread / kLanes;
    if (c >= problem.channels || x >= problem.width) return;

    const GpuWalk walk = walks.at(walk_index, problem);
    const int64_t row_stride = problem.width * problem.channels;
    const int64_t pixel = image * problem.height * row_stride + x * problem.channels + c;
    const T* input = static_cast<const T*>(problem.input) + pixel;
    T* output = static_cast<T*>(problem.outputs[walk.rate_index]) + pixel;
    const int64_t side = walk.rate * problem.channels;
    walk_down<V, PackedColumns<T, V>>(
        problem, walk, c, V,
        [&](int64_t row, bool inside, Packed<T, V>(&columns)[3]) {
          const T* at = input + row * row_stride;
          columns[0] = inside && x >= walk.rate ? load_packed<T, V>(at - side) : zero_packed<T, V>();
          columns[1] = inside ? load_packed<T, V>(at) : zero_packed<T, V>();
          columns[2] = inside && x + walk.rate < problem.width ? load_packed<T, V>(at + side) : zero_packed<T, V>();
        },
        [&](int64_t y, const float(&values)[V]) { store_packed<T, V>(output + y * row_stride, values); });
  }
};

enum class Sides { aligned, neighbours };

// NCHW: V neighbouring pixels of one plane. `aligned`: rate and width are multiples of V, so the side taps are whole
// aligned vectors. `neighbours`: rate 1, the side taps are the centre shifted by one pixel.
template <typename T, int V, Sides Mode>
struct DepthwiseNchw {
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 4;

  DepthwiseProblem problem;
  WalkPlan walks;

  __host__ __device__ int64_t blocks_per_plane() const {
    return (problem.width / V * walks.total + threads - 1) / threads;
  }
  int64_t blocks() const { return problem.batch * problem.channels * blocks_per_plane(); }

  DEEPLAB_DEVICE void operator()(uint32_t block, int thread) const {
    const uint32_t per_plane = static_cast<uint32_t>(blocks_per_plane());
    const uint32_t columns_of_vectors = static_cast<uint32_t>(problem.width / V);
    const uint32_t plane = block / per_plane;
    const uint32_t task = block % per_plane * threads + thread;
    const uint32_t walk_index = task / columns_of_vectors;
    const int64_t x = int64_t{task % columns_of_vectors} * V;
    if (walk_index >= walks.total) return;

    const GpuWalk walk = walks.at(walk_index, problem);
    const int64_t plane_size = problem.height * problem.width;
    const T* input = static_cast<const T*>(problem.input) + int64_t{plane} * plane_size + x;
    T* output = static_cast<T*>(problem.outputs[walk.rate_index]) + int64_t{plane} * plane_size + x;
    walk_down<V, PackedColumns<T, V>>(
        problem, walk, plane % static_cast<uint32_t>(problem.channels), 1,
        [&](int64_t row, bool inside, Packed<T, V>(&columns)[3]) {
          const T* at = input + row * problem.width;
          columns[1] = inside ? load_packed<T, V>(at) : zero_packed<T, V>();
          if constexpr (Mode == Sides::aligned) {
            columns[0] = inside && x >= walk.rate ? load_packed<T, V>(at - walk.rate) : zero_packed<T, V>();
            columns[2] =
                inside && x + walk.rate < problem.width ? load_packed<T, V>(at + walk.rate) : zero_packed<T, V>();
          } else {
            columns[0].value[0] = inside && x > 0 ? at[-1] : from_float<T>(0.0f);
            columns[2].value[V - 1] = inside && x + V < problem.width ? at[V] : from_float<T>(0.0f);
#pragma unroll
            for (int i = 1; i < V; ++i) {
              columns[0].value[i] = columns[1].value[i - 1];
              columns[2].value[i - 1] = columns[1].value[i];
            }
          }
        },
        [&](int64_t y, const float(&values)[V]) { store_packed<T, V>(output + y * problem.width, values); });
  }
};

// Any kernel size and stride. V channels (NHWC) or one pixel (NCHW) a thread.
template <typename T, int V>
struct DepthwiseDirect {
  static constexpr int threads = 256;
  static constexpr int blocks_per_multiprocessor = 2;

  DepthwiseProblem problem;

  __host__ __device__ int64_t vectors_per_image() const {
    return problem.channels / V * problem.out_height * problem.out_width;
  }
  __host__ __device__ int64_t blocks_per_image() const { return (vectors_per_image() + threads - 1) / threads; }
  int64_t blocks() const { return problem.rates * problem.batch * blocks_per_image(); }

  DEEPLAB_DEVICE void operator()(uint32_t block, int thread) const {
    const uint32_t per_image = static_cast<uint32_t>(blocks_per_image());
    const uint32_t image_of_rate = block / per_image;
    const int rate_index = static_cast<int>(image_of_rate / static_cast<uint32_t>(problem.batch));
    const int64_t image = image_of_rate % static_cast<uint32_t>(problem.batch);
    int64_t rest = int64_t{block % per_image} * threads + thread;
    if (rest >= vectors_per_image()) return;
    const bool nhwc = problem.layout == Layout::nhwc;
    int64_t c, y, x;
    if (nhwc) {
      y = take_quotient(rest, problem.out_width * (problem.channels / V));
      x = take_quotient(rest, problem.channels / V);
      c = rest * V;
    } else {
      c = take_quotient(rest, problem.out_height * problem.out_width);
      y = take_quotient(rest, problem.out_width);
      x = rest;
    }
    const int64_t rate = problem.rate[rate_index];
    const int k = problem.kernel;
    const float* weight = static_cast<const float*>(problem.weight) + (rate_index * problem.channels + c) * k * k;
    const int64_t column = nhwc ? problem.channels : 1;
    const int64_t row = problem.width * column;
    const T* input = static_cast<const T*>(problem.input) + image * problem.channels * problem.height * problem.width +
                     (nhwc ? c : c * problem.height * problem.width);
    float sum[V] = {};
    for (int i = 0; i < k; ++i) {
      const int64_t in_y = y * problem.stride + (i - k / 2) * rate;
      if (in_y < 0 || in_y >= problem.height) continue;
      for (int j = 0; j < k; ++j) {
        const int64_t in_x = x * problem.stride + (j - k / 2) * rate;
        if (in_x < 0 || in_x >= problem.width) continue;
        const Packed<T, V> values = load_packed<T, V>(input + in_y * row + in_x * column);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] = fmaf(to_float(values.value[v]), weight[v * k * k + i * k + j], sum[v]);
      }
    }
    const int64_t parameter = rate_index * problem.channels + c;
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const float value = fmaf(sum[v], static_cast<const float*>(problem.scale)[parameter + v],
                               static_cast<const float*>(problem.shift)[parameter + v]);
      sum[v] = clamp_keeping_nan(value, problem.activation.low, problem.activation.high);
    }
    const int64_t pixel = nhwc ? (y * problem.out_width + x) * problem.channels + c
                               : (c * problem.out_height + y) * problem.out_width + x;
    const int64_t image_size = problem.channels * problem.out_height * problem.out_width;
    store_packed<T, V>(static_cast<T*>(problem.outputs[rate_index]) + image * image_size + pixel, sum);
  }
};

template <typename Kernel>
void run(const Kernel& kernel, const Execution& execution) {
  launch(kernel, kernel.blocks(), execution);
}

// Whether vectors of V elements may be used for all pointers, and for steps of `elements`.
template <typename T, int V>
bool fits(const DepthwiseProblem& problem, int64_t elements) {
  bool aligned = elements % V == 0 && aligned_for<T>(problem.input, V);
  for (int i = 0; i < problem.rates; ++i) aligned = aligned && aligned_for<T>(problem.outputs[i], V);
  return aligned;
}

template <typename T, int V>
bool rates_are_multiples(const DepthwiseProblem& problem) {
  for (int i = 0; i < problem.rates; ++i) {
    if (problem.rate[i] % V != 0) return false;
  }
  return true;
}

template <typename T>
void run_type(const DepthwiseProblem& problem, const Execution& execution) {
  constexpr int kWide = 16 / sizeof(T);
  const bool nhwc = problem.layout == Layout::nhwc;
  if (problem.kernel != 3 || problem.stride != 1) {
    if (nhwc && fits<T, kWide>(problem, problem.channels)) return run(DepthwiseDirect<T, kWide>{problem}, execution);
    return run(DepthwiseDirect<T, 1>{problem}, execution);
  }
  const WalkPlan walks(problem);
  if (nhwc) {
    if (fits<T, kWide>(problem, problem.channels)) return run(DepthwiseNhwc<T, kWide>{problem, walks}, execution);
    return run(DepthwiseNhwc<T, 1>{problem, walks}, execution);
  }
  if (problem.rates == 1 && problem.rate[0] == 1 && fits<T, kWide>(problem, problem.width)) {
    return run(DepthwiseNchw<T, kWide, Sides::neighbours>{problem, walks}, execution);
  }
  if constexpr (kWide == 8) {
    if (rates_are_multiples<T, 8>(problem) && fits<T, 8>(problem, problem.width)) {
      return run(DepthwiseNchw<T, 8, Sides::aligned>{problem, walks}, execution);
    }
  }
  if (rates_are_multiples<T, 4>(problem) && fits<T, 4>(problem, problem.width)) {
    return run(DepthwiseNchw<T, 4, Sides::aligned>{problem, walks}, execution);
  }
  if (rates_are_multiples<T, 2>(problem) && fits<T, 2>(problem, problem.width)) {
    return run(DepthwiseNchw<T, 2, Sides::aligned>{problem, walks}, execution);
  }
  return run(DepthwiseNchw<T, 1, Sides::aligned>{problem, walks}, execution);
}

}  // namespace

void depthwise_cuda(const DepthwiseProblem& problem, const Execution& execution) {
  with_gpu_type(problem.dtype, [&](auto type) { run_type<decltype(type)>(problem, execution); });
}

}  // namespace deeplab
