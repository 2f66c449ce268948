// SPDX-License-Identifier: Apache-2.0
// upsample_labels() (ops/upsample_labels.h): logits [N, C, h, w] and a shape tensor with the two values (H, W) to
// labels [N, H, W]. Attribute: align_corners (0 or 1).
//
// The size comes as a shape tensor, so that the output's dimensions are known without looking at an array of that size
// (the image is uint8, which TensorRT does not give to plugins). Labels are int32 because TensorRT takes no uint8 from
// plugins; the graph casts them.
#pragma once

#include "ops/upsample_labels.h"
#include "tensorrt/plugin.h"

namespace deeplab::tensorrt {

class UpsampleArgmaxPlugin final : public Plugin {
 public:
  static constexpr const char* kName = "DeeplabUpsampleArgmax";
  static std::vector<AttributeSpec> specs();
  explicit UpsampleArgmaxPlugin(const Attributes& attributes);

  void run(const Call& call) const override;

  int32_t getNbOutputs() const noexcept override { return 1; }
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                 int32_t outputs) noexcept override;

 protected:
  void check_inputs(const std::vector<nvinfer1::Dims>& inputs) const override;
  nvinfer1::DataType output_type(nvinfer1::DataType) const override { return nvinfer1::DataType::kINT32; }
  void shapes(const nvinfer1::DimsExprs* in, const nvinfer1::DimsExprs* shape_in, int32_t shape_inputs,
              nvinfer1::DimsExprs* out, nvinfer1::IExprBuilder& builder) const override;
  std::unique_ptr<Plugin> copy() const override { return std::make_unique<UpsampleArgmaxPlugin>(*this); }

 private:
  bool align_corners_;
};

}  // namespace deeplab::tensorrt
