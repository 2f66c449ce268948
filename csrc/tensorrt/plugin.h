// SPDX-License-Identifier: Apache-2.0
// What all plugins share: attributes, formats, clones, errors. A plugin adds its shapes, its checks and its launch.
//
// Images are [N, C, H, W] in float32, float16 or bfloat16: kLINEAR, and channels-last where TensorRT's format holds no
// padding, which is what the kernels read: kHWC (float32), and kHWC8 (16 bits) for multiples of 8 channels.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <string>
#include <vector>

#include "common/execution.h"
#include "common/tensor_view.h"
#include "tensorrt/attributes.h"
#include "tensorrt/report.h"

namespace deeplab::tensorrt {

// One call of enqueue().
struct Call {
  const nvinfer1::PluginTensorDesc* input_descriptions;
  const nvinfer1::PluginTensorDesc* output_descriptions;
  const void* const* inputs;
  void* const* outputs;
  Execution execution;
  Device device;
  int device_index;

  TensorView input(int index) const;
  TensorView output(int index) const;
};

// An IPluginV3 object with its three capabilities, without state beside its attributes: copies are clones, and any
// number of threads may run one.
class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime {
 public:
  Plugin(const char* name, const Attributes& attributes);

  // The launch itself; on the CPU for a Call that emulates. Throws what the operators throw.
  virtual void run(const Call& call) const = 0;

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const char* getPluginName() const noexcept override;
  const char* getPluginVersion() const noexcept override;
  const char* getPluginNamespace() const noexcept override;

  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* output_types, int32_t outputs, const nvinfer1::DataType* input_types,
                             int32_t inputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs, const nvinfer1::DimsExprs* shape_in,
                          int32_t shape_inputs, nvinfer1::DimsExprs* out, int32_t outputs,
                          nvinfer1::IExprBuilder& builder) noexcept override;
  const char* getTimingCacheID() noexcept override;
  const char* getMetadataString() noexcept override;

  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs, const nvinfer1::PluginTensorDesc* out,
                        int32_t outputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descriptions,
                  const nvinfer1::PluginTensorDesc* output_descriptions, const void* const* inputs,
                  void* const* outputs, void* workspace, cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 protected:
  // Throws unless the inputs' shapes fit each other and the attributes; -1 is a dimension that is not known yet.
  virtual void check_inputs(const std::vector<nvinfer1::Dims>& inputs) const = 0;
  virtual nvinfer1::DataType output_type(nvinfer1::DataType first_input) const = 0;
  virtual void shapes(const nvinfer1::DimsExprs* in, const nvinfer1::DimsExprs* shape_in, int32_t shape_inputs,
                      nvinfer1::DimsExprs* out, nvinfer1::IExprBuilder& builder) const = 0;
  virtual std::unique_ptr<Plugin> copy() const = 0;

 private:
  std::string name_;
  Attributes attributes_;
  std::string text_;
  std::vector<nvinfer1::PluginField> fields_;  // filled when asked for
  nvinfer1::PluginFieldCollection collection_{};
};

bool is_float(nvinfer1::DataType type);
// Whether the kernels read or write images of this type in this format.
bool is_image(const nvinfer1::PluginTensorDesc& description);
bool is_linear(const nvinfer1::PluginTensorDesc& description, nvinfer1::DataType type);
bool alike(const nvinfer1::PluginTensorDesc& a, const nvinfer1::PluginTensorDesc& b);

// Throws unless the dimensions are these; -1 on either side fits anything. `meaning` spells them.
void check_dims(const char* name, const nvinfer1::Dims& dims, const std::vector<int64_t>& wanted, const char* meaning);

template <typename P>
class Creator : public nvinfer1::IPluginCreatorV3One {
 public:
  Creator() : fields_(field_names(P::specs())) { collection_ = {static_cast<int32_t>(fields_.size()), fields_.data()}; }

  nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* fields,
                                    nvinfer1::TensorRTPhase) noexcept override {
    nvinfer1::IPluginV3* plugin = nullptr;
    const nvinfer1::PluginFieldCollection none{};
    status_of(P::kName, [&] { plugin = new P(Attributes(P::specs(), fields == nullptr ? none : *fields)); });
    return plugin;
  }
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
  const char* getPluginName() const noexcept override { return P::kName; }
  const char* getPluginVersion() const noexcept override { return "1"; }
  const char* getPluginNamespace() const noexcept override { return ""; }

 private:
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace deeplab::tensorrt
