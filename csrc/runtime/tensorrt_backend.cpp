// SPDX-License-Identifier: Apache-2.0
// A TensorRT engine: pixels go to the GPU and logits or labels come back; the rest is done by the CPU's kernels.
#include <NvInferRuntime.h>
#include <NvInferVersion.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <mutex>

#include "runtime/backends.h"
#include "runtime/engine_file.h"
#include "runtime/error.h"
#include "runtime/pool.h"

namespace deeplab::runtime {
namespace {

#if defined(TRT_MAJOR_RTX)
constexpr const char* kFlavour = "tensorrt_rtx";
#else
constexpr const char* kFlavour = "tensorrt";
#endif

void check_cuda(cudaError_t error, const char* what) {
  require(error == cudaSuccess, DEEPLAB_BACKEND, "CUDA could not ", what, ": ", cudaGetErrorString(error));
}

// TensorRT says why something failed to its logger only.
class Log : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* text) noexcept override {
    if (severity > Severity::kERROR) return;
    const std::lock_guard<std::mutex> lock(mutex_);
    last_ = text;
  }
  std::string last() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return last_.empty() ? "no reason given" : last_;
  }

 private:
  std::mutex mutex_;
  std::string last_;
};

class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(const DeviceMemory&) = delete;
  ~DeviceMemory() { cudaFree(data_); }
  void* reserve(size_t bytes) {
    if (bytes <= size_) return data_;
    check_cuda(cudaFree(data_), "free memory");
    data_ = nullptr, size_ = 0;
    check_cuda(cudaMalloc(&data_, bytes), "allocate memory");
    size_ = bytes;
    return data_;
  }

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

class Stream {
 public:
  Stream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "make a stream"); }
  Stream(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

// All that one call needs; its context goes before its memory.
struct Call {
  Stream stream;
  DeviceMemory input, output;
  std::unique_ptr<nvinfer1::IExecutionContext> context;
  std::vector<char> host;
};

DType type_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT: return DType::float32;
    case nvinfer1::DataType::kUINT8: return DType::uint8;
    case nvinfer1::DataType::kINT32: return DType::int32;
    default:
      throw StatusError(DEEPLAB_BACKEND, message("the engine gives elements of TensorRT type ", static_cast<int>(type),
                                                 ", which are neither logits nor labels"));
  }
}

bool accepts(const Range& range, int64_t size) {
  return range[0] <= size && size <= range[2];
}

class TensorRtBackend : public Backend {
 public:
  TensorRtBackend(EngineFile file, int device) : file_(std::move(file)), device_(device) {
    check_cuda(cudaSetDevice(device_), "use the GPU");
    runtime_.reset(nvinfer1::createInferRuntime(log_));
    require(runtime_ != nullptr, DEEPLAB_BACKEND, "TensorRT could not start: ", log_.last());
    for (const std::string& plugin : file_.plugins) {
      require(runtime_->getPluginRegistry().loadLibrary(plugin.c_str()) != nullptr, DEEPLAB_BACKEND, plugin,
              ": TensorRT cannot load this plugin library: ", log_.last());
    }
    engine_.reset(runtime_->deserializeCudaEngine(file_.plan.data(), file_.plan.size()));
    require(engine_ != nullptr, DEEPLAB_BACKEND, "TensorRT cannot load the engine on this GPU: ", log_.last());
    file_.plan.clear();
    file_.plan.shrink_to_fit();
    output_ = file_.manifest.labels_output ? "labels" : "logits";
  }

  void run(const TensorView& input, const std::function<void(const TensorView&)>& use) override {
    check_cuda(cudaSetDevice(device_), "use the GPU");  // a thread's own setting
    calls_.with([this] { return make_call(); }, [&](Call& call) { use(infer(call, input)); });
  }

  const char* name() const override { return "tensorrt"; }
  std::string device() const override { return "cuda:" + std::to_string(device_); }
  const Manifest& manifest() const { return file_.manifest; }

 private:
  std::unique_ptr<Call> make_call() {
    auto call = std::make_unique<Call>();
    call->context.reset(engine_->createExecutionContext());
    require(call->context != nullptr, DEEPLAB_BACKEND, "TensorRT could not make a context: ", log_.last());
    return call;
  }

  int profile_for(const TensorView& input) const {
    const bool pixels = input.dtype == DType::uint8;
    const int64_t height = input.shape[pixels ? 1 : 2], width = input.shape[pixels ? 2 : 3];
    for (size_t i = 0; i < file_.profiles.size(); ++i) {
      const Profile& one = file_.profiles[i];
      if (accepts(one.batch, input.shape[0]) && accepts(one.height, height) && accepts(one.width, width)) {
        return static_cast<int>(i);
      }
    }
    throw StatusError(DEEPLAB_BACKEND, message("no profile of the engine accepts ", shape_text(input),
                                               "; build the engine for this size"));
  }

  TensorView infer(Call& call, const TensorView& input) {
    nvinfer1::IExecutionContext& context = *call.context;
    nvinfer1::Dims dims{};
    dims.nbDims = input.dims;
    std::copy_n(input.shape.begin(), input.dims, dims.d);
    const bool ready = context.setOptimizationProfileAsync(profile_for(input), call.stream) &&
                       context.setInputShape("image", dims);
    require(ready, DEEPLAB_BACKEND, "TensorRT refuses an input of ", shape_text(input), ": ", log_.last());
    const nvinfer1::Dims found = context.getTensorShape(output_.c_str());
    require(found.nbDims >= 0 && std::all_of(found.d, found.d + found.nbDims, [](int64_t side) { return side >= 0; }),
            DEEPLAB_BACKEND, "the engine has no output '", output_, "'");
    TensorView output = packed_view(nullptr, type_of(engine_->getTensorDataType(output_.c_str())),
                                    {found.d, found.d + found.nbDims});
    const size_t in = input.elements() * size_of(input.dtype), out = output.elements() * size_of(output.dtype);
    void* const source = call.input.reserve(in);
    void* const target = call.output.reserve(out);
    call.host.resize(out);
    check_cuda(cudaMemcpyAsync(source, input.data, in, cudaMemcpyHostToDevice, call.stream), "copy the image");
    const bool started = context.setTensorAddress("image", source) &&
                         context.setTensorAddress(output_.c_str(), target) && context.enqueueV3(call.stream);
    require(started, DEEPLAB_BACKEND, "TensorRT could not run the engine: ", log_.last());
    check_cuda(cudaMemcpyAsync(call.host.data(), target, out, cudaMemcpyDeviceToHost, call.stream), "copy the result");
    check_cuda(cudaStreamSynchronize(call.stream), "run the engine");
    output.data = call.host.data();
    return output;
  }

  Log log_;  // outlives all that writes to it
  EngineFile file_;
  int device_;
  std::string output_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  Pool<Call> calls_;
};

int device_index(const std::string& device) {
  if (device == "auto" || device == "cuda") return 0;
  const std::string number = device.rfind("cuda:", 0) == 0 ? device.substr(5) : "";
  require(!number.empty() && number.size() <= 4 && number.find_first_not_of("0123456789") == std::string::npos,
          DEEPLAB_BACKEND, "backend tensorrt has no device '", device, "'; use auto, cuda or cuda:N");
  return std::stoi(number);
}

}  // namespace

OpenedModel open_tensorrt(const std::string& path, const BackendOptions& options) {
  const int device = device_index(options.device);
  EngineFile file = read_engine_file(path);
  require(file.flavour == kFlavour, DEEPLAB_BACKEND, path, ": is an engine of ", file.flavour,
          ", this runtime was built with ", kFlavour);
  auto backend = std::make_unique<TensorRtBackend>(std::move(file), device);
  OpenedModel opened{backend->manifest(), nullptr};
  opened.backend = std::move(backend);
  return opened;
}

}  // namespace deeplab::runtime
