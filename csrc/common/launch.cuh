// SPDX-License-Identifier: Apache-2.0
// Kernels are structs: `threads` a block, and operator()(block, thread), the program of one thread. The same program is
// launched on the GPU or, where Execution says emulate, run thread by thread on the CPU, which is how it is tested on
// machines without a GPU. Threads of such a kernel share nothing.
//
// A kernel whose threads work together has a struct Shared and phases: phase(i, shared, block, thread) for i < phases,
// with a barrier between two phases.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <memory>

#include "common/check.h"
#include "common/execution.h"
#include "common/parallel.h"

namespace deeplab {

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::threads, Kernel::blocks_per_multiprocessor)
    run_kernel(const __grid_constant__ Kernel kernel) {
  kernel(blockIdx.x, threadIdx.x);
}

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::threads) run_phases(const __grid_constant__ Kernel kernel) {
  __shared__ typename Kernel::Shared shared;
#pragma unroll
  for (int phase = 0; phase < Kernel::phases; ++phase) {
    if (phase > 0) __syncthreads();
    kernel.phase(phase, shared, blockIdx.x, threadIdx.x);
  }
}

inline unsigned grid_size(int64_t blocks) {
  check(blocks < (int64_t{1} << 31), "the arrays are too large for one launch (", blocks, " blocks)");
  return static_cast<unsigned>(blocks);
}

inline void check_launch() {
  const cudaError_t status = cudaGetLastError();
  if (status == cudaSuccess) return;
  throw std::runtime_error(
      message("CUDA kernel launch failed: ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")"));
}

template <typename Kernel>
void launch(const Kernel& kernel, int64_t blocks, const Execution& execution) {
  if (blocks == 0) return;
  const unsigned grid = grid_size(blocks);
  if (execution.emulate) {
    parallel_for(blocks, 16, execution.threads, [&](int, int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        for (int thread = 0; thread < Kernel::threads; ++thread) kernel(static_cast<uint32_t>(block), thread);
      }
    });
    return;
  }
  run_kernel<Kernel><<<grid, Kernel::threads, 0, static_cast<cudaStream_t>(execution.stream)>>>(kernel);
  check_launch();
}

template <typename Kernel>
void launch_phases(const Kernel& kernel, int64_t blocks, const Execution& execution) {
  if (blocks == 0) return;
  const unsigned grid = grid_size(blocks);
  if (execution.emulate) {
    parallel_for(blocks, 16, execution.threads, [&](int, int64_t begin, int64_t end) {
      const auto shared = std::make_unique<typename Kernel::Shared>();
      for (int64_t block = begin; block < end; ++block) {
        std::memset(static_cast<void*>(shared.get()), 0xff, sizeof(*shared));  // NaN: nothing may rely on zeros
        for (int phase = 0; phase < Kernel::phases; ++phase) {
          for (int thread = 0; thread < Kernel::threads; ++thread) {
            kernel.phase(phase, *shared, static_cast<uint32_t>(block), thread);
          }
        }
      }
    });
    return;
  }
  run_phases<Kernel><<<grid, Kernel::threads, 0, static_cast<cudaStream_t>(execution.stream)>>>(kernel);
  check_launch();
}

}  // namespace deeplab
