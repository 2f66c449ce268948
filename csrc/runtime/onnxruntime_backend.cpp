// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime on the CPU.
#include <onnxruntime_cxx_api.h>

#include "runtime/backends.h"
#include "runtime/error.h"
#include "runtime/onnx_metadata.h"

namespace deeplab::runtime {
namespace {

DType type_of(ONNXTensorElementDataType type) {
  switch (type) {
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return DType::float32;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8: return DType::uint8;
    case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return DType::int32;
    default:
      throw StatusError(DEEPLAB_BACKEND, message("the network gives elements of ONNX type ", static_cast<int>(type),
                                                 ", which are neither logits nor labels"));
  }
}

class OnnxRuntimeBackend : public Backend {
 public:
  OnnxRuntimeBackend(const std::string& path, const Ort::SessionOptions& options)
      : environment_(ORT_LOGGING_LEVEL_ERROR, "deeplab"), session_(environment_, path.c_str(), options) {
    Ort::AllocatorWithDefaultOptions allocator;
    output_ = session_.GetOutputNameAllocated(0, allocator).get();
  }

  // Sessions may run in several threads at once.
  void run(const TensorView& input, const std::function<void(const TensorView&)>& use) override {
    const Ort::Value output = infer(input);
    const auto facts = output.GetTensorTypeAndShapeInfo();
    use(packed_view(output.GetTensorRawData(), type_of(facts.GetElementType()), facts.GetShape()));
  }

  const char* name() const override { return "onnxruntime"; }
  std::string device() const override { return "cpu"; }

 private:
  Ort::Value infer(const TensorView& input) {
    try {
      const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
      const auto type = input.dtype == DType::uint8 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8
                                                    : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
      const size_t bytes = input.elements() * size_of(input.dtype);
      const Ort::Value tensor =
          Ort::Value::CreateTensor(memory, input.data, bytes, input.shape.data(), input.dims, type);
      const char* const inputs[] = {"image"};
      const char* const outputs[] = {output_.c_str()};
      std::vector<Ort::Value> found = session_.Run(Ort::RunOptions{nullptr}, inputs, &tensor, 1, outputs, 1);
      return std::move(found.front());
    } catch (const Ort::Exception& error) {
      throw StatusError(DEEPLAB_BACKEND, message("ONNX Runtime could not run the model: ", last_line(error.what())));
    }
  }

  Ort::Env environment_;
  Ort::Session session_;
  std::string output_;
};

Ort::SessionOptions session_options(const Manifest& manifest, int threads) {
  Ort::SessionOptions options;
  options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
  // Its threads would spin on after a run, on the cores that the argmax of the logits then needs.
  options.AddConfigEntry("session.force_spinning_stop", "1");
  if (threads > 0) options.SetIntraOpNumThreads(threads);
  // Our Q/DQ stand where TensorRT fuses them; ONNX Runtime's fusions make invalid graphs of some of them.
  if (manifest.precision == "int8" || manifest.precision == "fp8") {
    options.AddConfigEntry("session.disable_quant_qdq", "1");
  }
  if (manifest.precision == "fp8") options.SetGraphOptimizationLevel(ORT_DISABLE_ALL);
  return options;
}

}  // namespace

OpenedModel open_onnxruntime(const std::string& path, const BackendOptions& options) {
  require(options.device == "auto" || options.device == "cpu", DEEPLAB_BACKEND, "backend onnxruntime has no device '",
          options.device, "' in this runtime; use auto or cpu");
  OpenedModel opened{parse_manifest(read_onnx_metadata(path, kMetadataKey), path), nullptr};
  try {
    opened.backend = std::make_unique<OnnxRuntimeBackend>(path, session_options(opened.manifest, options.threads));
  } catch (const Ort::Exception& error) {
    throw StatusError(DEEPLAB_MODEL_FILE, message(path, ": ONNX Runtime cannot load it: ", last_line(error.what())));
  }
  return opened;
}

}  // namespace deeplab::runtime
