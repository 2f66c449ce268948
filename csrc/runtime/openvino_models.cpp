// SPDX-License-Identifier: Apache-2.0
#include "runtime/openvino_models.h"

#include <algorithm>

namespace deeplab::runtime {
namespace {

constexpr size_t kKeptSizes = 4;
constexpr size_t kRemembered = 64;

}  // namespace

std::shared_ptr<CompiledNetwork> SizedModels::pick(const ov::Shape& shape) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = std::find_if(sized_.begin(), sized_.end(), [&](const Sized& one) { return one.shape == shape; });
  if (found != sized_.end()) {
    sized_.splice(sized_.end(), sized_, found);
    return found->network;
  }
  if (!by_size_ || !comes_again(shape)) return any_;
  while (sized_.size() >= kKeptSizes) sized_.pop_front();
  sized_.push_back({shape, std::make_shared<CompiledNetwork>(compile_(&shape))});
  return sized_.back().network;
}

bool SizedModels::comes_again(const ov::Shape& shape) {
  const auto found = std::find(seen_.begin(), seen_.end(), shape);
  if (found != seen_.end()) {
    seen_.erase(found);
    return true;
  }
  seen_.push_back(shape);
  if (seen_.size() > kRemembered) seen_.pop_front();
  return false;
}

}  // namespace deeplab::runtime
