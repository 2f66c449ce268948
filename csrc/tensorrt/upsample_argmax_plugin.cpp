// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/upsample_argmax_plugin.h"

#include "common/check.h"

namespace deeplab::tensorrt {

std::vector<AttributeSpec> UpsampleArgmaxPlugin::specs() {
  return {{"align_corners", AttributeKind::integers, 1}};
}

UpsampleArgmaxPlugin::UpsampleArgmaxPlugin(const Attributes& attributes)
    : Plugin(kName, attributes), align_corners_(attributes.integer("align_corners") != 0) {}

bool UpsampleArgmaxPlugin::supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                                     int32_t inputs, int32_t) noexcept {
  const nvinfer1::PluginTensorDesc& asked = tensors[position].desc;
  if (position == 0) return is_image(asked);
  if (position >= inputs) return is_linear(asked, nvinfer1::DataType::kINT32);
  return is_linear(asked, nvinfer1::DataType::kINT32) || is_linear(asked, nvinfer1::DataType::kINT64);
}

void UpsampleArgmaxPlugin::check_inputs(const std::vector<nvinfer1::Dims>& inputs) const {
  check(!inputs.empty(), "got no inputs, needs logits and the shape tensor (H, W)");
  check_dims("logits", inputs[0], {-1, -1, -1, -1}, "[N, C, h, w]");
}

void UpsampleArgmaxPlugin::shapes(const nvinfer1::DimsExprs* in, const nvinfer1::DimsExprs* shape_in,
                                  int32_t shape_inputs, nvinfer1::DimsExprs* out, nvinfer1::IExprBuilder&) const {
  check(shape_inputs == 1 && shape_in[0].nbDims == 2,
        "size: must be a shape tensor with the two values (H, W); in "
        "ONNX the node says so with the attribute tensorrt_plugin_shape_input_indices = [1]");
  out[0].nbDims = 3;
  out[0].d[0] = in[0].d[0];
  out[0].d[1] = shape_in[0].d[0];
  out[0].d[2] = shape_in[0].d[1];
}

void UpsampleArgmaxPlugin::run(const Call& call) const {
  upsample_labels(call.input(0), call.output(0), TensorView{}, align_corners_, {0, 0}, call.execution);
}

}  // namespace deeplab::tensorrt
