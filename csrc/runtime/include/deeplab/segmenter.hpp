// SPDX-License-Identifier: Apache-2.0
// The C++17 interface of the deeplab runtime: a header over deeplab.h, so that the library and its user need not share
// a compiler, a standard library or its settings.
//
//   deeplab::Segmenter segmenter("model.onnx");
//   deeplab::Segmentation found = segmenter.segment({pixels, height, width});
//   found.label(y, x);
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include <deeplab/deeplab.h>

namespace deeplab {

// What went wrong, see the enumeration in deeplab.h.
enum class Status : int32_t {
  invalid_argument = DEEPLAB_INVALID_ARGUMENT,
  model_file = DEEPLAB_MODEL_FILE,
  backend = DEEPLAB_BACKEND,
  image = DEEPLAB_IMAGE,
  out_of_memory = DEEPLAB_OUT_OF_MEMORY,
  internal = DEEPLAB_INTERNAL,
};

// The only exception that this interface throws on purpose; what() says what is wrong and what to do.
class Error : public std::runtime_error {
 public:
  Error(Status status, const std::string& text) : std::runtime_error(text), status_(status) {}
  Status status() const { return status_; }

 private:
  Status status_;
};

inline void check_status(deeplab_status status) {
  if (status != DEEPLAB_OK) throw Error(static_cast<Status>(status), deeplab_last_error());
}

enum class Color : int32_t { rgb = DEEPLAB_RGB, bgr = DEEPLAB_BGR };

// See deeplab_options; zeros and empty strings are the defaults.
struct Options {
  std::string backend, device, mode;
  std::array<int32_t, 2> window{}, window_stride{};
  int32_t window_batch = 0;
  int32_t threads = 0;
};

// Somebody else's 8-bit pixels, see deeplab_image.
struct Image {
  const uint8_t* data = nullptr;
  int64_t height = 0, width = 0;
  int64_t row_stride = 0;
  int32_t pixel_stride = 3;
  Color color = Color::rgb;
};

// Labels of one image; it does not need its segmenter any more.
class Segmentation {
 public:
  explicit Segmentation(deeplab_segmentation* owned) : handle_(owned) {
    view_.struct_size = sizeof(view_);
    check_status(deeplab_get_labels(owned, &view_));
  }

  int64_t height() const { return view_.height; }
  int64_t width() const { return view_.width; }
  int32_t label(int64_t y, int64_t x) const {
    const int64_t index = y * view_.width + x;
    return view_.bytes == 1 ? labels_uint8()[index] : labels_int32()[index];
  }
  // [height, width]: the first up to 256 classes, the second beyond; the other is nullptr.
  const uint8_t* labels_uint8() const {
    return view_.bytes == 1 ? static_cast<const uint8_t*>(view_.labels) : nullptr;
  }
  const int32_t* labels_int32() const {
    return view_.bytes == 4 ? static_cast<const int32_t*>(view_.labels) : nullptr;
  }
  // [height, width] probabilities of the labels; nullptr where not asked for.
  const float* scores() const { return view_.scores; }

 private:
  struct Free {
    void operator()(deeplab_segmentation* handle) const { deeplab_free(handle); }
  };
  std::unique_ptr<deeplab_segmentation, Free> handle_;
  deeplab_labels view_{};
};

// A loaded model. Movable, not copyable; segment() may be called from several threads at once.
class Segmenter {
 public:
  // Opens a .onnx, .xml or engine file. Throws Error.
  explicit Segmenter(const std::string& path, const Options& options = {}) {
    const auto text = [](const std::string& value) { return value.empty() ? nullptr : value.c_str(); };
    deeplab_options plain{};
    plain.struct_size = sizeof(plain);
    plain.backend = text(options.backend);
    plain.device = text(options.device);
    plain.mode = text(options.mode);
    for (int i : {0, 1}) {
      plain.window[i] = options.window[i];
      plain.window_stride[i] = options.window_stride[i];
    }
    plain.window_batch = options.window_batch;
    plain.threads = options.threads;
    deeplab_segmenter* opened = nullptr;
    check_status(deeplab_open(path.c_str(), &plain, &opened));
    handle_.reset(opened);
    info_.struct_size = sizeof(info_);
    check_status(deeplab_get_info(opened, &info_));
    for (int32_t index = 0; index < info_.num_classes; ++index) {
      classes_.emplace_back(deeplab_class_name(opened, index));
      const uint8_t* color = deeplab_class_color(opened, index);
      palette_.push_back({color[0], color[1], color[2]});
    }
  }

  // Labels at the image's size, with `scores` also their probabilities. Throws Error.
  Segmentation segment(const Image& image, bool scores = false) const {
    deeplab_image plain{};
    plain.struct_size = sizeof(plain);
    plain.data = image.data;
    plain.height = image.height;
    plain.width = image.width;
    plain.row_stride = image.row_stride;
    plain.pixel_stride = image.pixel_stride;
    plain.color = static_cast<int32_t>(image.color);
    deeplab_segmentation* found = nullptr;
    check_status(deeplab_segment(handle_.get(), &plain, scores ? 1 : 0, &found));
    return Segmentation(found);
  }

  const std::vector<std::string>& classes() const { return classes_; }
  // R, G, B of every class.
  const std::vector<std::array<uint8_t, 3>>& palette() const { return palette_; }
  // Its strings live as long as the segmenter.
  const deeplab_info& info() const { return info_; }

 private:
  struct Close {
    void operator()(deeplab_segmenter* handle) const { deeplab_close(handle); }
  };
  std::unique_ptr<deeplab_segmenter, Close> handle_;
  deeplab_info info_{};
  std::vector<std::string> classes_;
  std::vector<std::array<uint8_t, 3>> palette_;
};

}  // namespace deeplab
