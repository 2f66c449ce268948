// SPDX-License-Identifier: Apache-2.0
#include "common/row_kernels.h"

namespace deeplab {

template <>
const RowKernels<float>& row_kernels_for<float>(InstructionSet set) {
  switch (set) {
#if defined(DEEPLAB_X86)
    case InstructionSet::avx512: return avx512::row_kernels;
    case InstructionSet::avx2: return avx2::row_kernels;
#endif
    default: return portable::row_kernels;
  }
}

// float64 is there for checks of gradients: exactness, not speed.
template <>
const RowKernels<double>& row_kernels_for<double>(InstructionSet) {
  return float64::row_kernels;
}

}  // namespace deeplab
