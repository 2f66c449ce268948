// SPDX-License-Identifier: Apache-2.0
#include "common/instruction_set.h"

#include "common/check.h"

namespace deeplab {

const char* name_of(InstructionSet set) {
  switch (set) {
    case InstructionSet::avx512: return "avx512";
    case InstructionSet::avx2: return "avx2";
    default: return "portable";
  }
}

std::vector<InstructionSet> usable_instruction_sets() {
  std::vector<InstructionSet> sets{InstructionSet::portable};
#if defined(DEEPLAB_X86)
  // The compiler's run-time check also asks the operating system whether it saves the wide registers.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    sets.push_back(InstructionSet::avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      sets.push_back(InstructionSet::avx512);
    }
  }
#endif
  return sets;
}

InstructionSet parse_instruction_set(const std::string& name) {
  const std::vector<InstructionSet> sets = usable_instruction_sets();
  if (name == "auto") return sets.back();
  std::string accepted = "auto";
  for (InstructionSet set : sets) {
    if (name == name_of(set)) return set;
    accepted += std::string(", ") + name_of(set);
  }
  throw std::invalid_argument(message("instruction_set: got '", name, "', this machine runs: ", accepted));
}

}  // namespace deeplab
