// SPDX-License-Identifier: Apache-2.0
// From an image to its labels, as deeplab_infer/segmenter.py does it: preprocess, run, upsample and argmax.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/backend.h"
#include "runtime/pixels.h"

namespace deeplab::runtime {

// What deeplab_options says, with the defaults put in where they do not depend on the model.
struct ModelOptions {
  std::string backend = "auto", device = "auto";
  std::string mode;                           // empty: the model's
  std::optional<Size> window, window_stride;  // the model's
  int64_t window_batch = 4;
  int threads = 0;  // 0: all
};

struct Labels {
  Size size;
  std::vector<uint8_t> uint8;  // exactly one of the two is filled, [height, width]
  std::vector<int32_t> int32;
  std::vector<float> scores;  // [height, width], or empty
};

// May be used from several threads at once.
class Model {
 public:
  // Throws StatusError.
  Model(const std::string& path, const ModelOptions& options);

  // Throws StatusError, std::bad_alloc.
  Labels segment(const deeplab_image& image, bool scores) const;

  const Manifest& manifest() const { return manifest_; }
  const Backend& backend() const { return *backend_; }
  bool slide() const { return slide_; }

 private:
  void check_options(const ModelOptions& options) const;
  Size network_size(const Size& image) const;
  // `count` packed RGB images of one size through the network, in one batch.
  void run(const uint8_t* images, int64_t count, const Size& size,
           const std::function<void(const TensorView&)>& use) const;
  void check_output(const TensorView& output, int64_t batch, const Size& size) const;
  // Labels of size `result` of an image that has the network's size.
  Labels whole(const Pixels& image, const Size& result, bool scores) const;
  Labels slide_windows(const Pixels& image, const Size& result, bool scores) const;
  // Of logits [C, h, w], by way of a first resize where given.
  Labels labels_of(const TensorView& logits, const Size& result, const std::optional<Size>& via, bool scores) const;
  // Of labels [h, w], by nearest neighbour.
  Labels resized_labels(const TensorView& labels, const Size& result) const;

  Manifest manifest_;
  std::unique_ptr<Backend> backend_;
  bool slide_ = false;
  Size window_{}, window_stride_{};
  int64_t window_batch_ = 1;
  int threads_ = 0;
};

}  // namespace deeplab::runtime
