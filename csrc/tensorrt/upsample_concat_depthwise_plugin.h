// SPDX-License-Identifier: Apache-2.0
// upsample_concat_depthwise() (ops/upsample_concat.h): x [N, C, h, w], low [N, C_low, H, W], float32 weight
// [1, C + C_low, k, k], scale and shift [1, C + C_low] to [N, C + C_low, H, W]; low and the output are in the type and
// format of x. Attributes: align_corners (0 or 1), rate, kernel_shape, group (C + C_low), min and max (the clamp).
#pragma once

#include "ops/upsample_concat.h"
#include "tensorrt/depthwise_plugin.h"

namespace deeplab::tensorrt {

class UpsampleConcatDepthwisePlugin final : public Plugin {
 public:
  static constexpr const char* kName = "DeeplabUpsampleConcatDepthwise";
  static std::vector<AttributeSpec> specs();
  explicit UpsampleConcatDepthwisePlugin(const Attributes& attributes);

  void run(const Call& call) const override;

  int32_t getNbOutputs() const noexcept override { return 1; }
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                 int32_t outputs) noexcept override;

 protected:
  void check_inputs(const std::vector<nvinfer1::Dims>& inputs) const override;
  nvinfer1::DataType output_type(nvinfer1::DataType first_input) const override { return first_input; }
  void shapes(const nvinfer1::DimsExprs* in, const nvinfer1::DimsExprs* shape_in, int32_t shape_inputs,
              nvinfer1::DimsExprs* out, nvinfer1::IExprBuilder& builder) const override;
  std::unique_ptr<Plugin> copy() const override { return std::make_unique<UpsampleConcatDepthwisePlugin>(*this); }

 private:
  bool align_corners_;
  Kernels kernels_;
  DepthwiseOptions options_;
};

}  // namespace deeplab::tensorrt
