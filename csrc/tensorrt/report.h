// SPDX-License-Identifier: Apache-2.0
// Messages through the logger of the engine, builder or context that called the plugin.
#pragma once

#include <NvInferRuntime.h>

#include <exception>

namespace deeplab::tensorrt {

void set_logger_finder(nvinfer1::ILoggerFinder* finder);

// An error line "<plugin>: <text>"; on standard error where TensorRT has lent no logger (it does when it loads the
// library itself).
void report_error(const char* plugin, const char* text) noexcept;

// TensorRT's methods return 0, and anything else ends the build or the inference: exceptions stay inside.
template <typename Function>
int32_t status_of(const char* plugin, const Function& function) noexcept {
  try {
    function();
    return 0;
  } catch (const std::exception& error) {
    report_error(plugin, error.what());
    return 1;
  }
}

}  // namespace deeplab::tensorrt
