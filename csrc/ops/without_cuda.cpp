// SPDX-License-Identifier: Apache-2.0
// Builds without nvcc: on_gpu() has refused the call before any of these could be reached.
#include <stdexcept>

#include "ops/depthwise_backward.h"
#include "ops/merge_windows.h"
#include "ops/preprocess.h"
#include "ops/upsample_concat.h"
#include "ops/upsample_labels.h"

namespace deeplab {
namespace {

[[noreturn]] void unreachable() {
  throw std::logic_error("this build has no CUDA kernels");
}

}  // namespace

void depthwise_cuda(const DepthwiseProblem&, const Execution&) {
  unreachable();
}
void depthwise_statistics_cuda(const DepthwiseStatistics&, const Execution&) {
  unreachable();
}
void depthwise_gradient_cuda(const DepthwiseGradient&, const Execution&) {
  unreachable();
}
void depthwise_input_gradient_cuda(const DepthwiseProblem&, void*, const Execution&) {
  unreachable();
}
void upsample_concat_cuda(const UpsampleConcatProblem&, const Execution&) {
  unreachable();
}
void upsample_concat_gradient_cuda(const UpsampleConcatProblem&, void*, const Execution&) {
  unreachable();
}
void upsample_concat_depthwise_cuda(const UpsampleConcatProblem&, const DepthwiseProblem&, const Execution&) {
  unreachable();
}
void merge_windows_cuda(const MergeWindowsProblem&, const Execution&) {
  unreachable();
}
void preprocess_cuda(const PreprocessProblem&, const Execution&) {
  unreachable();
}
void upsample_labels_cuda(const UpsampleLabelsProblem&, const Execution&) {
  unreachable();
}

}  // namespace deeplab
