// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/depthwise_plugin.h"

#include <algorithm>
#include <utility>

#include "common/check.h"

namespace deeplab::tensorrt {
namespace {

constexpr size_t kInputs = 4;

void check_rate(int64_t rate) {
  check(rate >= 1, "rates: got ", rate, "; an atrous rate is at least 1");
}

DepthwiseOptions conv_options(const Attributes& attributes) {
  const std::vector<int32_t>& dilations = attributes.integers("dilations");
  const std::vector<int32_t>& strides = attributes.integers("strides");
  check(dilations[0] == dilations[1], "dilations: got ", dilations[0], " and ", dilations[1], ", which must be equal");
  check_rate(dilations[0]);
  const std::vector<int32_t>& pads = attributes.integers("pads");
  const int64_t pad = dilations[0] * (Kernels(attributes).size / 2);
  for (const int32_t one : pads) check(one == pad, "pads: got ", one, ", needs ", pad, ": dilation times (k / 2)");
  check(strides[0] == strides[1] && strides[0] >= 1, "strides: got ", strides[0], " and ", strides[1],
        ", which must be equal and at least 1");
  return {strides[0], {dilations[0]}, activation_of(attributes)};
}

DepthwiseOptions aspp_options(const Attributes& attributes) {
  const std::vector<int32_t>& rates = attributes.integers("rates");
  check(!rates.empty() && rates.size() <= kMaxRates, "rates: got ", rates.size(), " of them; 1 to ", kMaxRates,
        " are accepted");
  for (const int32_t rate : rates) check_rate(rate);
  return {1, {rates.begin(), rates.end()}, activation_of(attributes)};
}

}  // namespace

Activation activation_of(const Attributes& attributes) {
  const Activation activation{attributes.number("min"), attributes.number("max")};
  check(activation.low <= activation.high, "min: got ", activation.low, ", which is above max, ", activation.high);
  return activation;
}

Kernels::Kernels(const Attributes& attributes)
    : size(attributes.integers("kernel_shape")[0]), channels(attributes.integer("group")) {
  const int32_t width = attributes.integers("kernel_shape")[1];
  check(size == width && size >= 1 && size % 2 == 1 && size <= kMaxKernel, "kernel_shape: got ", size, " x ", width,
        ", needs 1 x 1, 3 x 3, 5 x 5 or 7 x 7");
  check(channels >= 1, "group: got ", channels, ", needs the number of channels");
}

void Kernels::check_parameters(const std::vector<nvinfer1::Dims>& inputs, size_t first, int64_t rates) const {
  check_dims("weight", inputs[first], {rates, channels, size, size}, "[rates, group, k, k]");
  check_dims("scale", inputs[first + 1], {rates, channels}, "[rates, group]");
  check_dims("shift", inputs[first + 2], {rates, channels}, "[rates, group]");
}

DepthwiseBase::DepthwiseBase(const char* name, const Attributes& attributes, DepthwiseOptions options)
    : Plugin(name, attributes), options_(std::move(options)), kernels_(attributes) {}

int32_t DepthwiseBase::getNbOutputs() const noexcept {
  return static_cast<int32_t>(options_.rates.size());
}

bool DepthwiseBase::supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                              int32_t inputs, int32_t) noexcept {
  const nvinfer1::PluginTensorDesc& asked = tensors[position].desc;
  if (position == 0) return is_image(asked);
  if (position < inputs) return is_linear(asked, nvinfer1::DataType::kFLOAT);
  return alike(asked, tensors[0].desc);
}

void DepthwiseBase::check_inputs(const std::vector<nvinfer1::Dims>& inputs) const {
  check(inputs.size() == kInputs, "got ", inputs.size(), " inputs, needs x, weight, scale, shift");
  check_dims("x", inputs[0], {-1, kernels_.channels, -1, -1}, "[N, C, H, W] with the C of the attribute group");
  kernels_.check_parameters(inputs, 1, static_cast<int64_t>(options_.rates.size()));
}

void DepthwiseBase::shapes(const nvinfer1::DimsExprs* in, const nvinfer1::DimsExprs*, int32_t, nvinfer1::DimsExprs* out,
                           nvinfer1::IExprBuilder& builder) const {
  const nvinfer1::IDimensionExpr* stride = builder.constant(options_.stride);
  for (size_t i = 0; i < options_.rates.size(); ++i) {
    out[i] = in[0];
    for (const int axis : {2, 3}) {
      out[i].d[axis] = builder.operation(nvinfer1::DimensionOperation::kCEIL_DIV, *in[0].d[axis], *stride);
    }
  }
}

void DepthwiseBase::run(const Call& call) const {
  std::vector<TensorView> outputs;
  for (int i = 0; i < getNbOutputs(); ++i) outputs.push_back(call.output(i));
  depthwise_separate(call.input(0), call.input(1), call.input(2), call.input(3), outputs, options_, call.execution);
}

std::vector<AttributeSpec> DepthwisePlugin::specs() {
  constexpr AttributeKind integers = AttributeKind::integers;
  return {{"dilations", integers, 2},        {"strides", integers, 2}, {"pads", integers, 4},
          {"kernel_shape", integers, 2},     {"group", integers, 1},   {"min", AttributeKind::numbers, 1},
          {"max", AttributeKind::numbers, 1}};
}

DepthwisePlugin::DepthwisePlugin(const Attributes& attributes)
    : DepthwiseBase(kName, attributes, conv_options(attributes)) {}

std::vector<AttributeSpec> AsppDepthwisePlugin::specs() {
  constexpr AttributeKind integers = AttributeKind::integers;
  return {{"rates", integers, 0},
          {"kernel_shape", integers, 2},
          {"group", integers, 1},
          {"min", AttributeKind::numbers, 1},
          {"max", AttributeKind::numbers, 1}};
}

AsppDepthwisePlugin::AsppDepthwisePlugin(const Attributes& attributes)
    : DepthwiseBase(kName, attributes, aspp_options(attributes)) {}

}  // namespace deeplab::tensorrt
