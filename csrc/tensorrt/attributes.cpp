// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/attributes.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <sstream>

#include "common/check.h"

namespace deeplab::tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

template <typename Source, typename Target>
void append(const PluginField& field, std::vector<Target>& values) {
  const auto* source = static_cast<const Source*>(field.data);
  for (int32_t i = 0; i < field.length; ++i) values.push_back(static_cast<Target>(source[i]));
}

void append_int64(const PluginField& field, std::vector<int32_t>& values) {
  const auto* source = static_cast<const int64_t*>(field.data);
  for (int32_t i = 0; i < field.length; ++i) {
    const bool fits =
        source[i] >= std::numeric_limits<int32_t>::min() && source[i] <= std::numeric_limits<int32_t>::max();
    check(fits, field.name, ": got ", source[i], ", which is beyond 32 bits");
    values.push_back(static_cast<int32_t>(source[i]));
  }
}

Attribute read(const AttributeSpec& spec, const PluginField& field) {
  Attribute attribute{spec, {}, {}};
  check(field.length == 0 || field.data != nullptr, spec.name, ": comes without values");
  const bool integers = spec.kind == AttributeKind::integers;
  if (integers && field.type == PluginFieldType::kINT32) {
    append<int32_t>(field, attribute.integers);
  } else if (integers && field.type == PluginFieldType::kINT64) {
    append_int64(field, attribute.integers);
  } else if (!integers && field.type == PluginFieldType::kFLOAT32) {
    append<float>(field, attribute.numbers);
  } else if (!integers && field.type == PluginFieldType::kFLOAT64) {
    append<double>(field, attribute.numbers);
  } else {
    throw TypeMismatch(message(spec.name, ": got field type ", static_cast<int32_t>(field.type), ", needs ",
                               integers ? "int32 or int64" : "float32 or float64"));
  }
  check(spec.count == 0 || field.length == spec.count, spec.name, ": got ", field.length, " values, needs ",
        spec.count);
  return attribute;
}

PluginFieldType stored_type(AttributeKind kind) {
  return kind == AttributeKind::integers ? PluginFieldType::kINT32 : PluginFieldType::kFLOAT32;
}

template <typename Value>
void write(std::ostream& stream, const std::vector<Value>& values) {
  for (size_t i = 0; i < values.size(); ++i) stream << (i ? "," : "") << values[i];
}

}  // namespace

Attributes::Attributes(const std::vector<AttributeSpec>& specs, const nvinfer1::PluginFieldCollection& fields) {
  const PluginField* begin = fields.fields;
  const PluginField* end = begin + fields.nbFields;
  std::string accepted;
  for (const AttributeSpec& spec : specs) {
    accepted += (accepted.empty() ? "" : ", ") + std::string(spec.name);
    const auto named = [&](const PluginField& field) { return std::strcmp(field.name, spec.name) == 0; };
    const PluginField* found = std::find_if(begin, end, named);
    check(found != end, spec.name, ": attribute is missing");
    attributes_.push_back(read(spec, *found));
  }
  for (const PluginField* field = begin; field != end; ++field) {
    const auto named = [&](const AttributeSpec& spec) { return std::strcmp(field->name, spec.name) == 0; };
    check(std::any_of(specs.begin(), specs.end(), named), field->name, ": unknown attribute, accepted are ", accepted);
  }
}

const Attribute& Attributes::find(const char* name) const {
  const auto named = [&](const Attribute& attribute) { return std::strcmp(attribute.spec.name, name) == 0; };
  const auto found = std::find_if(attributes_.begin(), attributes_.end(), named);
  check(found != attributes_.end(), name, ": is not an attribute of this plugin");
  return *found;
}

const std::vector<int32_t>& Attributes::integers(const char* name) const {
  return find(name).integers;
}

int32_t Attributes::integer(const char* name) const {
  return find(name).integers.front();
}

float Attributes::number(const char* name) const {
  return find(name).numbers.front();
}

std::vector<PluginField> Attributes::fields() const {
  std::vector<PluginField> fields;
  for (const Attribute& one : attributes_) {
    const bool integers = one.spec.kind == AttributeKind::integers;
    const void* data = integers ? static_cast<const void*>(one.integers.data()) : one.numbers.data();
    const size_t length = integers ? one.integers.size() : one.numbers.size();
    fields.emplace_back(one.spec.name, data, stored_type(one.spec.kind), static_cast<int32_t>(length));
  }
  return fields;
}

std::string Attributes::text() const {
  std::ostringstream stream;
  stream.precision(std::numeric_limits<float>::max_digits10);
  for (const Attribute& one : attributes_) {
    stream << (stream.tellp() > 0 ? " " : "") << one.spec.name << '=';
    write(stream, one.integers);
    write(stream, one.numbers);
  }
  return stream.str();
}

std::vector<PluginField> field_names(const std::vector<AttributeSpec>& specs) {
  std::vector<PluginField> fields;
  for (const AttributeSpec& spec : specs) fields.emplace_back(spec.name, nullptr, stored_type(spec.kind), spec.count);
  return fields;
}

}  // namespace deeplab::tensorrt
