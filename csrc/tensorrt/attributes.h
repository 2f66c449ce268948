// SPDX-License-Identifier: Apache-2.0
// Attributes of a plugin: from ONNX nodes or code into the plugin, and from there into the engine file and back.
#pragma once

#include <NvInferRuntime.h>

#include <string>
#include <vector>

namespace deeplab::tensorrt {

enum class AttributeKind { integers, numbers };

// What a plugin accepts: `count` values, any number of them for 0.
struct AttributeSpec {
  const char* name;
  AttributeKind kind;
  int count;
};

struct Attribute {
  AttributeSpec spec;
  std::vector<int32_t> integers;
  std::vector<float> numbers;
};

class Attributes {
 public:
  // Takes every attribute of `specs` from `fields` (32- or 64-bit integers, 32- or 64-bit floats). Throws
  // std::invalid_argument that names the attribute that is missing, unknown, or of the wrong type or length.
  Attributes(const std::vector<AttributeSpec>& specs, const nvinfer1::PluginFieldCollection& fields);

  const std::vector<int32_t>& integers(const char* name) const;
  int32_t integer(const char* name) const;
  float number(const char* name) const;

  // Pointers into this object, valid until it is changed or destroyed.
  std::vector<nvinfer1::PluginField> fields() const;
  // "name=1,2 other=0.5": equal for equal attributes.
  std::string text() const;

 private:
  const Attribute& find(const char* name) const;

  std::vector<Attribute> attributes_;
};

// What a creator announces, so that TensorRT's parser reads these from the node.
std::vector<nvinfer1::PluginField> field_names(const std::vector<AttributeSpec>& specs);

}  // namespace deeplab::tensorrt
