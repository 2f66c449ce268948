// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/pybind11.h>

namespace deeplab {

// The operators over arrays of any origin and device, which write into arrays that the caller made.
void define_operators(pybind11::module_& module);

}  // namespace deeplab
