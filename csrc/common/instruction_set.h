// SPDX-License-Identifier: Apache-2.0
// Instruction sets of the CPU kernels. Every *_simd.cpp is compiled once per set; the set is chosen at run time.
#pragma once

#include <string>
#include <vector>

namespace deeplab {

enum class InstructionSet { portable, avx2, avx512 };

const char* name_of(InstructionSet set);

// Sets that are compiled in and that this processor and operating system run, slowest first.
std::vector<InstructionSet> usable_instruction_sets();

// "auto" is the fastest usable set; another name must be usable here, else std::invalid_argument.
InstructionSet parse_instruction_set(const std::string& name);

}  // namespace deeplab
