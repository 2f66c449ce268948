// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "common/instruction_set.h"

namespace deeplab {

// How one call runs: on the CPU with these threads and instructions, or on the GPU in this stream.
struct Execution {
  int threads = 0;  // 0: every processor this process may use
  InstructionSet instruction_set = usable_instruction_sets().back();
  void* stream = nullptr;
  // Run the GPU's kernels thread by thread on the CPU, over CPU arrays: how they are tested without a GPU.
  bool emulate = false;
};

}  // namespace deeplab
