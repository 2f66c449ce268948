// SPDX-License-Identifier: Apache-2.0
// The backward pass of the depthwise operators on the GPU.
//
// Reductions: a block sums one chunk of pixels for a tile of channels, its threads keep their sums in registers and add
// them up in shared memory in a fixed order; a second kernel adds the chunks in order, in double. No atomics: the same
// input gives the same bits. Bytes: input and dy once (the nine taps of a pixel are read from L1 and L2), dconv once.
// Input gradient: a gather over all rates and taps, written once.
#include "common/launch.cuh"
#include "common/vector.cuh"
#include "ops/depthwise_backward.h"

namespace deeplab {
namespace {

enum class Reduce { statistics, sums, apply };

// Strides of a [N, C, H, W] tensor in elements.
struct Strides {
  int64_t image, channel, row, pixel;
};

Strides strides_of(Layout layout, int64_t channels, int64_t height, int64_t width) {
  if (layout == Layout::nhwc) return {channels * height * width, 1, width * channels, channels};
  return {channels * height * width, height * width, width, 1};
}

struct ReductionPlan {
  int64_t chunks, chunk_pixels;  // over N * H' * W'
};

ReductionPlan plan_chunks(const DepthwiseProblem& problem, int64_t workspace_floats, int64_t sums) {
  const int64_t pixels = problem.batch * problem.out_height * problem.out_width;
  const int64_t chunks = workspace_floats / (problem.rates * problem.channels * sums);
  return {chunks, (pixels + chunks - 1) / chunks};
}

// Convolution at one output pixel for V channels; `values` keeps the nine inputs.
template <typename T, int V>
DEEPLAB_DEVICE void convolve(const DepthwiseProblem& problem, const Strides& strides, const T* input, int64_t rate,
                             int64_t y, int64_t x, const float (&weight)[9][V], float (&values)[9][V],
                             float (&conv)[V]) {
#pragma unroll
  for (int v = 0; v < V; ++v) conv[v] = 0.0f;
#pragma unroll
  for (int k = 0; k < 9; ++k) {
    const int64_t in_y = y * problem.stride + (k / 3 - 1) * rate;
    const int64_t in_x = x * problem.stride + (k % 3 - 1) * rate;
    const bool inside = in_y >= 0 && in_y < problem.height && in_x >= 0 && in_x < problem.width;
    const Packed<T, V> packed =
        inside ? load_packed<T, V>(input + in_y * strides.row + in_x * strides.pixel) : zero_packed<T, V>();
#pragma unroll
    for (int v = 0; v < V; ++v) {
      values[k][v] = to_float(packed.value[v]);
      conv[v] = fmaf(values[k][v], weight[k][v], conv[v]);
    }
  }
}

// Lanes x V channels a block, the rest of its threads over pixels. NCHW: one channel a block.
template <typename T, int V, int Lanes, Reduce Mode>
struct DepthwiseReduce {
  static constexpr int threads = 128;
  static constexpr int phases = 2;
  static constexpr int kSums = Mode == Reduce::apply ? 11 : 2;
  static constexpr int kRows = threads / Lanes;
  struct Shared {
    float sums[kSums][V][threads];
  };

  DepthwiseProblem problem;
  Strides in, out;
  ReductionPlan plan;
  const T* dy;
  const float* a;
  const float* b;
  const float* c;
  T* dconv;
  float* workspace;  // [chunks][rates][channels][kSums]

  __host__ __device__ int64_t tiles() const { return (problem.channels + Lanes * V - 1) / (Lanes * V); }
  int64_t blocks() const { return plan.chunks * problem.rates * tiles(); }

  DEEPLAB_DEVICE void phase(int index, Shared& shared, uint32_t block, int thread) const {
    const uint32_t tile = block % static_cast<uint32_t>(tiles());
    block /= static_cast<uint32_t>(tiles());
    const int rate_index = static_cast<int>(block % static_cast<uint32_t>(problem.rates));
    const int64_t chunk = block / static_cast<uint32_t>(problem.rates);
    const int64_t first_channel = int64_t{tile} * (Lanes * V);
    if (index == 0) {
      accumulate(shared, rate_index, chunk, first_channel + thread % Lanes * V, thread);
      return;
    }
    for (int one = thread; one < Lanes * V * kSums; one += threads) {
      const int sum_index = one % kSums, channel = one / kSums;
      if (first_channel + channel >= problem.channels) continue;
      float sum = 0.0f;
      for (int row = 0; row < kRows; ++row) sum += shared.sums[sum_index][channel % V][row * Lanes + channel / V];
      const int64_t parameter = rate_index * problem.channels + first_channel + channel;
      workspace[(chunk * problem.rates * problem.channels + parameter) * kSums + sum_index] = sum;
    }
  }

  DEEPLAB_DEVICE void accumulate(Shared& shared, int rate_index, int64_t chunk, int64_t channel, int thread) const {
    float sums[kSums][V];
#pragma unroll
    for (int s = 0; s < kSums; ++s) {
#pragma unroll
      for (int v = 0; v < V; ++v) sums[s][v] = 0.0f;
    }
    if (channel < problem.channels) add_pixels(sums, rate_index, chunk, channel, thread / Lanes);
#pragma unroll
    for (int s = 0; s < kSums; ++s) {
#pragma unroll
      for (int v = 0; v < V; ++v) shared.sums[s][v][thread] = sums[s][v];
    }
  }

  DEEPLAB_DEVICE void add_pixels(float (&sums)[kSums][V], int rate_index, int64_t chunk, int64_t channel,
                                 int row) const {
    const int64_t parameter = rate_index * problem.channels + channel;
    const int64_t rate = problem.rate[rate_index];
    float weight[9][V], values[9][V], conv[V], origin[V] = {};
#pragma unroll
    for (int v = 0; v < V; ++v) {
#pragma unroll
      for (int k = 0; k < 9; ++k) {
        weight[k][v] = static_cast<const float*>(problem.weight)[(parameter + v) * 9 + k];
      }
    }
    const T* input = static_cast<const T*>(problem.input) + channel * in.channel;
    if constexpr (Mode == Reduce::statistics) {
      // Deviations from one sample of the channel: their squares do not cancel when the mean is large.
      convolve<T, V>(problem, in, input, rate, problem.out_height / 2, problem.out_width / 2, weight, values, origin);
    }
    const uint32_t per_image = static_cast<uint32_t>(problem.out_height * problem.out_width);
    const int64_t pixels = problem.batch * per_image;
    const int64_t begin = chunk * plan.chunk_pixels;
    const int64_t end = begin + plan.chunk_pixels < pixels ? begin + plan.chunk_pixels : pixels;
    const uint32_t first = static_cast<uint32_t>(begin) + row, width = static_cast<uint32_t>(problem.out_width);
    int64_t image = first / per_image, y = first % per_image / width, x = first % per_image % width;
    for (int64_t pixel = begin + row; pixel < end; pixel += kRows, x += kRows) {
      while (x >= problem.out_width) {  // cheaper than dividing for every pixel
        x -= problem.out_width;
        if (++y == problem.out_height) {
          y = 0;
          ++image;
        }
      }
      convolve<T, V>(problem, in, input + image * in.image, rate, y, x, weight, values, conv);
      if constexpr (Mode == Reduce::statistics) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const float d = conv[v] - origin[v];
          sums[0][v] += d;
          sums[1][v] = fmaf(d, d, sums[1][v]);
        }
      } else {
        const int64_t at =
            (rate_index * problem.batch + image) * out.image + channel * out.channel + y * out.row + x * out.pixel;
        const Packed<T, V> packed = load_packed<T, V>(dy + at);
        float result[V];
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const float value = fmaf(conv[v], static_cast<const float*>(problem.scale)[parameter + v],
                                   static_cast<const float*>(problem.shift)[parameter + v]);
          const bool inside = value > problem.activation.low && value < problem.activation.high;
          const float z = inside ? to_float(packed.value[v]) : 0.0f;
          sums[0][v] += z;
          sums[1][v] = fmaf(z, conv[v], sums[1][v]);
          if constexpr (Mode == Reduce::apply) {
            result[v] = fmaf(z, a[parameter + v], fmaf(conv[v], c[parameter + v], b[parameter + v]));
#pragma unroll
            for (int k = 0; k < 9; ++k) sums[2 + k][v] = fmaf(result[v], values[k][v], sums[2 + k][v]);
          }
        }
        if constexpr (Mode == Reduce::apply) store_packed<T, V>(dconv + at, result);
      }
    }
  }
};

// Adds the chunks in order. One thread a value.
struct AddChunks {
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 1;

  const float* workspace;  // [chunks][parameters][sums]
  int64_t chunks, parameters;
  int sums;
  float* first;   // [parameters][2]: sums 0 and 1
  float* others;  // [parameters][sums - 2]

  int64_t blocks() const { return (parameters * sums + threads - 1) / threads; }

  DEEPLAB_DEVICE void operator()(uint32_t block, int thread) const {
    const int64_t one = int64_t{block} * threads + thread;
    if (one >= parameters * sums) return;
    double sum = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      sum += static_cast<double>(workspace[chunk * parameters * sums + one]);
    }
    const int64_t parameter = one / sums;
    const int index = static_cast<int>(one % sums);
    (index < 2 ? first[parameter * 2 + index] : others[parameter * (sums - 2) + index - 2]) = static_cast<float>(sum);
  }
};

// Mean and biased variance from sums of deviations. One thread a channel.
template <typename T>
struct FinishStatistics {
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 1;

  DepthwiseProblem problem;
  Strides in;
  const float* workspace;  // [chunks][parameters][2]
  int64_t chunks;
  float* mean;
  float* variance;

  int64_t blocks() const { return (problem.rates * problem.channels + threads - 1) / threads; }

  DEEPLAB_DEVICE void operator()(uint32_t block, int thread) const {
    const int64_t parameters = problem.rates * problem.channels;
    const int64_t parameter = int64_t{block} * threads + thread;
    if (parameter >= parameters) return;
    double sum = 0, squares = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      sum += static_cast<double>(workspace[(chunk * parameters + parameter) * 2]);
      squares += static_cast<double>(workspace[(chunk * parameters + parameter) * 2 + 1]);
    }
    float weight[9][1], values[9][1], origin[1];
    for (int k = 0; k < 9; ++k) weight[k][0] = static_cast<const float*>(problem.weight)[parameter * 9 + k];
    const int64_t rate_index = parameter / problem.channels, channel = parameter % problem.channels;
    convolve<T, 1>(problem, in, static_cast<const T*>(problem.input) + channel * in.channel, problem.rate[rate_index],
                   problem.out_height / 2, problem.out_width / 2, weight, values, origin);
    const double count = static_cast<double>(problem.batch * problem.out_height * problem.out_width);
    const double shift = sum / count;
    const double spread = squares / count - shift * shift;
    mean[parameter] = static_cast<float>(static_cast<double>(origin[0]) + shift);
    variance[parameter] = static_cast<float>(spread > 0 ? spread : 0);
  }
};

// dx of V channels (NHWC) or one pixel (NCHW): every output that reads it, over all rates.
template <typename T, int V>
struct DepthwiseInputGradient {
  static constexpr int threads = 256;
  static constexpr int blocks_per_multiprocessor = 2;

  DepthwiseProblem problem;  // output: dconv, which is read
  T* dx;

  __host__ __device__ int64_t vectors() const { return problem.channels / V * problem.height * problem.width; }
  __host__ __device__ int64_t blocks_per_image() const { return (vectors() + threads - 1) / threads; }
  int64_t blocks() const { return problem.batch * blocks_per_image(); }

  DEEPLAB_DEVICE void operator()(uint32_t block, int thread) const {
    const uint32_t per_image = static_cast<uint32_t>(blocks_per_image());
    const int64_t image = block / per_image;
    int64_t rest = int64_t{block % per_image} * threads + thread;
    if (rest >= vectors()) return;
    const bool nhwc = problem.layout == Layout::nhwc;
    int64_t c, y, x;
    if (nhwc) {
      y = take_quotient(rest, problem.width * (problem.channels / V));
      x = take_quotient(rest, problem.channels / V);
      c = rest * V;
    } else {
      c = take_quotient(rest, problem.height * problem.width);
      y = take_quotient(rest, problem.width);
      x = rest;
    }
    const int64_t column = nhwc ? problem.channels : 1, row = problem.out_width * column;
    const int64_t image_size = problem.channels * problem.out_height * problem.out_width;
    const int k = problem.kernel;
    float sum[V] = {};
    for (int r = 0; r < problem.rates; ++r) {
      const float* weight = static_cast<const float*>(problem.weight) + (r * problem.channels + c) * k * k;
      const T* dconv = static_cast<const T*>(problem.output) + (r * problem.batch + image) * image_size +
                       (nhwc ? c : c * problem.out_height * problem.out_width);
      for (int tap = 0; tap < k * k; ++tap) {
        // y_out * stride + (i - k/2) * rate = y
        int64_t rest_y = y - (tap / k - k / 2) * problem.rate[r];
        int64_t rest_x = x - (tap % k - k / 2) * problem.rate[r];
        if (rest_y < 0 || rest_x < 0) continue;
        int64_t out_y = rest_y, out_x = rest_x;
        if (problem.stride > 1) {
          out_y = take_quotient(rest_y, problem.stride);
          out_x = take_quotient(rest_x, problem.stride);
          if (rest_y != 0 || rest_x != 0) continue;
        }
        if (out_y >= problem.out_height || out_x >= problem.out_width) continue;
        const Packed<T, V> values = load_packed<T, V>(dconv + out_y * row + out_x * column);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] = fmaf(to_float(values.value[v]), weight[v * k * k + tap], sum[v]);
      }
    }
    const int64_t pixel =
        nhwc ? (y * problem.width + x) * problem.channels + c : (c * problem.height + y) * problem.width + x;
    store_packed<T, V>(dx + image * problem.channels * problem.height * problem.width + pixel, sum);
  }
};

template <typename T, int V, int Lanes, Reduce Mode>
void reduce(const DepthwiseGradient& work, const Execution& execution) {
  const DepthwiseProblem& problem = work.problem;
  using Kernel = DepthwiseReduce<T, V, Lanes, Mode>;
  const ReductionPlan plan = plan_chunks(problem, work.workspace_floats, Kernel::kSums);
  const Strides in = strides_of(problem.layout, problem.channels, problem.height, problem.width);
  const Kernel kernel{problem,
                      in,
                      strides_of(problem.layout, problem.channels, problem.out_height, problem.out_width),
                      plan,
                      static_cast<const T*>(work.dy),
                      static_cast<const float*>(work.a),
                      static_cast<const float*>(work.b),
                      static_cast<const float*>(work.c),
                      static_cast<T*>(work.dconv),
                      work.workspace};
  launch_phases(kernel, kernel.blocks(), execution);
}

template <typename T, Reduce Mode>
void reduce_layout(const DepthwiseGradient& work, const Execution& execution) {
  const bool pairs = work.problem.channels % 2 == 0 && aligned_for<T>(work.problem.input, 2) &&
                     aligned_for<T>(work.dy, 2) && aligned_for<T>(work.dconv, 2);
  if (work.problem.layout == Layout::nchw) return reduce<T, 1, 1, Mode>(work, execution);
  if (pairs) return reduce<T, 2, 32, Mode>(work, execution);
  return reduce<T, 1, 32, Mode>(work, execution);
}

}  // namespace

void depthwise_statistics_cuda(const DepthwiseStatistics& work, const Execution& execution) {
  const DepthwiseProblem& problem = work.problem;
  check(problem.kernel == 3, "weight: statistics on the GPU need 3x3 kernels, got ", problem.kernel, "x",
        problem.kernel);
  with_gpu_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    DepthwiseGradient reduction{};
    reduction.problem = problem;
    reduction.workspace = work.workspace;
    reduction.workspace_floats = work.workspace_floats;
    reduce_layout<T, Reduce::statistics>(reduction, execution);
    const ReductionPlan plan = plan_chunks(problem, work.workspace_floats, 2);
    const FinishStatistics<T> finish{problem,
                                     strides_of(problem.layout, problem.channels, problem.height, problem.width),
                                     work.workspace,
                                     plan.chunks,
                                     static_cast<float*>(work.mean),
                                     static_cast<float*>(work.variance)};
    launch(finish, finish.blocks(), execution);
  });
}

void depthwise_gradient_cuda(const DepthwiseGradient& work, const Execution& execution) {
  const bool apply = work.dconv != nullptr;
  with_gpu_type(work.problem.dtype, [&](auto type) {
    using T = decltype(type);
    if (apply) {
      reduce_layout<T, Reduce::apply>(work, execution);
    } else {
      reduce_layout<T, Reduce::sums>(work, execution);
    }
  });
  const int sums = apply ? 11 : 2;
  const ReductionPlan plan = plan_chunks(work.problem, work.workspace_floats, sums);
  const AddChunks add{work.workspace,
                      plan.chunks,
                      work.problem.rates * work.problem.channels,
                      sums,
                      static_cast<float*>(work.sums),
                      static_cast<float*>(work.dweight)};
  launch(add, add.blocks(), execution);
}

void depthwise_input_gradient_cuda(const DepthwiseProblem& problem, void* dx, const Execution& execution) {
  with_gpu_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kWide = 16 / sizeof(T);
    if (problem.layout == Layout::nhwc && problem.channels % kWide == 0 && aligned_for<T>(dx, kWide) &&
        aligned_for<T>(problem.output, kWide)) {
      const DepthwiseInputGradient<T, kWide> kernel{problem, static_cast<T*>(dx)};
      return launch(kernel, kernel.blocks(), execution);
    }
    const DepthwiseInputGradient<T, 1> kernel{problem, static_cast<T*>(dx)};
    launch(kernel, kernel.blocks(), execution);
  });
}

}  // namespace deeplab
