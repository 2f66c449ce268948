// SPDX-License-Identifier: Apache-2.0
#include "runtime/backends.h"

#include <algorithm>
#include <cctype>
#include <filesystem>

#include "runtime/error.h"

namespace deeplab::runtime {
namespace {

#if defined(DEEPLAB_WITH_ONNXRUNTIME)
constexpr auto kOnnxRuntime = &open_onnxruntime;
#else
constexpr std::nullptr_t kOnnxRuntime = nullptr;
#endif
#if defined(DEEPLAB_WITH_OPENVINO)
constexpr auto kOpenVino = &open_openvino;
#else
constexpr std::nullptr_t kOpenVino = nullptr;
#endif
#if defined(DEEPLAB_WITH_TENSORRT)
constexpr auto kTensorRt = &open_tensorrt;
#else
constexpr std::nullptr_t kTensorRt = nullptr;
#endif

struct Entry {
  const char* name;
  std::vector<const char*> suffixes;
  OpenedModel (*open)(const std::string&, const BackendOptions&);  // nullptr: not in this build
  const char* build_with;
};

// In order of preference.
const std::vector<Entry>& entries() {
  static const std::vector<Entry> table = {
      {"onnxruntime", {".onnx"}, kOnnxRuntime, "-DDEEPLAB_ONNXRUNTIME_INCLUDE=.. -DDEEPLAB_ONNXRUNTIME_LIBRARY=.."},
      {"openvino", {".onnx", ".xml"}, kOpenVino, "-DDEEPLAB_OPENVINO=ON"},
      {"tensorrt",
       {".engine", ".plan", ".trt"},
       kTensorRt,
       "-DDEEPLAB_TENSORRT_INCLUDE=.. -DDEEPLAB_TENSORRT_LIBRARY=.."},
  };
  return table;
}

bool reads(const Entry& entry, const std::string& suffix) {
  return std::any_of(entry.suffixes.begin(), entry.suffixes.end(), [&](const char* one) { return suffix == one; });
}

const Entry& choose(const std::string& path, const std::string& backend) {
  const std::string suffix = suffix_of(path);
  bool known = backend == "auto", readable = false;
  std::string missing;
  for (const Entry& entry : entries()) {
    known |= backend == entry.name;
    readable |= reads(entry, suffix);
    if ((backend != "auto" && backend != entry.name) || !reads(entry, suffix)) continue;
    if (entry.open != nullptr) return entry;
    missing += message(missing.empty() ? "" : " or ", entry.name, " (", entry.build_with, ")");
  }
  require(known, DEEPLAB_INVALID_ARGUMENT, "unknown backend '", backend,
          "'; there are auto, onnxruntime, openvino, tensorrt");
  require(readable, DEEPLAB_MODEL_FILE, path, ": not a model that this runtime opens; it opens .onnx, OpenVINO's .xml ",
          "and TensorRT's .engine, .plan and .trt files");
  require(!missing.empty(), DEEPLAB_BACKEND, path, ": ", backend, " does not run ", suffix, " files");
  throw StatusError(DEEPLAB_BACKEND,
                    message(path, ": this build cannot run ", suffix, " files; build it with ", missing));
}

}  // namespace

std::string suffix_of(const std::string& path) {
  std::string suffix = std::filesystem::path(path).extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(), [](unsigned char c) { return std::tolower(c); });
  return suffix;
}

TensorView packed_view(const void* data, DType dtype, const std::vector<int64_t>& shape) {
  require(shape.size() <= kMaxDims, DEEPLAB_BACKEND, "the network has an array of ", shape.size(), " axes");
  TensorView view;
  view.data = const_cast<void*>(data);
  view.dtype = dtype;
  view.dims = static_cast<int>(shape.size());
  int64_t stride = 1;
  for (int i = view.dims - 1; i >= 0; --i) {
    view.shape[i] = shape[i];
    view.strides[i] = stride;
    stride *= shape[i];
  }
  return view;
}

OpenedModel open_model(const std::string& path, const std::string& backend, const BackendOptions& options) {
  const Entry& entry = choose(path, backend);
  std::error_code ignored;  // what cannot be asked about is not there
  require(!std::filesystem::is_directory(path, ignored), DEEPLAB_MODEL_FILE, path, ": is a folder; give a file in it");
  require(std::filesystem::exists(path, ignored), DEEPLAB_MODEL_FILE, path, ": no such file");
  return entry.open(path, options);
}

const char* backend_names() {
  static const std::string names = [] {
    std::string text;
    for (const Entry& entry : entries()) {
      if (entry.open != nullptr) text += (text.empty() ? "" : ",") + std::string(entry.name);
    }
    return text;
  }();
  return names.c_str();
}

}  // namespace deeplab::runtime
