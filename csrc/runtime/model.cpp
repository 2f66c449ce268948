// SPDX-License-Identifier: Apache-2.0
#include "runtime/model.h"

#include <algorithm>
#include <cstring>

#include "common/execution.h"
#include "ops/merge_windows.h"
#include "ops/preprocess.h"
#include "ops/upsample_argmax.h"
#include "runtime/error.h"
#include "runtime/resize_taps.h"
#include "runtime/windows.h"

namespace deeplab::runtime {
namespace {

Execution on_cpu(int threads) {
  Execution execution;
  execution.threads = threads;
  return execution;
}

void check_limits(const char* name, int64_t size, const Range& range) {
  require(range[0] <= size && size <= range[2], DEEPLAB_BACKEND, name, " ", size,
          " is outside what the model was exported for (", range[0], "..", range[2], "); export again with --", name, " ",
          std::min(range[0], size), ":", size, ":", std::max(range[2], size));
}

}  // namespace

Model::Model(const std::string& path, const ModelOptions& options) : threads_(options.threads) {
  OpenedModel opened = open_model(path, options.backend, {options.device, options.threads});
  manifest_ = std::move(opened.manifest);
  backend_ = std::move(opened.backend);
  slide_ = options.mode.empty() ? manifest_.slide : options.mode == "slide";
  window_ = options.window.value_or(manifest_.window.value_or(Size{0, 0}));
  window_stride_ = options.window_stride.value_or(manifest_.window_stride.value_or(Size{0, 0}));
  window_batch_ = std::min(options.window_batch, manifest_.batch[2]);
  check_options(options);
}

void Model::check_options(const ModelOptions& options) const {
  constexpr deeplab_status bad = DEEPLAB_INVALID_ARGUMENT;
  require(options.mode.empty() || options.mode == "whole" || options.mode == "slide", bad, "mode '", options.mode,
          "' is not 'whole' or 'slide'");
  if (!slide_) return;
  require(window_.height >= 1 && window_.width >= 1 && window_stride_.height >= 1 && window_stride_.width >= 1, bad,
          "mode 'slide' needs window and window_stride of at least 1, got ", window_.height, " x ", window_.width,
          " and ", window_stride_.height, " x ", window_stride_.width);
  require(window_stride_.height <= window_.height && window_stride_.width <= window_.width, bad, "window_stride ",
          window_stride_.height, " x ", window_stride_.width, " is larger than window ", window_.height, " x ",
          window_.width, ": pixels between windows would have no class");
  require(!manifest_.labels_output, bad,
          "this model was exported with --output labels; windows need logits: export it with --output logits");
}

// deeplab_infer/preprocess.py: network_size().
Size Model::network_size(const Size& image) const {
  if (const auto fixed = manifest_.fixed_size(); fixed && !slide_) return *fixed;
  if (!manifest_.test_scale) return image;
  const auto [a, b] = *manifest_.test_scale;
  const auto ratio = [](int64_t limit, int64_t side) { return static_cast<double>(limit) / static_cast<double>(side); };
  const double scale = std::min(ratio(std::max(a, b), std::max(image.height, image.width)),
                                ratio(std::min(a, b), std::min(image.height, image.width)));
  const auto scaled = [&](int64_t side) {
    const double product = static_cast<double>(side) * scale;
    return std::max<int64_t>(1, static_cast<int64_t>(product + 0.5));
  };
  return {scaled(image.height), scaled(image.width)};
}

Labels Model::segment(const deeplab_image& image, bool scores) const {
  require(!scores || !manifest_.labels_output, DEEPLAB_INVALID_ARGUMENT,
          "this model was exported with --output labels and has no scores; export it with --output logits");
  const Pixels pixels(image);
  const Size size = network_size(pixels.size());
  const auto label = slide_ ? &Model::slide_windows : &Model::whole;
  if (pixels.size() == size) return (this->*label)(pixels, size, scores);
  return (this->*label)(resize_pixels(pixels, size, threads_), pixels.size(), scores);
}

void Model::run(const uint8_t* images, int64_t count, const Size& size,
                const std::function<void(const TensorView&)>& use) const {
  check_limits("height", size.height, manifest_.height);
  check_limits("width", size.width, manifest_.width);
  const int64_t batch = std::max(count, manifest_.batch[0]), bytes = size.height * size.width * 3;
  std::vector<uint8_t> filled;  // a fixed batch is filled up with the last image
  if (batch > count) {
    filled.resize(batch * bytes);
    for (int64_t i = 0; i < batch; ++i) std::memcpy(&filled[i * bytes], images + std::min(i, count - 1) * bytes, bytes);
    images = filled.data();
  }
  const auto checked = [&](const TensorView& output) {
    check_output(output, batch, size);
    use(output);
  };
  const TensorView pixels = packed_view(images, DType::uint8, {batch, size.height, size.width, 3});
  if (!manifest_.float_input) {
    backend_->run(pixels, checked);
    return;
  }
  std::vector<float> values(batch * bytes);
  const TensorView input = packed_view(values.data(), DType::float32, {batch, 3, size.height, size.width});
  preprocess(pixels, input, manifest_.mean, manifest_.std, manifest_.reverse_channels, on_cpu(threads_));
  backend_->run(input, checked);
}

void Model::check_output(const TensorView& output, int64_t batch, const Size& size) const {
  bool fits = false;
  if (manifest_.labels_output) {
    fits = output.dtype == (manifest_.labels_int32() ? DType::int32 : DType::uint8) && output.dims == 3 &&
           output.shape[1] == size.height && output.shape[2] == size.width;
  } else {
    fits = output.dtype == DType::float32 && output.dims == 4 && output.shape[1] == manifest_.num_classes() &&
           output.shape[2] >= 1 && output.shape[3] >= 1;
  }
  require(fits && output.shape[0] == batch, DEEPLAB_MODEL_FILE, "the network gives ", name_of(output.dtype), " ",
          shape_text(output), ", which is not what its manifest promises (", manifest_.num_classes(), " classes)");
}

Labels Model::whole(const Pixels& image, const Size& result, bool scores) const {
  Labels labels;
  run(image.data(), 1, image.size(), [&](const TensorView& output) {
    if (manifest_.labels_output) {
      labels = resized_labels(output.slice(0), result);
      return;
    }
    const bool twice = manifest_.resize_logits_twice && result != image.size();
    labels = labels_of(output.slice(0), result, twice ? std::optional(image.size()) : std::nullopt, scores);
  });
  return labels;
}

Labels Model::slide_windows(const Pixels& image, const Size& result, bool scores) const {
  const Size size = image.size();
  const Windows windows = place_windows(size, window_, window_stride_);
  const int64_t count = windows.count(), runs = (count + window_batch_ - 1) / window_batch_;
  const int64_t each = (count + runs - 1) / runs;  // as equal as they can be: a network likes to see few sizes
  const int64_t line = windows.size.width * 3;
  std::vector<uint8_t> group(each * windows.size.height * line);
  std::vector<float> logits;
  std::vector<int64_t> shape;  // of one window's logits
  for (int64_t done = 0; done < count; done += each) {
    const int64_t now = std::min(each, count - done);
    uint8_t* target = group.data();
    for (int64_t i = done; i < done + now; ++i) {
      const uint8_t* source = image.data() + (windows.top(i) * size.width + windows.left(i)) * 3;
      for (int64_t y = 0; y < windows.size.height; ++y, target += line, source += size.width * 3) {
        std::memcpy(target, source, line);
      }
    }
    run(group.data(), now, windows.size, [&](const TensorView& output) {
      const std::vector<int64_t> found(output.shape.begin() + 1, output.shape.begin() + 4);
      if (done == 0) shape = found;
      require(found == shape, DEEPLAB_BACKEND, "the network gives logits of another size for the same window");
      const auto* values = static_cast<const float*>(output.data);
      logits.insert(logits.end(), values, values + now * output.strides[0]);
    });
  }
  std::vector<float> merged(shape[0] * size.height * size.width);
  const TensorView map = packed_view(merged.data(), DType::float32, {shape[0], size.height, size.width});
  merge_windows(packed_view(logits.data(), DType::float32, {count, shape[0], shape[1], shape[2]}), map,
                {window_.height, window_.width}, {window_stride_.height, window_stride_.width},
                manifest_.align_corners, on_cpu(threads_));
  return labels_of(map, result, std::nullopt, scores);
}

Labels Model::labels_of(const TensorView& logits, const Size& result, const std::optional<Size>& via,
                        bool scores) const {
  const auto taps = [&](int64_t in, int64_t out, int64_t Size::* side) {
    return resize_taps(in, out, manifest_.align_corners, via ? std::optional((*via).*side) : std::nullopt);
  };
  const Taps y = taps(logits.shape[1], result.height, &Size::height);
  const Taps x = taps(logits.shape[2], result.width, &Size::width);
  const int64_t count = result.height * result.width;
  Labels labels{result, {}, {}, {}};
  UpsampleArgmaxParams params{};
  params.logits = static_cast<const float*>(logits.data);
  params.batch = 1;
  params.channels = logits.shape[0];
  params.height = logits.shape[1];
  params.width = logits.shape[2];
  params.y = y.table();
  params.x = x.table();
  if (manifest_.labels_int32()) {
    labels.int32.resize(count);
    params.labels_int32 = labels.int32.data();
  } else {
    labels.uint8.resize(count);
    params.labels_uint8 = labels.uint8.data();
  }
  if (scores) {
    labels.scores.resize(count);
    params.scores = labels.scores.data();
  }
  params.threads = threads_;
  params.instruction_set = on_cpu(threads_).instruction_set;
  upsample_argmax(params);
  return labels;
}

Labels Model::resized_labels(const TensorView& labels, const Size& result) const {
  Labels found{result, {}, {}, {}};
  const Size from{labels.shape[0], labels.shape[1]};
  const auto resize = [&](auto& target) {
    using T = typename std::decay_t<decltype(target)>::value_type;
    target.resize(result.height * result.width);
    resize_nearest(static_cast<const T*>(labels.data), from, target.data(), result);
    // A caller looks labels up in classes and palette.
    const auto [low, high] = std::minmax_element(target.begin(), target.end());
    require(*low >= 0 && *high < manifest_.num_classes(), DEEPLAB_MODEL_FILE, "the network gives labels ", int64_t{*low},
            " to ", int64_t{*high}, ", but its manifest has ", manifest_.num_classes(), " classes");
  };
  manifest_.labels_int32() ? resize(found.int32) : resize(found.uint8);
  return found;
}

}  // namespace deeplab::runtime
