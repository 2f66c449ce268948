// SPDX-License-Identifier: Apache-2.0
// deeplab.h over Model: structs of any version in and out, and no exception beyond this file.
#include <algorithm>
#include <cstring>
#include <new>
#include <optional>

#include "common/check.h"
#include "deeplab/deeplab.h"
#include "runtime/error.h"
#include "runtime/model.h"

using deeplab::runtime::Labels;
using deeplab::runtime::Manifest;
using deeplab::runtime::Model;
using deeplab::runtime::ModelOptions;
using deeplab::runtime::require;
using deeplab::runtime::Size;
using deeplab::runtime::StatusError;

struct deeplab_segmenter {
  Model model;
  std::string device;
};

struct deeplab_segmentation {
  Labels labels;
};

namespace {

thread_local std::string last_error;

deeplab_status fail(deeplab_status status, const char* text) noexcept {
  try {
    last_error = text;
  } catch (...) {
    last_error.clear();  // no memory for the message: the status says it all
  }
  return status;
}

template <typename Function>
deeplab_status guarded(const Function& function) noexcept {
  try {
    function();
    return DEEPLAB_OK;
  } catch (const StatusError& error) {
    return fail(error.status(), error.what());
  } catch (const std::invalid_argument& error) {
    return fail(DEEPLAB_INVALID_ARGUMENT, error.what());
  } catch (const std::bad_alloc&) {
    return fail(DEEPLAB_OUT_OF_MEMORY, "not enough memory; use smaller images, or slide mode");
  } catch (const std::length_error&) {
    return fail(DEEPLAB_OUT_OF_MEMORY, "not enough memory; use smaller images, or slide mode");
  } catch (const std::exception& error) {
    return fail(DEEPLAB_INTERNAL, error.what());
  } catch (...) {
    return fail(DEEPLAB_INTERNAL, "an unknown error");
  }
}

template <typename T>
void check_pointer(const T* pointer, const char* name) {
  require(pointer != nullptr, DEEPLAB_INVALID_ARGUMENT, name, " is NULL");
}

// A caller's struct of an older or newer version: what it lacks is 0, what we do not know must be 0.
template <typename T>
T read_struct(const T* given, const char* name) {
  check_pointer(given, name);
  size_t size = 0;
  std::memcpy(&size, given, sizeof(size));
  require(size >= sizeof(size_t) && size <= 4096, DEEPLAB_INVALID_ARGUMENT, name, "->struct_size is ", size,
          "; set it to sizeof(*", name, ")");
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  require(size <= sizeof(T) || std::all_of(bytes + sizeof(T), bytes + size, [](unsigned char b) { return b == 0; }),
          DEEPLAB_INVALID_ARGUMENT, name, " sets fields that this library does not know; use a newer one");
  T values{};
  std::memcpy(&values, given, std::min(size, sizeof(T)));
  return values;
}

template <typename T>
void write_struct(T* given, const char* name, T values) {
  check_pointer(given, name);
  size_t size = 0;
  std::memcpy(&size, given, sizeof(size));
  require(size >= sizeof(size_t) && size <= 4096, DEEPLAB_INVALID_ARGUMENT, name, "->struct_size is ", size,
          "; set it to sizeof(*", name, ")");
  values.struct_size = size;
  std::memset(static_cast<void*>(given), 0, size);
  std::memcpy(static_cast<void*>(given), &values, std::min(size, sizeof(T)));
}

std::optional<Size> size_of(const int32_t pair[2], const char* name) {
  if (pair[0] == 0 && pair[1] == 0) return std::nullopt;
  require(pair[0] >= 1 && pair[1] >= 1, DEEPLAB_INVALID_ARGUMENT, name, " is ", pair[0], " x ", pair[1],
          "; needs (height, width) of at least 1, or zeros for the model's own");
  return Size{pair[0], pair[1]};
}

ModelOptions options_of(const deeplab_options& given) {
  ModelOptions options;
  if (given.backend != nullptr) options.backend = given.backend;
  if (given.device != nullptr) options.device = given.device;
  if (given.mode != nullptr) options.mode = given.mode;
  options.window = size_of(given.window, "window");
  options.window_stride = size_of(given.window_stride, "window_stride");
  require(given.window_batch >= 0, DEEPLAB_INVALID_ARGUMENT, "window_batch must be at least 1, or 0 for the default, ",
          "got ", given.window_batch);
  if (given.window_batch > 0) options.window_batch = given.window_batch;
  require(given.threads >= 0, DEEPLAB_INVALID_ARGUMENT, "threads must be at least 1, or 0 for all, got ",
          given.threads);
  options.threads = given.threads;
  return options;
}

deeplab_info info_of(const deeplab_segmenter& segmenter) {
  const Manifest& manifest = segmenter.model.manifest();
  deeplab_info info{};
  info.config = manifest.config.c_str();
  info.backend = segmenter.model.backend().name();
  info.device = segmenter.device.c_str();
  info.precision = manifest.precision.c_str();
  info.mode = segmenter.model.slide() ? "slide" : "whole";
  info.num_classes = static_cast<int32_t>(manifest.num_classes());
  info.label_bytes = manifest.labels_int32() ? 4 : 1;
  std::copy_n(manifest.batch.begin(), 3, info.batch);
  std::copy_n(manifest.height.begin(), 3, info.height);
  std::copy_n(manifest.width.begin(), 3, info.width);
  return info;
}

bool is_class(const deeplab_segmenter* segmenter, int32_t index) {
  return segmenter != nullptr && index >= 0 && index < segmenter->model.manifest().num_classes();
}

}  // namespace

int32_t deeplab_api_version(void) {
  return DEEPLAB_API_VERSION;
}

const char* deeplab_version(void) {
  return DEEPLAB_VERSION;
}

const char* deeplab_backends(void) {
  return deeplab::runtime::backend_names();
}

const char* deeplab_last_error(void) {
  return last_error.c_str();
}

deeplab_status deeplab_open(const char* path, const deeplab_options* options, deeplab_segmenter** segmenter) {
  return guarded([&] {
    check_pointer(segmenter, "segmenter");
    *segmenter = nullptr;
    check_pointer(path, "path");
    const deeplab_options given = options == nullptr ? deeplab_options{} : read_struct(options, "options");
    Model model(path, options_of(given));
    std::string device = model.backend().device();
    *segmenter = new deeplab_segmenter{std::move(model), std::move(device)};
  });
}

void deeplab_close(deeplab_segmenter* segmenter) {
  delete segmenter;
}

deeplab_status deeplab_get_info(const deeplab_segmenter* segmenter, deeplab_info* info) {
  return guarded([&] {
    check_pointer(segmenter, "segmenter");
    write_struct(info, "info", info_of(*segmenter));
  });
}

const char* deeplab_class_name(const deeplab_segmenter* segmenter, int32_t index) {
  return is_class(segmenter, index) ? segmenter->model.manifest().classes[index].c_str() : nullptr;
}

const uint8_t* deeplab_class_color(const deeplab_segmenter* segmenter, int32_t index) {
  return is_class(segmenter, index) ? segmenter->model.manifest().palette[index].data() : nullptr;
}

deeplab_status deeplab_segment(const deeplab_segmenter* segmenter, const deeplab_image* image, int32_t scores,
                               deeplab_segmentation** segmentation) {
  return guarded([&] {
    check_pointer(segmentation, "segmentation");
    *segmentation = nullptr;
    check_pointer(segmenter, "segmenter");
    require(scores == 0 || scores == 1, DEEPLAB_INVALID_ARGUMENT, "scores is ", scores, "; needs 0 or 1");
    const deeplab_image given = read_struct(image, "image");
    *segmentation = new deeplab_segmentation{segmenter->model.segment(given, scores == 1)};
  });
}

deeplab_status deeplab_get_labels(const deeplab_segmentation* segmentation, deeplab_labels* labels) {
  return guarded([&] {
    check_pointer(segmentation, "segmentation");
    const Labels& found = segmentation->labels;
    deeplab_labels view{};
    view.height = found.size.height;
    view.width = found.size.width;
    view.bytes = found.uint8.empty() ? 4 : 1;
    view.labels = found.uint8.empty() ? static_cast<const void*>(found.int32.data()) : found.uint8.data();
    view.scores = found.scores.empty() ? nullptr : found.scores.data();
    write_struct(labels, "labels", view);
  });
}

void deeplab_free(deeplab_segmentation* segmentation) {
  delete segmentation;
}
