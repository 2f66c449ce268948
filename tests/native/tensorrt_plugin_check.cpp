// SPDX-License-Identifier: Apache-2.0
// The TensorRT plugins as TensorRT would use them, without TensorRT and without a GPU: made through their creators,
// cloned, serialised and read back, asked for formats, and run with the GPU kernels emulated over CPU memory. Values
// are small integers, for which every order of summation gives the same bits. Prints what failed; exit status 1 then.
#include <NvInferRuntime.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <iostream>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "common/half_bits.h"
#include "tensorrt/depthwise_plugin.h"
#include "tensorrt/upsample_argmax_plugin.h"
#include "tensorrt/upsample_concat_depthwise_plugin.h"

extern "C" nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);
extern "C" void setLoggerFinder(nvinfer1::ILoggerFinder* finder);

namespace {

using namespace deeplab;
using namespace deeplab::DEEPLAB_ISA;
using namespace deeplab::tensorrt;
using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
int failures = 0;

void expect(bool condition, const std::string& what) {
  if (condition) return;
  ++failures;
  std::cout << "FAILED: " << what << std::endl;
}

struct Recorder final : nvinfer1::ILogger, nvinfer1::ILoggerFinder {
  void log(Severity severity, const char* text) noexcept override {
    if (severity == Severity::kERROR) last_error = text;
  }
  nvinfer1::ILogger* findLogger() override { return this; }
  std::string last_error;
};

// A field list that owns its values.
class Fields {
 public:
  Fields& add(const char* name, std::vector<int32_t> values) {
    integers_.push_back(std::make_unique<std::vector<int32_t>>(std::move(values)));
    return push(
        {name, integers_.back()->data(), PluginFieldType::kINT32, static_cast<int32_t>(integers_.back()->size())});
  }
  Fields& number(const char* name, float value) {
    numbers_.push_back(std::make_unique<float>(value));
    return push({name, numbers_.back().get(), PluginFieldType::kFLOAT32, 1});
  }
  nvinfer1::PluginFieldCollection collection() const { return {static_cast<int32_t>(fields_.size()), fields_.data()}; }

 private:
  Fields& push(const PluginField& field) {
    fields_.push_back(field);
    return *this;
  }
  std::vector<std::unique_ptr<std::vector<int32_t>>> integers_;
  std::vector<std::unique_ptr<float>> numbers_;
  std::vector<PluginField> fields_;
};

nvinfer1::IPluginCreatorV3One* creator_of(const std::string& name) {
  int32_t count = 0;
  nvinfer1::IPluginCreatorInterface* const* creators = getCreators(count);
  for (int32_t i = 0; i < count; ++i) {
    auto* creator = static_cast<nvinfer1::IPluginCreatorV3One*>(creators[i]);
    if (creator->getPluginName() == name) return creator;
  }
  return nullptr;
}

std::unique_ptr<Plugin> make(const std::string& name, const nvinfer1::PluginFieldCollection& fields,
                             nvinfer1::TensorRTPhase phase = nvinfer1::TensorRTPhase::kBUILD) {
  nvinfer1::IPluginV3* plugin = creator_of(name)->createPlugin(name.c_str(), &fields, phase);
  return std::unique_ptr<Plugin>(static_cast<Plugin*>(plugin));
}

// An array with its description, as TensorRT passes both.
struct Array {
  PluginTensorDesc description{};
  std::vector<char> bytes;

  Array(std::vector<int64_t> shape, DataType type, TensorFormat format = TensorFormat::kLINEAR) {
    description.dims.nbDims = static_cast<int32_t>(shape.size());
    int64_t elements = 1;
    for (size_t i = 0; i < shape.size(); ++i) elements *= description.dims.d[i] = shape[i];
    description.type = type;
    description.format = format;
    bytes.assign(elements * (type == DataType::kFLOAT || type == DataType::kINT32 ? 4 : 2), '\x7f');
  }

  // Where logical element [n, c, y, x] (or any index of a linear array, flat) is.
  int64_t place(int64_t flat) const {
    if (description.format == TensorFormat::kLINEAR) return flat;
    const auto* d = description.dims.d;
    const int64_t x = flat % d[3], y = flat / d[3] % d[2], c = flat / (d[3] * d[2]) % d[1],
                  n = flat / (d[3] * d[2] * d[1]);
    return ((n * d[2] + y) * d[3] + x) * d[1] + c;
  }
  int64_t elements() const {
    int64_t count = 1;
    for (int i = 0; i < description.dims.nbDims; ++i) count *= description.dims.d[i];
    return count;
  }
  void set(int64_t flat, float value) {
    const int64_t at = place(flat);
    if (description.type == DataType::kFLOAT) return void(std::memcpy(&bytes[at * 4], &value, 4));
    const uint16_t bits = description.type == DataType::kHALF ? float_to_half(value) : float_to_bfloat16(value);
    std::memcpy(&bytes[at * 2], &bits, 2);
  }
  double get(int64_t flat) const {
    const int64_t at = place(flat);
    if (description.type == DataType::kINT32) {
      int32_t value;
      std::memcpy(&value, &bytes[at * 4], 4);
      return value;
    }
    if (description.type == DataType::kFLOAT) {
      float value;
      std::memcpy(&value, &bytes[at * 4], 4);
      return value;
    }
    uint16_t bits;
    std::memcpy(&bits, &bytes[at * 2], 2);
    return description.type == DataType::kHALF ? half_to_float(bits) : bfloat16_to_float(bits);
  }
  // Integers from -reach to reach, times `unit`.
  void fill(std::mt19937& random, int reach, float unit = 1) {
    std::uniform_int_distribution<int> values(-reach, reach);
    for (int64_t i = 0; i < elements(); ++i) set(i, static_cast<float>(values(random)) * unit);
  }
};

void run(const Plugin& plugin, const std::vector<Array*>& inputs, const std::vector<Array*>& outputs) {
  std::vector<PluginTensorDesc> in, out;
  std::vector<const void*> sources;
  std::vector<void*> targets;
  for (const Array* array : inputs) {
    in.push_back(array->description);
    sources.push_back(array->bytes.data());
  }
  for (Array* array : outputs) {
    out.push_back(array->description);
    targets.push_back(array->bytes.data());
  }
  Execution execution;
  execution.emulate = true;
  plugin.run({in.data(), out.data(), sources.data(), targets.data(), execution, Device::cpu, 0});
}

double at(const Array& image, int64_t n, int64_t c, int64_t y, int64_t x) {
  const auto* d = image.description.dims.d;
  return y < 0 || y >= d[2] || x < 0 || x >= d[3] ? 0 : image.get(((n * d[1] + c) * d[2] + y) * d[3] + x);
}

struct Position {
  int64_t low, high;
  double fraction;
};

Position position(int64_t i, int64_t in, int64_t out, bool align_corners) {
  double where = align_corners ? (out > 1 ? double(i) * (in - 1) / (out - 1) : 0) : (i + 0.5) * in / out - 0.5;
  where = std::max(where, 0.0);
  const auto low = std::min<int64_t>(static_cast<int64_t>(where), in - 1);
  return {low, std::min(low + 1, in - 1), low == in - 1 ? 0 : where - low};
}

double resized(const Array& image, int64_t n, int64_t c, Position y, Position x) {
  const auto row = [&](int64_t at_y) {
    return (1 - x.fraction) * at(image, n, c, at_y, x.low) + x.fraction * at(image, n, c, at_y, x.high);
  };
  return (1 - y.fraction) * row(y.low) + y.fraction * row(y.high);
}

struct Parameters {
  Array weight, scale, shift;
  Parameters(std::mt19937& random, int64_t rates, int64_t channels, int64_t kernel)
      : weight({rates, channels, kernel, kernel}, DataType::kFLOAT),
        scale({rates, channels}, DataType::kFLOAT),
        shift({rates, channels}, DataType::kFLOAT) {
    weight.fill(random, 2);
    scale.fill(random, 2);
    shift.fill(random, 3);
  }
};

using Image = std::function<double(int64_t n, int64_t c, int64_t y, int64_t x)>;

// The result rounded to the type of `output`, by way of it.
double expected(const Image& image, const Parameters& parameters, int64_t rate_index, int64_t rate, int64_t stride,
                double high, const Array& output, const std::array<int64_t, 4>& i) {
  const int64_t channels = parameters.weight.description.dims.d[1], k = parameters.weight.description.dims.d[2];
  double sum = 0;
  for (int64_t a = 0; a < k; ++a) {
    for (int64_t b = 0; b < k; ++b) {
      const double value = image(i[0], i[1], i[2] * stride + (a - k / 2) * rate, i[3] * stride + (b - k / 2) * rate);
      sum += value * parameters.weight.get(((rate_index * channels + i[1]) * k + a) * k + b);
    }
  }
  const int64_t parameter = rate_index * channels + i[1];
  sum = sum * parameters.scale.get(parameter) + parameters.shift.get(parameter);
  Array one({1}, output.description.type);
  one.set(0, static_cast<float>(std::min(std::max(sum, 0.0), high)));
  return one.get(0);
}

void compare(const Image& image, const Parameters& parameters, int64_t rate_index, int64_t rate, int64_t stride,
             double high, const Array& output, const std::string& what) {
  const auto* d = output.description.dims.d;
  int64_t flat = 0, wrong = 0;
  for (int64_t n = 0; n < d[0]; ++n)
    for (int64_t c = 0; c < d[1]; ++c)
      for (int64_t y = 0; y < d[2]; ++y)
        for (int64_t x = 0; x < d[3]; ++x, ++flat)
          wrong +=
              output.get(flat) != expected(image, parameters, rate_index, rate, stride, high, output, {n, c, y, x});
  expect(wrong == 0, what + ": " + std::to_string(wrong) + " of " + std::to_string(flat) + " values differ");
}

struct Kind {
  DataType type;
  TensorFormat format;
  const char* name;
};

const Kind kKinds[] = {{DataType::kFLOAT, TensorFormat::kLINEAR, "float32 linear"},
                       {DataType::kFLOAT, TensorFormat::kHWC, "float32 channels-last"},
                       {DataType::kHALF, TensorFormat::kLINEAR, "float16 linear"},
                       {DataType::kHALF, TensorFormat::kHWC8, "float16 channels-last"},
                       {DataType::kBF16, TensorFormat::kLINEAR, "bfloat16 linear"},
                       {DataType::kBF16, TensorFormat::kHWC8, "bfloat16 channels-last"}};

Fields conv_fields(int32_t rate, int32_t stride, int32_t kernel, int32_t channels) {
  Fields fields;
  const int32_t pad = rate * (kernel / 2);
  fields.add("dilations", {rate, rate}).add("strides", {stride, stride}).add("pads", {pad, pad, pad, pad});
  fields.add("kernel_shape", {kernel, kernel}).add("group", {channels}).number("min", 0.0f).number("max", 6.0f);
  return fields;
}

Fields aspp_fields(std::vector<int32_t> rates, int32_t channels) {
  Fields fields;
  fields.add("rates", std::move(rates)).add("kernel_shape", {3, 3}).add("group", {channels});
  fields.number("min", 0.0f).number("max", kInfinity);
  return fields;
}

Fields concat_fields(int32_t align_corners, int32_t channels) {
  Fields fields;
  fields.add("align_corners", {align_corners}).add("rate", {1}).add("kernel_shape", {3, 3}).add("group", {channels});
  fields.number("min", 0.0f).number("max", kInfinity);
  return fields;
}

void check_depthwise_runs(const Kind& kind, std::mt19937& random) {
  for (const int stride : {1, 2}) {
    Array x({2, 16, 9, 13}, kind.type, kind.format),
        y({2, 16, (9 - 1) / stride + 1, (13 - 1) / stride + 1}, kind.type, kind.format);
    x.fill(random, 3);
    Parameters parameters(random, 1, 16, 5);
    const auto plugin = make("DeeplabDepthwise", conv_fields(2, stride, 5, 16).collection());
    run(*plugin, {&x, &parameters.weight, &parameters.scale, &parameters.shift}, {&y});
    const Image image = [&](int64_t n, int64_t c, int64_t row, int64_t column) { return at(x, n, c, row, column); };
    compare(image, parameters, 0, 2, stride, 6, y, std::string("DeeplabDepthwise ") + kind.name);
  }
}

void check_aspp_runs(const Kind& kind, std::mt19937& random) {
  Array x({1, 24, 16, 20}, kind.type, kind.format);
  x.fill(random, 3);
  const std::vector<int32_t> rates = {4, 8, 12};
  // Outputs that do not follow each other in memory, in the order of the rates.
  std::vector<Array> outputs(4, Array({1, 24, 16, 20}, kind.type, kind.format));
  std::vector<Array*> chosen = {&outputs[3], &outputs[0], &outputs[2]};
  Parameters parameters(random, 3, 24, 3);
  const auto plugin = make("DeeplabAsppDepthwise", aspp_fields(rates, 24).collection());
  expect(plugin->getNbOutputs() == 3, "DeeplabAsppDepthwise has one output a rate");
  run(*plugin, {&x, &parameters.weight, &parameters.scale, &parameters.shift}, chosen);
  const Image image = [&](int64_t n, int64_t c, int64_t row, int64_t column) { return at(x, n, c, row, column); };
  for (size_t i = 0; i < rates.size(); ++i) {
    compare(image, parameters, i, rates[i], 1, kInfinity, *chosen[i], std::string("DeeplabAsppDepthwise ") + kind.name);
  }
}

void check_concat_runs(const Kind& kind, std::mt19937& random) {
  for (const int align_corners : {0, 1}) {
    // Fractions of a quarter: 5 -> 17 and 4 -> 13 with aligned corners, 5 -> 10 and 4 -> 8 without.
    const int64_t height = align_corners ? 17 : 10, width = align_corners ? 13 : 8;
    Array x({2, 16, 5, 4}, kind.type, kind.format), low({2, 8, height, width}, kind.type, kind.format);
    Array y({2, 24, height, width}, kind.type, kind.format);
    x.fill(random, 3, 16);
    low.fill(random, 3);
    Parameters parameters(random, 1, 24, 3);
    const auto plugin = make("DeeplabUpsampleConcatDepthwise", concat_fields(align_corners, 24).collection());
    run(*plugin, {&x, &low, &parameters.weight, &parameters.scale, &parameters.shift}, {&y});
    const Image image = [&](int64_t n, int64_t c, int64_t row, int64_t column) {
      if (c >= 16 || row < 0 || row >= height || column < 0 || column >= width) return at(low, n, c - 16, row, column);
      return resized(x, n, c, position(row, 5, height, align_corners), position(column, 4, width, align_corners));
    };
    compare(image, parameters, 0, 1, 1, kInfinity, y, std::string("DeeplabUpsampleConcatDepthwise ") + kind.name);
  }
}

void check_argmax_runs(const Kind& kind, std::mt19937& random) {
  const int64_t classes = kind.format == TensorFormat::kHWC8 ? 24 : 19;
  for (const int align_corners : {0, 1}) {
    const int64_t height = align_corners ? 17 : 20, width = align_corners ? 13 : 16;
    Array logits({2, classes, 5, 4}, kind.type, kind.format), labels({2, height, width}, DataType::kINT32);
    logits.fill(random, 60);
    Fields fields;
    fields.add("align_corners", {align_corners});
    const auto plugin = make("DeeplabUpsampleArgmax", fields.collection());
    run(*plugin, {&logits}, {&labels});
    int64_t flat = 0, wrong = 0;
    for (int64_t n = 0; n < 2; ++n)
      for (int64_t y = 0; y < height; ++y)
        for (int64_t x = 0; x < width; ++x, ++flat) {
          int64_t best = 0;
          double most = -kInfinity;
          for (int64_t c = 0; c < classes; ++c) {
            const double value =
                resized(logits, n, c, position(y, 5, height, align_corners), position(x, 4, width, align_corners));
            if (value > most) most = value, best = c;
          }
          wrong += labels.get(flat) != best;
        }
    expect(wrong == 0,
           std::string("DeeplabUpsampleArgmax ") + kind.name + ": " + std::to_string(wrong) + " labels differ");
  }
}

void check_life(const char* name, const Fields& fields, int32_t outputs) {
  const auto plugin = make(name, fields.collection());
  expect(plugin != nullptr, std::string(name) + " is created");
  if (plugin == nullptr) return;
  for (const auto type : {nvinfer1::PluginCapabilityType::kCORE, nvinfer1::PluginCapabilityType::kBUILD,
                          nvinfer1::PluginCapabilityType::kRUNTIME}) {
    expect(plugin->getCapabilityInterface(type) != nullptr, std::string(name) + " has all capabilities");
  }
  const std::unique_ptr<Plugin> clone(static_cast<Plugin*>(plugin->clone()));
  const std::unique_ptr<Plugin> attached(static_cast<Plugin*>(plugin->attachToContext(nullptr)));
  const auto* stored = clone->getFieldsToSerialize();
  expect(stored != nullptr, std::string(name) + " says what to store");
  const auto restored = make(name, *stored, nvinfer1::TensorRTPhase::kRUNTIME);
  for (const auto* other : {clone.get(), attached.get(), restored.get()}) {
    expect(other != nullptr && std::string(plugin->getPluginName()) == other->getPluginName() &&
               std::strcmp(plugin->getMetadataString(), const_cast<Plugin*>(other)->getMetadataString()) == 0,
           std::string(name) + ": clones and what is read back have the same attributes");
  }
  expect(plugin->getNbOutputs() == outputs, std::string(name) + " has " + std::to_string(outputs) + " outputs");
  DataType types[4];
  const DataType half = DataType::kHALF, bytes = DataType::kINT8;
  expect(plugin->getOutputDataTypes(types, outputs, &half, 1) == 0, std::string(name) + " takes float16");
  expect(plugin->getOutputDataTypes(types, outputs, &bytes, 1) != 0, std::string(name) + " refuses int8");
}

// Whether the plugin takes all of these arrays, asked one after another as TensorRT does.
bool takes(Plugin& plugin, const std::vector<Array>& arrays, int32_t outputs) {
  std::vector<nvinfer1::DynamicPluginTensorDesc> tensors;
  for (const Array& array : arrays) {
    tensors.push_back({array.description, array.description.dims, array.description.dims, array.description.dims});
  }
  const auto inputs = static_cast<int32_t>(arrays.size()) - outputs;
  for (int32_t i = 0; i < static_cast<int32_t>(arrays.size()); ++i) {
    if (!plugin.supportsFormatCombination(i, tensors.data(), inputs, outputs)) return false;
  }
  return true;
}

void check_formats() {
  std::mt19937 random(0);
  for (const int64_t channels : {16, 20}) {
    for (const Kind& kind : kKinds) {
      const auto plugin = make("DeeplabDepthwise", conv_fields(1, 1, 3, static_cast<int32_t>(channels)).collection());
      const Parameters p(random, 1, channels, 3);
      const Array image({1, channels, 8, 8}, kind.type, kind.format);
      const bool padded = kind.format == TensorFormat::kHWC8 && channels % 8 != 0;
      expect(takes(*plugin, {image, p.weight, p.scale, p.shift, image}, 1) == !padded,
             std::string("formats: ") + kind.name + " with " + std::to_string(channels) + " channels");
      const Array other({1, channels, 8, 8}, kind.type == DataType::kHALF ? DataType::kBF16 : DataType::kHALF);
      expect(!takes(*plugin, {image, p.weight, p.scale, p.shift, other}, 1), "formats: output type differs");
      expect(!takes(*plugin, {image, Array({1, channels, 3, 3}, DataType::kHALF), p.scale, p.shift, image}, 1),
             "formats: weights are float32");
    }
  }
}

void check_refusals(Recorder& recorder) {
  const auto refuses = [&](const char* name, const Fields& fields, const std::string& text) {
    recorder.last_error.clear();
    const auto plugin = make(name, fields.collection());
    const bool says =
        recorder.last_error.find(std::string(name) + ": ") == 0 && recorder.last_error.find(text) != std::string::npos;
    expect(plugin == nullptr && says,
           std::string(name) + " should refuse with '" + text + "', said '" + recorder.last_error + "'");
  };
  Fields typo = conv_fields(1, 1, 3, 8), missing, wrong_length, wrong_type;
  typo.add("dilation", {1});
  missing.add("rates", {1});
  wrong_length.add("align_corners", {1, 1});
  wrong_type.number("align_corners", 1.0f);
  refuses("DeeplabDepthwise", typo, "dilation: unknown attribute");
  refuses("DeeplabDepthwise", conv_fields(1, 1, 4, 8), "kernel_shape: got 4 x 4");
  refuses("DeeplabDepthwise", conv_fields(0, 1, 3, 8), "an atrous rate is at least 1");
  refuses("DeeplabAsppDepthwise", missing, "kernel_shape: attribute is missing");
  refuses("DeeplabAsppDepthwise", aspp_fields({}, 8), "rates: got 0 of them");
  refuses("DeeplabUpsampleArgmax", wrong_length, "align_corners: got 2 values, needs 1");
  refuses("DeeplabUpsampleArgmax", wrong_type, "align_corners: got field type");

  const auto plugin = make("DeeplabDepthwise", conv_fields(1, 1, 3, 8).collection());
  const Array image({1, 9, 4, 4}, DataType::kFLOAT), weight({1, 8, 3, 3}, DataType::kFLOAT),
      one({1, 8}, DataType::kFLOAT);
  const PluginTensorDesc in[] = {image.description, weight.description, one.description, one.description};
  expect(plugin->onShapeChange(in, 4, nullptr, 1) != 0 &&
             recorder.last_error.find("x: got shape [1, 9, 4, 4]") != std::string::npos,
         "shapes that do not fit the attributes are refused: " + recorder.last_error);
}

}  // namespace

int main() {
  Recorder recorder;
  setLoggerFinder(&recorder);
  Fields argmax;
  argmax.add("align_corners", {1});
  check_life("DeeplabDepthwise", conv_fields(2, 1, 3, 8), 1);
  check_life("DeeplabAsppDepthwise", aspp_fields({6, 12, 18}, 8), 3);
  check_life("DeeplabUpsampleConcatDepthwise", concat_fields(0, 24), 1);
  check_life("DeeplabUpsampleArgmax", argmax, 1);
  check_formats();
  check_refusals(recorder);
  std::mt19937 random(1);
  for (const Kind& kind : kKinds) {
    check_depthwise_runs(kind, random);
    check_aspp_runs(kind, random);
    check_concat_runs(kind, random);
    check_argmax_runs(kind, random);
  }
  if (failures == 0) std::cout << "all checks passed" << std::endl;
  return failures == 0 ? 0 : 1;
}
