// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace deeplab {

// Scratch that begins on a cache line: a vector load that straddles two lines costs two loads.
template <typename T>
struct LineAllocator {
  using value_type = T;
  static constexpr std::align_val_t line{64};

  LineAllocator() = default;
  template <typename Other>
  LineAllocator(const LineAllocator<Other>&) {}

  T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), line)); }
  void deallocate(T* pointer, std::size_t) { ::operator delete(pointer, line); }
  friend bool operator==(const LineAllocator&, const LineAllocator&) { return true; }
  friend bool operator!=(const LineAllocator&, const LineAllocator&) { return false; }
};

template <typename T>
using Scratch = std::vector<T, LineAllocator<T>>;

// `count` values rounded up to whole lines.
template <typename T>
constexpr int64_t whole_lines(int64_t count) {
  constexpr int64_t values = 64 / static_cast<int64_t>(sizeof(T));
  return (count + values - 1) / values * values;
}

}  // namespace deeplab
