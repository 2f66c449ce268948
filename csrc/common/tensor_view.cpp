// SPDX-License-Identifier: Apache-2.0
#include "common/tensor_view.h"

#include <algorithm>

#include "common/check.h"

namespace deeplab {
namespace {

struct TypeFacts {
  DType dtype;
  const char* name;
  int64_t size;
};

constexpr TypeFacts kTypes[] = {
    {DType::float64, "float64", 8},   {DType::float32, "float32", 4}, {DType::float16, "float16", 2},
    {DType::bfloat16, "bfloat16", 2}, {DType::uint8, "uint8", 1},     {DType::int32, "int32", 4},
};

const TypeFacts& facts_of(DType dtype) {
  return kTypes[static_cast<int>(dtype)];
}

// Strides of axes of length 1 say nothing.
bool follows(const TensorView& view, std::initializer_list<int> slow_to_fast) {
  int64_t expected = 1;
  for (auto axis = slow_to_fast.end(); axis != slow_to_fast.begin();) {
    --axis;
    if (view.shape[*axis] != 1 && view.strides[*axis] != expected) return false;
    expected *= view.shape[*axis];
  }
  return true;
}

std::string strides_text(const TensorView& view) {
  std::string text = "[";
  for (int i = 0; i < view.dims; ++i) text += (i ? ", " : "") + std::to_string(view.strides[i]);
  return text + "]";
}

}  // namespace

const char* name_of(DType dtype) {
  return facts_of(dtype).name;
}

int64_t size_of(DType dtype) {
  return facts_of(dtype).size;
}

int64_t TensorView::elements() const {
  int64_t count = 1;
  for (int i = 0; i < dims; ++i) count *= shape[i];
  return count;
}

TensorView TensorView::slice(int64_t index) const {
  TensorView part = *this;
  part.data = static_cast<char*>(data) + index * strides[0] * size_of(dtype);
  --part.dims;
  std::copy(shape.begin() + 1, shape.end(), part.shape.begin());
  std::copy(strides.begin() + 1, strides.end(), part.strides.begin());
  return part;
}

std::string shape_text(const TensorView& view) {
  std::string text = "[";
  for (int i = 0; i < view.dims; ++i) text += (i ? ", " : "") + std::to_string(view.shape[i]);
  return text + "]";
}

void check_dtype(const char* name, const TensorView& view, std::initializer_list<DType> accepted) {
  std::string text;
  for (DType dtype : accepted) {
    if (view.dtype == dtype) return;
    text += (text.empty() ? "" : " or ") + std::string(name_of(dtype));
  }
  throw TypeMismatch(message(name, ": got dtype ", name_of(view.dtype), ", needs ", text));
}

void check_shape(const char* name, const TensorView& view, const std::vector<int64_t>& shape, const char* meaning) {
  if (view.dims == static_cast<int>(shape.size()) && std::equal(shape.begin(), shape.end(), view.shape.begin())) return;
  std::string wanted = "[";
  for (size_t i = 0; i < shape.size(); ++i) wanted += (i ? ", " : "") + std::to_string(shape[i]);
  check(false, name, ": got shape ", shape_text(view), ", needs ", meaning, " = ", wanted, "]");
}

void check_contiguous(const char* name, const TensorView& view) {
  int64_t expected = 1;
  for (int axis = view.dims - 1; axis >= 0; --axis) {
    if (view.elements() > 0 && view.shape[axis] != 1) {
      check(view.strides[axis] == expected, name, ": is not C-contiguous (shape ", shape_text(view), ", strides ",
            strides_text(view), "); make a contiguous copy of it");
    }
    expected *= view.shape[axis];
  }
}

Layout check_layout(const char* name, const TensorView& view, Layout preferred) {
  check(view.dims == 4, name, ": got shape ", shape_text(view), ", needs [N, C, H, W]");
  const bool nchw = view.elements() == 0 || follows(view, {0, 1, 2, 3});
  const bool nhwc = view.elements() == 0 || follows(view, {0, 2, 3, 1});
  check(nchw || nhwc, name, ": is neither contiguous [N, C, H, W] nor channels-last (shape ", shape_text(view),
        ", strides ", strides_text(view), "); make a contiguous copy of it");
  if (nchw && nhwc) return preferred;
  return nchw ? Layout::nchw : Layout::nhwc;
}

void check_same_device(std::initializer_list<NamedView> views) {
  const NamedView& first = *views.begin();
  for (const NamedView& other : views) {
    if (other.view->device == first.view->device && other.view->device_index == first.view->device_index) continue;
    const auto place = [](const TensorView& view) {
      return view.device == Device::cpu ? std::string("the CPU") : "CUDA device " + std::to_string(view.device_index);
    };
    check(false, other.name, ": is on ", place(*other.view), ", but ", first.name, " is on ", place(*first.view),
          "; all arrays must be on one device");
  }
}

void check_output(const NamedView& output, std::initializer_list<NamedView> inputs) {
  const TensorView& out = *output.view;
  check(out.writable, output.name, ": is read-only");
  const auto range = [](const TensorView& view) {
    int64_t low = 0;
    int64_t high = 0;
    for (int i = 0; i < view.dims; ++i) {
      const int64_t reach = (view.shape[i] - 1) * view.strides[i];
      (reach < 0 ? low : high) += reach;
    }
    const auto base = reinterpret_cast<intptr_t>(view.data);
    return std::pair(base + low * size_of(view.dtype), base + (high + 1) * size_of(view.dtype));
  };
  if (out.elements() == 0) return;
  const auto [begin, end] = range(out);
  for (const NamedView& input : inputs) {
    if (input.view->elements() == 0) continue;
    const auto [input_begin, input_end] = range(*input.view);
    check(input_end <= begin || end <= input_begin, output.name, ": overlaps ", input.name, " in memory");
  }
}

}  // namespace deeplab
