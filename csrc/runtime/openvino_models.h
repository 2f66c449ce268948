// SPDX-License-Identifier: Apache-2.0
// Compiled OpenVINO models of one network, by the size of their input: deeplab_infer/runtime/openvino_sizes.py.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <openvino/openvino.hpp>

#include "runtime/pool.h"

namespace deeplab::runtime {

struct CompiledNetwork {
  explicit CompiledNetwork(ov::CompiledModel model) : compiled(std::move(model)) {}

  ov::CompiledModel compiled;
  Pool<ov::InferRequest> requests;
};

// A network for inputs of any size, and compiled once more for each size that comes again: shapes that are known let
// OpenVINO choose its kernels and place its memory beforehand, which is worth a compilation and a copy of the weights
// from the second image on.
class SizedModels {
 public:
  // Compiles for a shape, or for all where it is nullptr.
  using Compile = std::function<ov::CompiledModel(const ov::Shape*)>;

  // by_size: whether sizes are open and worth a model of their own.
  SizedModels(Compile compile, bool by_size)
      : compile_(std::move(compile)), by_size_(by_size), any_(std::make_shared<CompiledNetwork>(compile_(nullptr))) {}

  // The model for inputs of this shape. Any number of threads may call it.
  std::shared_ptr<CompiledNetwork> pick(const ov::Shape& shape);

 private:
  bool comes_again(const ov::Shape& shape);

  struct Sized {
    ov::Shape shape;
    std::shared_ptr<CompiledNetwork> network;
  };

  Compile compile_;
  bool by_size_;
  std::shared_ptr<CompiledNetwork> any_;
  std::mutex mutex_;
  std::list<Sized> sized_;     // the longest unused first
  std::list<ov::Shape> seen_;  // once, the oldest first
};

}  // namespace deeplab::runtime
