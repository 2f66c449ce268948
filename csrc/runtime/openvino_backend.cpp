// SPDX-License-Identifier: Apache-2.0
// OpenVINO, which reads ONNX files itself, or its own .xml with the .bin beside it.
#include <algorithm>
#include <cctype>
#include <filesystem>

#include "runtime/backends.h"
#include "runtime/error.h"
#include "runtime/onnx_metadata.h"
#include "runtime/openvino_models.h"

namespace deeplab::runtime {
namespace {

struct TypePair {
  ov::element::Type theirs;
  DType ours;
};

const std::vector<TypePair>& types() {
  static const std::vector<TypePair> table = {
      {ov::element::f32, DType::float32}, {ov::element::u8, DType::uint8}, {ov::element::i32, DType::int32}};
  return table;
}

TensorView view_of(const ov::Tensor& tensor) {
  const ov::Shape shape = tensor.get_shape();
  for (const TypePair& pair : types()) {
    if (tensor.get_element_type() != pair.theirs) continue;
    return packed_view(tensor.data(), pair.ours, {shape.begin(), shape.end()});
  }
  throw StatusError(DEEPLAB_BACKEND, message("the network gives ", tensor.get_element_type().get_type_name(),
                                             ", which is neither logits nor labels"));
}

template <typename Function>
auto translated(const Function& function) {
  try {
    return function();
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    throw StatusError(DEEPLAB_BACKEND, message("OpenVINO could not run the model: ", last_line(error.what())));
  }
}

class OpenVinoBackend : public Backend {
 public:
  OpenVinoBackend(SizedModels::Compile compile, bool by_size, std::string device)
      : models_(std::move(compile), by_size), device_(std::move(device)) {}

  void run(const TensorView& input, const std::function<void(const TensorView&)>& use) override {
    const std::shared_ptr<CompiledNetwork> network = pick({input.shape.begin(), input.shape.begin() + input.dims});
    const auto make = [&] { return std::make_unique<ov::InferRequest>(network->compiled.create_infer_request()); };
    network->requests.with(make, [&](ov::InferRequest& request) { use(view_of(infer(request, input))); });
  }

  const char* name() const override { return "openvino"; }
  std::string device() const override { return device_; }

 private:
  std::shared_ptr<CompiledNetwork> pick(const ov::Shape& shape) {
    return translated([&] { return models_.pick(shape); });
  }

  static ov::Tensor infer(ov::InferRequest& request, const TensorView& input) {
    return translated([&] {
      const ov::Shape shape(input.shape.begin(), input.shape.begin() + input.dims);
      const auto type = input.dtype == DType::uint8 ? ov::element::u8 : ov::element::f32;
      request.set_input_tensor(ov::Tensor(type, shape, input.data));
      request.infer();
      return request.get_output_tensor(0);
    });
  }

  SizedModels models_;
  std::string device_;
};

// One a process and never freed: the CPU plugin gives the thread that makes a Core an alternate signal stack, and of two
// Cores closed in their order of making it leaves that thread an unmapped one (OpenVINO 2026.4.1): the next signal kills.
ov::Core& shared_core() {
  static ov::Core* const core = new ov::Core;
  return *core;
}

std::string device_of(ov::Core& core, const std::string& wanted) {
  std::string device = wanted == "auto" ? "CPU" : wanted;
  std::transform(device.begin(), device.end(), device.begin(), [](unsigned char c) { return std::toupper(c); });
  std::string available;
  for (const std::string& one : core.get_available_devices()) {
    if (one.substr(0, one.find('.')) == device) return device;
    available += (available.empty() ? "" : ", ") + one;
  }
  throw StatusError(DEEPLAB_BACKEND,
                    message("OpenVINO has no device '", wanted, "' on this machine; it has ", available));
}

// The file's type, where the device has it; without the hint OpenVINO computes in bf16 where the CPU can.
ov::element::Type compute_type(ov::Core& core, const std::string& device, const Manifest& manifest, bool ir) {
  if (!ir || manifest.precision != "bf16") return ov::element::f32;
  const auto able = core.get_property(device, ov::device::capabilities);
  return std::find(able.begin(), able.end(), "BF16") != able.end() ? ov::element::bf16 : ov::element::f32;
}

bool has_open_size(const Manifest& manifest) {
  const Range* const sides[] = {&manifest.batch, &manifest.height, &manifest.width};
  return std::any_of(std::begin(sides), std::end(sides), [](const Range* side) { return (*side)[0] != (*side)[2]; });
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return std::tolower(c); });
  return text;
}

std::string ir_manifest(const std::string& path, const ov::Model& model) {
  require(model.has_rt_info(kMetadataKey), DEEPLAB_MODEL_FILE, path,
          ": an OpenVINO file without our manifest; write it with deeplab-export");
  return model.get_rt_info<std::string>(kMetadataKey);
}

void check_pair(const std::string& path) {
  const std::filesystem::path weights = std::filesystem::path(path).replace_extension(".bin");
  require(std::filesystem::is_regular_file(weights), DEEPLAB_MODEL_FILE, weights.string(),
          ": no such file; an OpenVINO model is a .xml and a .bin side by side");
}

}  // namespace

OpenedModel open_openvino(const std::string& path, const BackendOptions& options) {
  const bool ir = suffix_of(path) == ".xml";
  if (ir) check_pair(path);
  const std::string metadata = ir ? std::string() : read_onnx_metadata(path, kMetadataKey);
  try {
    ov::Core& core = shared_core();
    const std::string device = device_of(core, options.device);
    const std::shared_ptr<ov::Model> model = core.read_model(path);
    OpenedModel opened{parse_manifest(ir ? ir_manifest(path, *model) : metadata, path), nullptr};
    ov::AnyMap settings{ov::hint::inference_precision(compute_type(core, device, opened.manifest, ir)),
                        ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
    if (options.threads > 0) settings.insert(ov::inference_num_threads(options.threads));
    const auto compile = [&core, model, device, settings](const ov::Shape* shape) {
      if (shape == nullptr) return core.compile_model(model, device, settings);
      const std::shared_ptr<ov::Model> copy = model->clone();
      copy->reshape(ov::PartialShape(*shape));
      return core.compile_model(copy, device, settings);
    };
    const bool by_size = device == "CPU" && has_open_size(opened.manifest);
    opened.backend = std::make_unique<OpenVinoBackend>(compile, by_size, lower(device));
    return opened;
  } catch (const StatusError&) {
    throw;
  } catch (const std::exception& error) {
    throw StatusError(DEEPLAB_MODEL_FILE, message(path, ": OpenVINO cannot load it: ", last_line(error.what())));
  }
}

}  // namespace deeplab::runtime
