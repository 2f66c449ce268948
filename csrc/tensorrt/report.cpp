// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/report.h"

#include <atomic>
#include <iostream>

#include "common/check.h"

namespace deeplab::tensorrt {
namespace {

std::atomic<nvinfer1::ILoggerFinder*> logger_finder{nullptr};

nvinfer1::ILogger* find_logger() {
  nvinfer1::ILoggerFinder* finder = logger_finder;
  return finder == nullptr ? nullptr : finder->findLogger();
}

}  // namespace

void set_logger_finder(nvinfer1::ILoggerFinder* finder) {
  logger_finder = finder;
}

void report_error(const char* plugin, const char* text) noexcept {
  try {
    const std::string line = message(plugin, ": ", text);
    if (nvinfer1::ILogger* logger = find_logger()) {
      logger->log(nvinfer1::ILogger::Severity::kERROR, line.c_str());
    } else {
      std::cerr << line << std::endl;
    }
  } catch (...) {
    // Out of memory while reporting: the status still tells TensorRT that the call failed.
  }
}

}  // namespace deeplab::tensorrt
