// SPDX-License-Identifier: Apache-2.0
// depthwise() (ops/depthwise.h) as two plugins. Inputs: x [N, C, H, W], and float32 weight [R, C, k, k], scale and
// shift [R, C]. Outputs: one a rate, in the type and format of x.
//
// DeeplabDepthwise: one rate; attributes as of ONNX's Conv: dilations, strides, pads, kernel_shape, group (C), and the
// clamp: min, max.
// DeeplabAsppDepthwise: every rate of an ASPP over one read of x; attributes rates, kernel_shape, group, min, max.
#pragma once

#include "ops/depthwise.h"
#include "tensorrt/plugin.h"

namespace deeplab::tensorrt {

// Kernels as the attributes kernel_shape and group promise them.
struct Kernels {
  int64_t size, channels;

  // Throws std::invalid_argument where the attributes are not k x k with k of 1, 3, 5 or 7.
  explicit Kernels(const Attributes& attributes);
  // Throws unless inputs `first` to `first` + 2 are weight [rates, C, k, k], scale and shift [rates, C].
  void check_parameters(const std::vector<nvinfer1::Dims>& inputs, size_t first, int64_t rates) const;
};

// From the attributes min and max.
Activation activation_of(const Attributes& attributes);

class DepthwiseBase : public Plugin {
 public:
  void run(const Call& call) const override;

  int32_t getNbOutputs() const noexcept override;
  bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                 int32_t outputs) noexcept override;

 protected:
  DepthwiseBase(const char* name, const Attributes& attributes, DepthwiseOptions options);

  void check_inputs(const std::vector<nvinfer1::Dims>& inputs) const override;
  nvinfer1::DataType output_type(nvinfer1::DataType first_input) const override { return first_input; }
  void shapes(const nvinfer1::DimsExprs* in, const nvinfer1::DimsExprs* shape_in, int32_t shape_inputs,
              nvinfer1::DimsExprs* out, nvinfer1::IExprBuilder& builder) const override;

 private:
  DepthwiseOptions options_;
  Kernels kernels_;
};

class DepthwisePlugin final : public DepthwiseBase {
 public:
  static constexpr const char* kName = "DeeplabDepthwise";
  static std::vector<AttributeSpec> specs();
  explicit DepthwisePlugin(const Attributes& attributes);

 protected:
  std::unique_ptr<Plugin> copy() const override { return std::make_unique<DepthwisePlugin>(*this); }
};

class AsppDepthwisePlugin final : public DepthwiseBase {
 public:
  static constexpr const char* kName = "DeeplabAsppDepthwise";
  static std::vector<AttributeSpec> specs();
  explicit AsppDepthwisePlugin(const Attributes& attributes);

 protected:
  std::unique_ptr<Plugin> copy() const override { return std::make_unique<AsppDepthwisePlugin>(*this); }
};

}  // namespace deeplab::tensorrt
