// SPDX-License-Identifier: Apache-2.0
#include "bindings/arrays.h"

#include <string>
#include <vector>

#include "common/check.h"
#include "common/cuda_support.h"

namespace py = pybind11;

namespace deeplab {
namespace {

std::string type_name(py::handle object) {
  return py::str(py::type::handle_of(object).attr("__name__"));
}

void set_axes(const char* name, TensorView& view, int dims) {
  check(dims <= kMaxDims, name, ": has ", dims, " axes; at most ", kMaxDims, " are accepted");
  view.dims = dims;
}

void set_c_strides(TensorView& view) {
  int64_t stride = 1;
  for (int i = view.dims - 1; i >= 0; --i) {
    view.strides[i] = stride;
    stride *= view.shape[i];
  }
}

// Strides in bytes must be whole elements.
int64_t elements_of(const char* name, int64_t bytes, int64_t size) {
  check(bytes % size == 0, name, ": has a stride of ", bytes, " bytes, not a multiple of its element size ", size);
  return bytes / size;
}

// From numpy's type strings, also used by __cuda_array_interface__: byte order, kind, bytes.
DType dtype_of_typestr(const char* name, const std::string& text) {
  struct Entry {
    const char* text;
    DType dtype;
  };
  static constexpr Entry entries[] = {{"<f8", DType::float64}, {"<f4", DType::float32}, {"<f2", DType::float16},
                                      {"|u1", DType::uint8},   {"<u1", DType::uint8},   {"<i4", DType::int32}};
  for (const Entry& entry : entries) {
    if (text == entry.text) return entry.dtype;
  }
  throw TypeMismatch(message(name, ": got elements of type '", text,
                             "', needs little-endian float64, float32, float16, bfloat16, uint8 or int32"));
}

Array from_numpy(const char* name, const py::array& array) {
  Array result;
  TensorView& view = result.view;
  const py::dtype dtype = array.dtype();
  if (dtype.kind() == 'V' && std::string(py::str(dtype)) == "bfloat16") {  // ml_dtypes
    view.dtype = DType::bfloat16;
  } else {
    view.dtype = dtype_of_typestr(name, py::str(dtype.attr("str")));
  }
  set_axes(name, view, static_cast<int>(array.ndim()));
  for (int i = 0; i < view.dims; ++i) {
    view.shape[i] = array.shape(i);
    view.strides[i] = elements_of(name, array.strides(i), array.itemsize());
  }
  view.data = const_cast<void*>(array.data());
  view.writable = array.writeable();
  result.owner = array;
  return result;
}

// torch's dtypes are singletons: their addresses name them.
DType dtype_of_torch(const char* name, py::handle dtype) {
  static const std::vector<std::pair<PyObject*, DType>> known = [] {
    const py::module_ torch = py::module_::import("torch");
    std::vector<std::pair<PyObject*, DType>> pairs;
    for (DType d : {DType::float32, DType::float16, DType::bfloat16, DType::float64, DType::uint8, DType::int32}) {
      pairs.emplace_back(torch.attr(name_of(d)).ptr(), d);
    }
    return pairs;
  }();
  for (const auto& [object, value] : known) {
    if (dtype.ptr() == object) return value;
  }
  throw TypeMismatch(message(name, ": got dtype ", std::string(py::str(dtype)),
                             ", needs float64, float32, float16, bfloat16, uint8 or int32"));
}

Array from_torch(const char* name, py::handle tensor) {
  Array result;
  TensorView& view = result.view;
  if (!tensor.attr("is_cuda").cast<bool>() && !tensor.attr("is_cpu").cast<bool>()) {
    throw TypeMismatch(message(name, ": is on device '", std::string(py::str(tensor.attr("device"))),
                               "', needs a CPU or CUDA tensor"));
  }
  view.dtype = dtype_of_torch(name, tensor.attr("dtype"));
  const py::tuple shape = tensor.attr("shape");
  const py::tuple strides = tensor.attr("stride")();
  set_axes(name, view, static_cast<int>(shape.size()));
  for (int i = 0; i < view.dims; ++i) {
    view.shape[i] = shape[i].cast<int64_t>();
    view.strides[i] = strides[i].cast<int64_t>();
  }
  view.data = reinterpret_cast<void*>(tensor.attr("data_ptr")().cast<uintptr_t>());
  const int device = tensor.attr("get_device")().cast<int>();
  view.device = device < 0 ? Device::cpu : Device::cuda;
  view.device_index = std::max(device, 0);
  result.owner = py::reinterpret_borrow<py::object>(tensor);
  return result;
}

Array from_cuda_interface(const char* name, py::handle object, intptr_t stream) {
  Array result;
  TensorView& view = result.view;
  const py::dict facts = object.attr("__cuda_array_interface__");
  view.dtype = dtype_of_typestr(name, py::str(facts["typestr"]));
  const py::tuple shape = facts["shape"];
  set_axes(name, view, static_cast<int>(shape.size()));
  for (int i = 0; i < view.dims; ++i) view.shape[i] = shape[i].cast<int64_t>();
  set_c_strides(view);
  if (facts.contains("strides") && !facts["strides"].is_none()) {
    const py::tuple strides = facts["strides"];
    for (int i = 0; i < view.dims; ++i) {
      view.strides[i] = elements_of(name, strides[i].cast<int64_t>(), size_of(view.dtype));
    }
  }
  const py::tuple data = facts["data"];
  view.data = reinterpret_cast<void*>(data[0].cast<uintptr_t>());
  view.writable = !data[1].cast<bool>();
  view.device = Device::cuda;
  view.device_index = cuda_device_of(view.data);
  if (facts.contains("stream") && !facts["stream"].is_none()) {
    order_streams(view, facts["stream"].cast<intptr_t>(), stream);
  }
  result.owner = py::reinterpret_borrow<py::object>(object);
  return result;
}

// The stable part of dlpack.h.
struct DlDevice {
  int32_t type, index;
};
struct DlType {
  uint8_t code, bits;
  uint16_t lanes;
};
struct DlTensor {
  void* data;
  DlDevice device;
  int32_t dims;
  DlType type;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};
enum : int32_t { kDlCpu = 1, kDlCuda = 2, kDlCudaHost = 3, kDlCudaManaged = 13 };
enum : uint8_t { kDlInt = 0, kDlUInt = 1, kDlFloat = 2, kDlBfloat = 4 };

DType dtype_of_dlpack(const char* name, const DlType& type) {
  struct Entry {
    uint8_t code, bits;
    DType dtype;
  };
  static constexpr Entry entries[] = {{kDlFloat, 64, DType::float64}, {kDlFloat, 32, DType::float32},
                                      {kDlFloat, 16, DType::float16}, {kDlBfloat, 16, DType::bfloat16},
                                      {kDlUInt, 8, DType::uint8},     {kDlInt, 32, DType::int32}};
  for (const Entry& entry : entries) {
    if (type.code == entry.code && type.bits == entry.bits && type.lanes == 1) return entry.dtype;
  }
  throw TypeMismatch(message(name, ": got a DLPack type (code ", int{type.code}, ", ", int{type.bits}, " bits, ",
                             type.lanes, " lanes), needs float64, float32, float16, bfloat16, uint8 or int32"));
}

Array from_dlpack(const char* name, py::handle object, intptr_t stream) {
  Array result;
  const auto place = object.attr("__dlpack_device__")().cast<std::pair<int, int>>();
  const bool gpu = place.first == kDlCuda || place.first == kDlCudaManaged;
  if (!gpu && place.first != kDlCpu && place.first != kDlCudaHost) {
    throw TypeMismatch(message(name, ": is on DLPack device type ", place.first, ", needs the CPU or CUDA"));
  }
  // 1 is DLPack's name of the legacy default stream. The capsule is only borrowed: its destructor frees the tensor.
  py::object capsule = gpu ? object.attr("__dlpack__")(py::arg("stream") = stream == 0 ? intptr_t{1} : stream)
                           : object.attr("__dlpack__")();
  const auto* tensor = static_cast<const DlTensor*>(PyCapsule_GetPointer(capsule.ptr(), "dltensor"));
  if (tensor == nullptr) throw py::error_already_set();
  TensorView& view = result.view;
  view.dtype = dtype_of_dlpack(name, tensor->type);
  set_axes(name, view, tensor->dims);
  for (int i = 0; i < view.dims; ++i) view.shape[i] = tensor->shape[i];
  set_c_strides(view);
  for (int i = 0; i < view.dims && tensor->strides != nullptr; ++i) view.strides[i] = tensor->strides[i];
  view.data = static_cast<char*>(tensor->data) + tensor->byte_offset;
  view.device = gpu ? Device::cuda : Device::cpu;
  view.device_index = gpu ? tensor->device.index : 0;
  result.owner = std::move(capsule);
  return result;
}

Array from_buffer(const char* name, py::handle object) {
  Array result;
  result.buffer = std::make_unique<py::buffer_info>(py::reinterpret_borrow<py::buffer>(object).request());
  const py::buffer_info& info = *result.buffer;
  TensorView& view = result.view;
  view.dtype = dtype_of_typestr(name, py::str(py::dtype(info.format).attr("str")));
  set_axes(name, view, static_cast<int>(info.ndim));
  for (int i = 0; i < view.dims; ++i) {
    view.shape[i] = info.shape[i];
    view.strides[i] = elements_of(name, info.strides[i], info.itemsize);
  }
  view.data = info.ptr;
  view.writable = !info.readonly;
  return result;
}

}  // namespace

Array array_of(const char* name, py::handle object, intptr_t stream) {
  if (py::isinstance<py::array>(object)) return from_numpy(name, py::reinterpret_borrow<py::array>(object));
  if (py::hasattr(object, "data_ptr") && py::hasattr(object, "get_device")) return from_torch(name, object);
  if (py::hasattr(object, "__cuda_array_interface__")) return from_cuda_interface(name, object, stream);
  if (py::hasattr(object, "__dlpack__") && py::hasattr(object, "__dlpack_device__")) {
    return from_dlpack(name, object, stream);
  }
  if (PyObject_CheckBuffer(object.ptr())) return from_buffer(name, object);
  throw TypeMismatch(message(name, ": got ", type_name(object),
                             ", needs an array: numpy, torch, DLPack, __cuda_array_interface__ or a buffer"));
}

Array optional_array_of(const char* name, py::handle object, intptr_t stream) {
  return object.is_none() ? Array{} : array_of(name, object, stream);
}

}  // namespace deeplab
