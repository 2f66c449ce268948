// SPDX-License-Identifier: Apache-2.0
// CPU: see depthwise_walks.h. Results of float32 go straight to memory, past the caches when they would not fit there,
// so that a row costs its bytes once in and once out.
#include <vector>

#include "common/parallel.h"
#include "ops/depthwise.h"
#include "ops/depthwise_output.h"
#include "ops/depthwise_rows.h"
#include "ops/depthwise_walks.h"

namespace deeplab {
namespace {

template <typename S>
void run(const DepthwiseProblem& problem, const Execution& execution) {
  const RowKernels<S>& kernels = row_kernels_for<S>(execution.instruction_set);
  run_depthwise<S>(problem, execution, TensorLines<S>(problem.input, problem, kernels));
}

}  // namespace

void depthwise_cpu(const DepthwiseProblem& problem, const Execution& execution) {
  problem.dtype == DType::float64 ? run<double>(problem, execution) : run<float>(problem, execution);
}

}  // namespace deeplab
