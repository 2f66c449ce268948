// SPDX-License-Identifier: Apache-2.0
#include "runtime/manifest.h"

#include <cmath>

#include "runtime/error.h"

namespace deeplab::runtime {
namespace {

constexpr int64_t kSchemaVersion = 1;
constexpr int64_t kMaxSide = int64_t{1} << 24;  // products of sides and classes stay within 64 bits

// Whether a field is the second of its two accepted texts.
bool second_of(const Json& values, const char* name, const char* first, const char* second) {
  const std::string& value = values[name].as_string(name);
  require(value == first || value == second, DEEPLAB_MODEL_FILE, "'", name, "' is '", value, "', needs '", first,
          "' or '", second, "'");
  return value == second;
}

std::optional<std::array<int64_t, 2>> pair_of(const Json& values, const char* name) {
  const Json& value = values[name];
  if (value.is_null()) return std::nullopt;
  const std::vector<Json>& items = value.as_array(name);
  require(items.size() == 2, DEEPLAB_MODEL_FILE, "'", name, "' has ", items.size(), " values, needs 2");
  return std::array{items[0].as_integer(name, 1, kMaxSide), items[1].as_integer(name, 1, kMaxSide)};
}

std::optional<Size> size_of(const Json& values, const char* name) {
  const auto pair = pair_of(values, name);
  if (!pair) return std::nullopt;
  return Size{(*pair)[0], (*pair)[1]};
}

std::vector<float> triple_of(const Json& values, const char* name) {
  std::vector<float> triple;
  for (const Json& item : values[name].as_array(name)) triple.push_back(static_cast<float>(item.as_number(name)));
  require(triple.size() == 3, DEEPLAB_MODEL_FILE, "'", name, "' has ", triple.size(), " values, needs 3");
  for (float value : triple) require(std::isfinite(value), DEEPLAB_MODEL_FILE, "'", name, "' is beyond float32");
  return triple;
}

void read_classes(const Json& config, Manifest& manifest) {
  const Json& dataset = config["dataset"];
  for (const Json& name : dataset["classes"].as_array("classes")) {
    manifest.classes.push_back(name.as_string("classes"));
  }
  for (const Json& color : dataset["palette"].as_array("palette")) {
    const std::vector<Json>& values = color.as_array("palette");
    require(values.size() == 3, DEEPLAB_MODEL_FILE, "'palette' has a colour of ", values.size(), " values, needs 3");
    std::array<uint8_t, 3>& rgb = manifest.palette.emplace_back();
    for (int i = 0; i < 3; ++i) rgb[i] = static_cast<uint8_t>(values[i].as_integer("palette", 0, 255));
  }
  const int64_t count = config["num_classes"].as_integer("num_classes", 1, 1 << 24);
  require(count == manifest.num_classes() && manifest.palette.size() == manifest.classes.size(), DEEPLAB_MODEL_FILE,
          "'num_classes' is ", count, ", but there are ", manifest.classes.size(), " classes and ",
          manifest.palette.size(), " colours");
}

void read_config(const Json& config, Manifest& manifest) {
  manifest.config = config["name"].as_string("name");
  read_classes(config, manifest);
  manifest.mean = triple_of(config, "mean");
  manifest.std = triple_of(config, "std");
  for (float value : manifest.std) require(value > 0, DEEPLAB_MODEL_FILE, "'std' holds ", value, ", needs more than 0");
  manifest.reverse_channels = second_of(config, "channel_order", "rgb", "bgr");
  manifest.align_corners = config["align_corners"].as_bool("align_corners");
  manifest.resize_logits_twice = config["resize_logits_twice"].as_bool("resize_logits_twice");
  manifest.slide = second_of(config, "test_mode", "whole", "slide");
  manifest.window = size_of(config, "window");
  manifest.window_stride = size_of(config, "window_stride");
  manifest.test_scale = pair_of(config, "test_scale");
}

}  // namespace

std::optional<Size> Manifest::fixed_size() const {
  if (height[0] != height[2] || width[0] != width[2]) return std::nullopt;
  return Size{height[0], width[0]};
}

Range range_of(const Json& values, const char* name) {
  const std::vector<Json>& items = values[name].as_array(name);
  require(items.size() == 3, DEEPLAB_MODEL_FILE, "'", name, "' has ", items.size(), " values, needs 3");
  Range range;
  for (int i = 0; i < 3; ++i) range[i] = items[i].as_integer(name, 1, kMaxSide);
  require(range[0] <= range[1] && range[1] <= range[2], DEEPLAB_MODEL_FILE, "'", name, "' is not in order");
  return range;
}

Manifest manifest_of(const Json& values) {
  const double version = values["schema_version"].as_number("schema_version");
  require(version == kSchemaVersion, DEEPLAB_MODEL_FILE, "it has version ", version, ", this deeplab runtime reads ",
          "version ", kSchemaVersion, "; use the runtime of the deeplab-infer that exported it");
  Manifest manifest{};
  manifest.float_input = second_of(values, "input_kind", "uint8", "float");
  manifest.labels_output = second_of(values, "output_kind", "logits", "labels");
  manifest.precision = values["precision"].as_string("precision");
  manifest.batch = range_of(values, "batch");
  manifest.height = range_of(values, "height");
  manifest.width = range_of(values, "width");
  read_config(values["config"], manifest);
  return manifest;
}

Manifest parse_manifest(std::string_view text, const std::string& path) {
  try {
    return manifest_of(Json::parse(text));
  } catch (const StatusError& error) {
    throw StatusError(error.status(), message(path, ": the model's manifest cannot be read (", error.what(),
                                              "); export the model again"));
  }
}

}  // namespace deeplab::runtime
