// SPDX-License-Identifier: Apache-2.0
// Objects that one call at a time may use: as many are made as calls run at once, and they are kept.
#pragma once

#include <memory>
#include <mutex>
#include <vector>

namespace deeplab::runtime {

template <typename T>
class Pool {
 public:
  // Gives an idle object, or one that make() returns, to use(object). An object whose use throws is not kept.
  template <typename Make, typename Use>
  void with(Make&& make, Use&& use) {
    std::unique_ptr<T> object = take();
    if (object == nullptr) object = make();
    use(*object);
    const std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back(std::move(object));
  }

 private:
  std::unique_ptr<T> take() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (idle_.empty()) return nullptr;
    std::unique_ptr<T> object = std::move(idle_.back());
    idle_.pop_back();
    return object;
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<T>> idle_;
};

}  // namespace deeplab::runtime
