// SPDX-License-Identifier: Apache-2.0
// The one door for other people's arrays: numpy, torch, __cuda_array_interface__ (CuPy, Numba, PyCUDA), DLPack,
// buffers.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>

#include "common/tensor_view.h"

namespace deeplab {

// A view and whatever keeps its memory alive.
struct Array {
  TensorView view;
  pybind11::object owner;
  std::unique_ptr<pybind11::buffer_info> buffer;
};

// Throws TypeMismatch where the object is no array or its type has no counterpart, std::invalid_argument where it has
// too many axes. `stream` is the consumer's CUDA stream, which GPU producers are asked to be ready for.
Array array_of(const char* name, pybind11::handle object, intptr_t stream);

// None gives a view without data.
Array optional_array_of(const char* name, pybind11::handle object, intptr_t stream);

}  // namespace deeplab
