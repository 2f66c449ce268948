// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/upsample_concat_depthwise_plugin.h"

#include "common/check.h"

namespace deeplab::tensorrt {
namespace {

constexpr size_t kInputs = 5;

}  // namespace

std::vector<AttributeSpec> UpsampleConcatDepthwisePlugin::specs() {
  constexpr AttributeKind integers = AttributeKind::integers, numbers = AttributeKind::numbers;
  return {{"align_corners", integers, 1}, {"rate", integers, 1}, {"kernel_shape", integers, 2},
          {"group", integers, 1},         {"min", numbers, 1},   {"max", numbers, 1}};
}

UpsampleConcatDepthwisePlugin::UpsampleConcatDepthwisePlugin(const Attributes& attributes)
    : Plugin(kName, attributes),
      align_corners_(attributes.integer("align_corners") != 0),
      kernels_(attributes),
      options_{1, {attributes.integer("rate")}, activation_of(attributes)} {
  check(options_.rates[0] >= 1, "rate: got ", options_.rates[0], "; an atrous rate is at least 1");
}

bool UpsampleConcatDepthwisePlugin::supportsFormatCombination(int32_t position,
                                                              const nvinfer1::DynamicPluginTensorDesc* tensors,
                                                              int32_t inputs, int32_t) noexcept {
  const nvinfer1::PluginTensorDesc& asked = tensors[position].desc;
  if (position == 0) return is_image(asked);
  if (position == 1 || position >= inputs) return is_image(asked) && alike(asked, tensors[0].desc);
  return is_linear(asked, nvinfer1::DataType::kFLOAT);
}

void UpsampleConcatDepthwisePlugin::check_inputs(const std::vector<nvinfer1::Dims>& inputs) const {
  check(inputs.size() == kInputs, "got ", inputs.size(), " inputs, needs x, low, weight, scale, shift");
  check_dims("x", inputs[0], {-1, -1, -1, -1}, "[N, C, h, w]");
  check_dims("low", inputs[1], {inputs[0].d[0], -1, -1, -1}, "[N, C_low, H, W] with the N of x");
  const int64_t channels = inputs[0].d[1], low_channels = inputs[1].d[1];
  check(channels < 0 || low_channels < 0 || channels + low_channels == kernels_.channels, "low: got ", low_channels,
        " channels, which with the ", channels, " of x are not the ", kernels_.channels, " of the attribute group");
  kernels_.check_parameters(inputs, 2, 1);
}

void UpsampleConcatDepthwisePlugin::shapes(const nvinfer1::DimsExprs* in, const nvinfer1::DimsExprs*, int32_t,
                                           nvinfer1::DimsExprs* out, nvinfer1::IExprBuilder& builder) const {
  out[0] = in[1];
  out[0].d[1] = builder.operation(nvinfer1::DimensionOperation::kSUM, *in[0].d[1], *in[1].d[1]);
}

void UpsampleConcatDepthwisePlugin::run(const Call& call) const {
  upsample_concat_depthwise(call.input(0), call.input(1), call.input(2), call.input(3), call.input(4), call.output(0),
                            align_corners_, options_, call.execution);
}

}  // namespace deeplab::tensorrt
