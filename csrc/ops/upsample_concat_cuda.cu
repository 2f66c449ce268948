// SPDX-License-Identifier: Apache-2.0
// upsample_concat, its gradient, and upsample_concat feeding a 3x3 depthwise convolution, on the GPU.
//
// upsample_concat: one thread an output vector, 4 loads from cache and one store of 16 bytes.
// upsample_concat_depthwise: the walk of depthwise_walk.cuh over rows that are interpolated as they are needed. A
// thread keeps the two source rows of its three columns, resized along x; upsampling by 2 it meets a new source row
// every second output row, so an output vector costs 3 loads. 128 x 256 x 512 -> 256 x 512 x 560 fp16: 193 MB = 45 us
// at 4.3 TB/s; about 20 instructions an element = 50 us of issue slots: as much bound by arithmetic as by memory.
// Gradient: every input pixel gathers the outputs that read it, in a fixed order.
#include "common/launch.cuh"
#include "common/position.h"
#include "common/vector.cuh"
#include "ops/depthwise_walk.cuh"
#include "ops/upsample_concat.h"

namespace deeplab {
namespace {

DEEPLAB_DEVICE float lerp(float low, float high, float fraction) {
  return fmaf(fraction, high, (1.0f - fraction) * low);
}

struct ConcatAxes {
  ResizeAxis y, x;
};

ConcatAxes axes_of(const UpsampleConcatProblem& problem) {
  return {resize_axis(problem.in_height, problem.height, problem.align_corners),
          resize_axis(problem.in_width, problem.width, problem.align_corners)};
}

// V channels of one pixel.
template <typename T, int V>
struct ConcatNhwc {
  static constexpr int threads = 256;
  static constexpr int blocks_per_multiprocessor = 4;

  UpsampleConcatProblem problem;
  ConcatAxes axes;

  __host__ __device__ int64_t vectors() const { return (problem.channels + problem.low_channels) / V; }
  __host__ __device__ int64_t blocks_per_row() const { return (vectors() * problem.width + threads - 1) / threads; }
  int64_t blocks() const { return problem.batch * problem.height * blocks_per_row(); }

  DEEPLAB_DEVICE void operator()(uint32_t block, int thread) const {
    const uint32_t per_row = static_cast<uint32_t>(blocks_per_row());
    const int64_t row = block / per_row;
    int64_t index = int64_t{block % per_row} * threads + thread;
    if (index >= vectors() * problem.width) return;
    int64_t y = row;
    const int64_t image = take_quotient(y, problem.height);
    const int64_t x = take_quotient(index, vectors());
    const int64_t c = index * V;
    const int64_t all = problem.channels + problem.low_channels;
    T* target = static_cast<T*>(problem.output) + (row * problem.width + x) * all + c;
    float values[V];
    if (c >= problem.channels) {
      const Packed<T, V> packed = load_packed<T, V>(
          static_cast<const T*>(problem.low) + (row * problem.width + x) * problem.low_channels + c - problem.channels);
#pragma unroll
      for (int v = 0; v < V; ++v) values[v] = to_float(packed.value[v]);
    } else {
      const Position py = position_of(axes.y, y), px = position_of(axes.x, x);
      const T* source =
          static_cast<const T*>(problem.input) + image * problem.in_height * problem.in_width * problem.channels + c;
      const auto at = [&](int64_t in_y, int64_t in_x) {
        return load_packed<T, V>(source + (in_y * problem.in_width + in_x) * problem.channels);
      };
      const Packed<T, V> a = at(py.low, px.low), b = at(py.low, px.high);
      const Packed<T, V> d = at(py.high, px.low), e = at(py.high, px.high);
#pragma unroll
      for (int v = 0; v < V; ++v) {
        values[v] = lerp(lerp(to_float(a.value[v]), to_float(b.value[v]), px.fraction),
                         lerp(to_float(d.value[v]), to_float(e.value[v]), px.fraction), py.fraction);
      }
    }
    store_packed<T, V>(target, values);
  }
};

// V neighbouring pixels of one plane. Neighbours share source columns: each column is read once.
template <typename T, int V>
struct ConcatNchw {
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 4;

  UpsampleConcatProblem problem;
  ConcatAxes axes;

  __host__ __device__ int64_t vectors() const { return problem.height * (problem.width / V); }
  __host__ __device__ int64_t blocks_per_plane() const { return (vectors() + threads - 1) / threads; }
  int64_t blocks() const { return problem.batch * (problem.channels + problem.low_channels) * blocks_per_plane(); }

  DEEPLAB_DEVICE void operator()(uint32_t block, int thread) const {
    const uint32_t per_plane = static_cast<uint32_t>(blocks_per_plane());
    const int64_t plane = block / per_plane;
    int64_t index = int64_t{block % per_plane} * threads + thread;
    if (index >= vectors()) return;
    const int64_t all = problem.channels + problem.low_channels;
    int64_t c = plane;
    const int64_t image = take_quotient(c, all);
    const int64_t y = take_quotient(index, problem.width / V);
    const int64_t x = index * V;
    const int64_t at = y * problem.width + x;
    T* target = static_cast<T*>(problem.output) + plane * problem.height * problem.width + at;
    float values[V];
    if (c >= problem.channels) {
      const int64_t low_plane = image * problem.low_channels + c - problem.channels;
      const Packed<T, V> packed =
          load_packed<T, V>(static_cast<const T*>(problem.low) + low_plane * problem.height * problem.width + at);
#pragma unroll
      for (int v = 0; v < V; ++v) values[v] = to_float(packed.value[v]);
    } else {
      const Position py = position_of(axes.y, y);
      const T* plane_start =
          static_cast<const T*>(problem.input) + (image * problem.channels + c) * problem.in_height * problem.in_width;
      const T* low_row = plane_start + py.low * problem.in_width;
      const T* high_row = plane_start + py.high * problem.in_width;
      const auto column = [&](int64_t in_x) {
        return lerp(to_float(low_row[in_x]), to_float(high_row[in_x]), py.fraction);
      };
      int64_t low_index = -1, high_index = -1;
      float low = 0.0f, high = 0.0f;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const Position px = position_of(axes.x, x + v);
        if (px.low != low_index) {
          low = px.low == high_index ? high : column(px.low);
          low_index = px.low;
        }
        if (px.high != high_index) {
          high = px.high == low_index ? low : column(px.high);
          high_index = px.high;
        }
        values[v] = lerp(low, high, px.fraction);
      }
    }
    store_packed<T, V>(target, values);
  }
};

// One dx: V channels (NHWC) or one pixel (NCHW).
template <typename T, int V>
struct ConcatGradient {
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 4;

  UpsampleConcatProblem problem;  // output: dy, which is read
  ConcatAxes axes;
  T* dx;

  __host__ __device__ int64_t vectors() const { return problem.channels / V * problem.in_height * problem.in_width; }
  __host__ __device__ int64_t blocks_per_image() const { return (vectors() + threads - 1) / threads; }
  int64_t blocks() const { return problem.batch * blocks_per_image(); }

  // Outputs whose position lies in (i - 1, i + 1), give or take one: the weights decide.
  static DEEPLAB_DEVICE void readers(const ResizeAxis& axis, int64_t i, int64_t& begin, int64_t& end) {
    begin = 0;
    end = axis.out;
    if (axis.step == 0) return;
    if (i > 0) {
      int64_t first = (i - 1) * axis.denominator - axis.offset;
      begin = first < 0 ? 0 : take_quotient(first, axis.step);
    }
    if (i < axis.in - 1) {
      int64_t last = (i + 1) * axis.denominator - axis.offset;
      const int64_t past = take_quotient(last, axis.step) + 1;
      end = past < axis.out ? past : axis.out;
    }
  }

  static DEEPLAB_DEVICE float weight_of(const Position& p, int64_t i) {
    return (p.low == i ? 1.0f - p.fraction : 0.0f) + (p.high == i ? p.fraction : 0.0f);
  }

  DEEPLAB_DEVICE void operator()(uint32_t block, int thread) const {
    const uint32_t per_image = static_cast<uint32_t>(blocks_per_image());
    const int64_t image = block / per_image;
    int64_t rest = int64_t{block % per_image} * threads + thread;
    if (rest >= vectors()) return;
    const bool nhwc = problem.layout == Layout::nhwc;
    int64_t c, in_y, in_x;
    if (nhwc) {
      in_y = take_quotient(rest, problem.in_width * (problem.channels / V));
      in_x = take_quotient(rest, problem.channels / V);
      c = rest * V;
    } else {
      c = take_quotient(rest, problem.in_height * problem.in_width);
      in_y = take_quotient(rest, problem.in_width);
      in_x = rest;
    }
    const int64_t all = problem.channels + problem.low_channels;
    const int64_t column = nhwc ? all : 1, row = problem.width * column;
    const T* dy = static_cast<const T*>(problem.output) + image * all * problem.height * problem.width +
                  (nhwc ? c : c * problem.height * problem.width);
    int64_t y_begin, y_end, x_begin, x_end;
    readers(axes.y, in_y, y_begin, y_end);
    readers(axes.x, in_x, x_begin, x_end);
    float sum[V] = {};
    for (int64_t y = y_begin; y < y_end; ++y) {
      const float y_weight = weight_of(position_of(axes.y, y), in_y);
      if (y_weight == 0.0f) continue;
      for (int64_t x = x_begin; x < x_end; ++x) {
        const float weight = y_weight * weight_of(position_of(axes.x, x), in_x);
        if (weight == 0.0f) continue;
        const Packed<T, V> packed = load_packed<T, V>(dy + y * row + x * column);
#pragma unroll
        for (int v = 0; v < V; ++v) sum[v] = fmaf(weight, to_float(packed.value[v]), sum[v]);
      }
    }
    const int64_t pixel = nhwc ? (in_y * problem.in_width + in_x) * problem.channels + c
                               : (c * problem.in_height + in_y) * problem.in_width + in_x;
    store_packed<T, V>(dx + image * problem.channels * problem.in_height * problem.in_width + pixel, sum);
  }
};

// Three columns of the concatenation, row by row, for V channels of a pixel or one pixel.
template <typename T, int V>
struct ConcatColumns {
  const T* source;  // of the resized tensor at this image and channel, or of low
  int64_t row;      // from a row of source to the next, in elements
  ResizeAxis y;
  bool resized;
  bool valid[3];
  int64_t low_at[3], high_at[3];  // where the columns lie in a row of source; low has only low_at
  float fraction[3];
  int32_t low_row, high_row;    // source rows that the values below hold
  float low[3][V], high[3][V];  // those rows, resized along x

  DEEPLAB_DEVICE void load_row(int64_t in_y, float (&values)[3][V]) const {
    const T* line = source + in_y * row;
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      if (!valid[j]) continue;
      const Packed<T, V> a = load_packed<T, V>(line + low_at[j]);
      const Packed<T, V> b = load_packed<T, V>(line + high_at[j]);
#pragma unroll
      for (int v = 0; v < V; ++v) values[j][v] = lerp(to_float(a.value[v]), to_float(b.value[v]), fraction[j]);
    }
  }

  DEEPLAB_DEVICE void fetch(int64_t out_y, bool inside, float (&values)[3][V]) {
    if (inside && resized) {
      const Position p = position_of(y, out_y);
      if (p.low != low_row) {
        if (p.low == high_row) {
#pragma unroll
          for (int j = 0; j < 3; ++j) {
#pragma unroll
            for (int v = 0; v < V; ++v) low[j][v] = high[j][v];
          }
        } else {
          load_row(p.low, low);
        }
        low_row = static_cast<int32_t>(p.low);
      }
      if (p.high != high_row) {
        load_row(p.high, high);
        high_row = static_cast<int32_t>(p.high);
      }
#pragma unroll
      for (int j = 0; j < 3; ++j) {
#pragma unroll
        for (int v = 0; v < V; ++v) values[j][v] = lerp(low[j][v], high[j][v], p.fraction);
      }
      return;
    }
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      const Packed<T, V> packed =
          inside && valid[j] ? load_packed<T, V>(source + out_y * row + low_at[j]) : zero_packed<T, V>();
#pragma unroll
      for (int v = 0; v < V; ++v) values[j][v] = to_float(packed.value[v]);
    }
  }
};

template <typename T, int V>
struct ConcatDepthwise {
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = V == 1 ? 4 : sizeof(T) == 4 ? 2 : 3;
  static constexpr int kLanes = V == 1 ? 32 : 4;  // NHWC: lanes over channels
  static constexpr int kPixels = threads / kLanes;

  UpsampleConcatProblem concat;
  DepthwiseProblem problem;
  ConcatAxes axes;
  WalkPlan walks;

  // NHWC: blocks are tiles of columns by tiles of channels; NCHW: threads over columns and walks of a plane.
  __host__ __device__ int64_t column_tiles() const { return (problem.width + kPixels - 1) / kPixels; }
  __host__ __device__ int64_t channel_tiles() const { return (problem.channels + kLanes * V - 1) / (kLanes * V); }
  __host__ __device__ int64_t blocks_per_plane() const { return (problem.width * walks.total + threads - 1) / threads; }
  int64_t blocks() const {
    return problem.layout == Layout::nhwc ? problem.batch * channel_tiles() * walks.total * column_tiles()
                                          : problem.batch * problem.channels * blocks_per_plane();
  }

  DEEPLAB_DEVICE void operator()(uint32_t block, int thread) const {
    const bool nhwc = problem.layout == Layout::nhwc;
    int64_t image, c, x;
    uint32_t walk_index;
    if (nhwc) {
      // Channels fastest: blocks that run together share whole pixels of the output.
      const uint32_t channels = static_cast<uint32_t>(channel_tiles()), columns = static_cast<uint32_t>(column_tiles());
      c = int64_t{block % channels} * (kLanes * V) + thread % kLanes * V;
      block /= channels;
      x = int64_t{block % columns} * kPixels + thread / kLanes;
      block /= columns;
      walk_index = block % static_cast<uint32_t>(walks.total);
      image = block / static_cast<uint32_t>(walks.total);
    } else {
      const uint32_t per_plane = static_cast<uint32_t>(blocks_per_plane());
      const uint32_t plane = block / per_plane;
      const uint32_t task = block % per_plane * threads + thread;
      image = plane / static_cast<uint32_t>(problem.channels);
      c = plane % static_cast<uint32_t>(problem.channels);
      x = task % static_cast<uint32_t>(problem.width);
      walk_index = task / static_cast<uint32_t>(problem.width);
    }
    if (c >= problem.channels || x >= problem.width || walk_index >= walks.total) return;
    const GpuWalk walk = walks.at(walk_index, problem);
    ConcatColumns<T, V> columns = columns_of(image, c, x, walk.rate);
    const int64_t out_row = problem.width * (nhwc ? problem.channels : 1);
    T* output = static_cast<T*>(problem.output) + image * problem.channels * problem.height * problem.width +
                (nhwc ? x * problem.channels + c : c * problem.height * problem.width + x);
    walk_down<V, FloatColumns<V>>(
        problem, walk, c, V,
        [&](int64_t row, bool inside, float(&values)[3][V]) { columns.fetch(row, inside, values); },
        [&](int64_t y, const float(&values)[V]) { store_packed<T, V>(output + y * out_row, values); });
  }

  DEEPLAB_DEVICE ConcatColumns<T, V> columns_of(int64_t image, int64_t c, int64_t x, int64_t rate) const {
    const bool nhwc = problem.layout == Layout::nhwc;
    ConcatColumns<T, V> columns;
    columns.resized = c < concat.channels;
    const int64_t channels = columns.resized ? concat.channels : concat.low_channels;
    const int64_t height = columns.resized ? concat.in_height : concat.height;
    const int64_t width = columns.resized ? concat.in_width : concat.width;
    const int64_t own = columns.resized ? c : c - concat.channels;
    const int64_t column = nhwc ? channels : 1;
    columns.row = width * column;
    columns.source = static_cast<const T*>(columns.resized ? concat.input : concat.low) +
                     image * channels * height * width + (nhwc ? own : own * height * width);
    columns.y = axes.y;
    columns.low_row = columns.high_row = -1;
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      const int64_t at = x + (j - 1) * rate;
      columns.valid[j] = at >= 0 && at < problem.width;
      Position p = {columns.valid[j] ? at : 0, 0, 0.0f, 0};
      if (columns.resized) p = position_of(axes.x, p.low);
      columns.low_at[j] = p.low * column;
      columns.high_at[j] = p.high * column;
      columns.fraction[j] = p.fraction;
      // Columns outside the image stay zero.
#pragma unroll
      for (int v = 0; v < V; ++v) columns.low[j][v] = columns.high[j][v] = 0.0f;
    }
    return columns;
  }
};

// Whether both parts of the concatenation, and so every pixel of it, begin at a multiple of V elements.
template <typename T, int V>
bool channels_fit(const UpsampleConcatProblem& problem) {
  return problem.channels % V == 0 && problem.low_channels % V == 0 && aligned_for<T>(problem.input, V) &&
         aligned_for<T>(problem.low, V);
}

template <typename Kernel>
void run(const Kernel& kernel, const Execution& execution) {
  launch(kernel, kernel.blocks(), execution);
}

}  // namespace

void upsample_concat_cuda(const UpsampleConcatProblem& problem, const Execution& execution) {
  with_gpu_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kWide = 16 / sizeof(T);
    const ConcatAxes axes = axes_of(problem);
    if (problem.layout == Layout::nhwc) {
      if (channels_fit<T, kWide>(problem) && aligned_for<T>(problem.output, kWide)) {
        return run(ConcatNhwc<T, kWide>{problem, axes}, execution);
      }
      return run(ConcatNhwc<T, 1>{problem, axes}, execution);
    }
    if (problem.width % kWide == 0 && aligned_for<T>(problem.low, kWide) && aligned_for<T>(problem.output, kWide)) {
      return run(ConcatNchw<T, kWide>{problem, axes}, execution);
    }
    return run(ConcatNchw<T, 1>{problem, axes}, execution);
  });
}

void upsample_concat_gradient_cuda(const UpsampleConcatProblem& problem, void* dx, const Execution& execution) {
  with_gpu_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    constexpr int kWide = 16 / sizeof(T);
    const ConcatAxes axes = axes_of(problem);
    const int64_t all = problem.channels + problem.low_channels;
    if (problem.layout == Layout::nhwc && problem.channels % kWide == 0 && all % kWide == 0 &&
        aligned_for<T>(problem.output, kWide) && aligned_for<T>(dx, kWide)) {
      return run(ConcatGradient<T, kWide>{problem, axes, static_cast<T*>(dx)}, execution);
    }
    return run(ConcatGradient<T, 1>{problem, axes, static_cast<T*>(dx)}, execution);
  });
}

void upsample_concat_depthwise_cuda(const UpsampleConcatProblem& concat, const DepthwiseProblem& problem,
                                    const Execution& execution) {
  check(problem.kernel == 3, "weight: this operator needs 3x3 kernels on the GPU, got ", problem.kernel, "x",
        problem.kernel);
  with_gpu_type(problem.dtype, [&](auto type) {
    using T = decltype(type);
    const ConcatAxes axes = axes_of(concat);
    const WalkPlan walks(problem);
    // Four channels a thread: eight would hold twice the rows in registers and halve the threads in flight.
    if (problem.layout == Layout::nhwc && channels_fit<T, 4>(concat) && aligned_for<T>(problem.output, 4)) {
      return run(ConcatDepthwise<T, 4>{concat, problem, axes, walks}, execution);
    }
    return run(ConcatDepthwise<T, 1>{concat, problem, axes, walks}, execution);
  });
}

}  // namespace deeplab
