// SPDX-License-Identifier: Apache-2.0
// What TensorRT looks for in a plugin library. Loading it by hand is IPluginRegistry::loadLibrary(); engines built with
// the library inside (setPluginsToSerialize) bring it along.
#include "tensorrt/depthwise_plugin.h"
#include "tensorrt/upsample_argmax_plugin.h"
#include "tensorrt/upsample_concat_depthwise_plugin.h"

#define DEEPLAB_EXPORT extern "C" __attribute__((visibility("default")))

DEEPLAB_EXPORT void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  deeplab::tensorrt::set_logger_finder(finder);
}

DEEPLAB_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
  using namespace deeplab::tensorrt;
  static Creator<DepthwisePlugin> depthwise;
  static Creator<AsppDepthwisePlugin> aspp;
  static Creator<UpsampleConcatDepthwisePlugin> concat;
  static Creator<UpsampleArgmaxPlugin> argmax;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&depthwise, &aspp, &concat, &argmax};
  count = static_cast<int32_t>(sizeof(creators) / sizeof(creators[0]));
  return creators;
}
