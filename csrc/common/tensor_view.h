// SPDX-License-Identifier: Apache-2.0
// An array of somebody else's memory: where it is, of what type, with which shape and strides. Every operator takes
// its arrays as views, and every check of a view is here.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

namespace deeplab {

enum class DType { float64, float32, float16, bfloat16, uint8, int32 };
enum class Device { cpu, cuda };
// Order of a [N, C, H, W] array in memory.
enum class Layout { nchw, nhwc };

const char* name_of(DType dtype);
int64_t size_of(DType dtype);

constexpr int kMaxDims = 5;

struct TensorView {
  void* data = nullptr;
  DType dtype = DType::float32;
  Device device = Device::cpu;
  int device_index = 0;
  int dims = 0;
  std::array<int64_t, kMaxDims> shape{};
  std::array<int64_t, kMaxDims> strides{};  // in elements
  bool writable = true;

  int64_t elements() const;
  // The index-th slice along the first axis.
  TensorView slice(int64_t index) const;
};

struct NamedView {
  const char* name;
  const TensorView* view;
};

std::string shape_text(const TensorView& view);

// Throws TypeMismatch unless the view has one of these types.
void check_dtype(const char* name, const TensorView& view, std::initializer_list<DType> accepted);
// Throws std::invalid_argument unless the view has this shape; `meaning` spells it, e.g. "[rates, C, k, k]".
void check_shape(const char* name, const TensorView& view, const std::vector<int64_t>& shape, const char* meaning);
// Throws std::invalid_argument unless rows follow each other without gaps in C order.
void check_contiguous(const char* name, const TensorView& view);
// Layout of a [N, C, H, W] view. Where sizes of 1 leave both open, `preferred` wins if it fits.
Layout check_layout(const char* name, const TensorView& view, Layout preferred = Layout::nchw);
// Throws unless all views are on one device.
void check_same_device(std::initializer_list<NamedView> views);
// Throws unless `output` can be written and shares no memory with the inputs.
void check_output(const NamedView& output, std::initializer_list<NamedView> inputs);

}  // namespace deeplab
