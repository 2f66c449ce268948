// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/plugin.h"

#include <cuda_runtime_api.h>

#include <stdexcept>

#include "common/check.h"

namespace deeplab::tensorrt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr int kImageDims = 4;

DType dtype_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT: return DType::float32;
    case DataType::kHALF: return DType::float16;
    case DataType::kBF16: return DType::bfloat16;
    case DataType::kINT32: return DType::int32;
    default: throw TypeMismatch(message("TensorRT's data type ", static_cast<int32_t>(type), " is not supported"));
  }
}

TensorView view_of(const PluginTensorDesc& description, void* data, const Call& call) {
  TensorView view;
  view.data = data;
  view.dtype = dtype_of(description.type);
  view.device = call.device;
  view.device_index = call.device_index;
  view.dims = description.dims.nbDims;
  check(view.dims <= kMaxDims, "got an array of ", view.dims, " dimensions, ", kMaxDims, " are accepted");
  const bool channels_last = description.format != TensorFormat::kLINEAR;
  std::vector<int> fast_to_slow;
  for (int axis = view.dims - 1; axis >= 0; --axis) fast_to_slow.push_back(axis);
  if (channels_last) fast_to_slow = {1, 3, 2, 0};
  int64_t stride = 1;
  for (const int axis : fast_to_slow) {
    view.shape[axis] = description.dims.d[axis];
    view.strides[axis] = stride;
    stride *= view.shape[axis];
  }
  return view;
}

std::string dims_text(const Dims& dims) {
  std::string text = "[";
  for (int i = 0; i < dims.nbDims; ++i) text += (i ? ", " : "") + std::to_string(dims.d[i]);
  return text + "]";
}

}  // namespace

TensorView Call::input(int index) const {
  // Operators take views that can be written for all their arrays; inputs are only read.
  TensorView view = view_of(input_descriptions[index], const_cast<void*>(inputs[index]), *this);
  view.writable = false;
  return view;
}

TensorView Call::output(int index) const {
  return view_of(output_descriptions[index], outputs[index], *this);
}

bool is_float(DataType type) {
  return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

bool is_image(const PluginTensorDesc& description) {
  if (!is_float(description.type)) return false;
  if (description.format == TensorFormat::kLINEAR) return true;
  if (description.dims.nbDims != kImageDims) return false;
  if (description.type == DataType::kFLOAT) return description.format == TensorFormat::kHWC;
  const int64_t channels = description.dims.d[1];
  return description.format == TensorFormat::kHWC8 && channels > 0 && channels % 8 == 0;
}

bool is_linear(const PluginTensorDesc& description, DataType type) {
  return description.format == TensorFormat::kLINEAR && description.type == type;
}

bool alike(const PluginTensorDesc& a, const PluginTensorDesc& b) {
  return a.format == b.format && a.type == b.type;
}

void check_dims(const char* name, const Dims& dims, const std::vector<int64_t>& wanted, const char* meaning) {
  bool fits = dims.nbDims == static_cast<int32_t>(wanted.size());
  for (size_t i = 0; fits && i < wanted.size(); ++i) fits = dims.d[i] < 0 || wanted[i] < 0 || dims.d[i] == wanted[i];
  check(fits, name, ": got shape ", dims_text(dims), ", needs ", meaning);
}

Plugin::Plugin(const char* name, const Attributes& attributes)
    : name_(name), attributes_(attributes), text_(attributes.text()) {}

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
  nvinfer1::IPluginV3* clone = nullptr;
  status_of(name_.c_str(), [&] { clone = copy().release(); });
  return clone;
}

const char* Plugin::getPluginName() const noexcept {
  return name_.c_str();
}

const char* Plugin::getPluginVersion() const noexcept {
  return "1";
}

const char* Plugin::getPluginNamespace() const noexcept {
  return "";
}

int32_t Plugin::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                                const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept {
  return status_of(name_.c_str(), [&] {
    std::vector<Dims> dims;
    for (int32_t i = 0; i < inputs; ++i) dims.push_back(in[i].desc.dims);
    check_inputs(dims);
  });
}

int32_t Plugin::getOutputDataTypes(DataType* output_types, int32_t outputs, const DataType* input_types,
                                   int32_t inputs) const noexcept {
  return status_of(name_.c_str(), [&] {
    check(inputs >= 1 && is_float(input_types[0]), "the first input must be float32, float16 or bfloat16");
    for (int32_t i = 0; i < outputs; ++i) output_types[i] = output_type(input_types[0]);
  });
}

int32_t Plugin::getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs, const nvinfer1::DimsExprs* shape_in,
                                int32_t shape_inputs, nvinfer1::DimsExprs* out, int32_t,
                                nvinfer1::IExprBuilder& builder) noexcept {
  return status_of(name_.c_str(), [&] {
    std::vector<Dims> dims;
    for (int32_t i = 0; i < inputs; ++i) {
      Dims one{in[i].nbDims, {}};
      for (int32_t axis = 0; axis < one.nbDims; ++axis) {
        one.d[axis] = in[i].d[axis]->isConstant() ? in[i].d[axis]->getConstantValue() : -1;
      }
      dims.push_back(one);
    }
    check_inputs(dims);
    shapes(in, shape_in, shape_inputs, out, builder);
  });
}

const char* Plugin::getTimingCacheID() noexcept {
  return text_.c_str();
}

const char* Plugin::getMetadataString() noexcept {
  return text_.c_str();
}

int32_t Plugin::onShapeChange(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc*, int32_t) noexcept {
  return status_of(name_.c_str(), [&] {
    std::vector<Dims> dims;
    for (int32_t i = 0; i < inputs; ++i) dims.push_back(in[i].dims);
    check_inputs(dims);
  });
}

int32_t Plugin::enqueue(const PluginTensorDesc* input_descriptions, const PluginTensorDesc* output_descriptions,
                        const void* const* inputs, void* const* outputs, void*, cudaStream_t stream) noexcept {
  return status_of(name_.c_str(), [&] {
    int device = 0;
    const cudaError_t status = cudaGetDevice(&device);
    if (status != cudaSuccess) {
      throw std::runtime_error(message("cannot use a CUDA GPU: ", cudaGetErrorString(status)));
    }
    Execution execution;
    execution.stream = stream;
    run({input_descriptions, output_descriptions, inputs, outputs, execution, Device::cuda, device});
  });
}

nvinfer1::IPluginV3* Plugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  return clone();
}

const nvinfer1::PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
  const int32_t status = status_of(name_.c_str(), [&] { fields_ = attributes_.fields(); });
  collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
  return status == 0 ? &collection_ : nullptr;
}

}  // namespace deeplab::tensorrt
