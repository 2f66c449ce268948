// SPDX-License-Identifier: Apache-2.0
// The Python door: numpy arrays in and out, checks of dtype and layout, the GIL released around the work.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "bindings/operators.h"
#include "common/check.h"
#include "common/cuda_support.h"
#include "common/instruction_set.h"
#include "common/parallel.h"
#include "ops/upsample.h"
#include "ops/upsample_argmax.h"

namespace py = pybind11;

namespace deeplab {
namespace {

std::string shape_of(const py::array& array) {
  std::string text = "[";
  for (py::ssize_t i = 0; i < array.ndim(); ++i) text += (i ? ", " : "") + std::to_string(array.shape(i));
  return text + "]";
}

template <typename T>
const T* data_of(const char* name, const py::array& array) {
  const py::dtype wanted = py::dtype::of<T>();
  if (!array.dtype().is(wanted) && !array.dtype().equal(wanted)) {
    throw TypeMismatch(
        message(name, ": got dtype ", std::string(py::str(array.dtype())), ", needs ", std::string(py::str(wanted))));
  }
  check(array.flags() & py::array::c_style, name, ": is not C-contiguous; pass numpy.ascontiguousarray(", name, ")");
  return static_cast<const T*>(array.data());
}

TapTable taps_of(const char* axis, const py::array& index, const py::array& weight) {
  const std::string index_name = std::string(axis) + "_index";
  const std::string weight_name = std::string(axis) + "_weight";
  check(index.ndim() == 2, index_name, ": got shape ", shape_of(index), ", needs [out, taps]");
  check(weight.ndim() == 2 && weight.shape(0) == index.shape(0) && weight.shape(1) == index.shape(1), weight_name,
        ": got shape ", shape_of(weight), ", needs the shape of ", index_name, ", ", shape_of(index));
  return {data_of<int32_t>(index_name.c_str(), index), data_of<float>(weight_name.c_str(), weight), index.shape(0),
          index.shape(1)};
}

py::object upsample_argmax_numpy(const py::array& logits, const py::array& y_index, const py::array& y_weight,
                                 const py::array& x_index, const py::array& x_weight, bool scores, int threads,
                                 const std::string& instruction_set) {
  const py::ssize_t dims = logits.ndim();
  check(dims == 3 || dims == 4, "logits: got shape ", shape_of(logits), ", needs [C, h, w] or [N, C, h, w]");
  UpsampleArgmaxParams params{};
  params.logits = data_of<float>("logits", logits);
  params.batch = dims == 4 ? logits.shape(0) : 1;
  params.channels = logits.shape(dims - 3);
  params.height = logits.shape(dims - 2);
  params.width = logits.shape(dims - 1);
  params.y = taps_of("y", y_index, y_weight);
  params.x = taps_of("x", x_index, x_weight);
  params.threads = threads;
  params.instruction_set = parse_instruction_set(instruction_set);

  std::vector<py::ssize_t> shape{params.y.out, params.x.out};
  if (dims == 4) shape.insert(shape.begin(), logits.shape(0));
  py::array labels;
  if (params.channels <= kMaxUint8Classes) {
    auto array = py::array_t<uint8_t>(shape);
    params.labels_uint8 = array.mutable_data();
    labels = std::move(array);
  } else {
    auto array = py::array_t<int32_t>(shape);
    params.labels_int32 = array.mutable_data();
    labels = std::move(array);
  }
  py::array_t<float> score_array;
  if (scores) {
    score_array = py::array_t<float>(shape);
    params.scores = score_array.mutable_data();
  }
  {
    py::gil_scoped_release release;
    upsample_argmax(params);
  }
  if (scores) return py::make_tuple(labels, score_array);
  return labels;
}

py::array upsample_numpy(const py::array& logits, const py::array& y_index, const py::array& y_weight,
                         const py::array& x_index, const py::array& x_weight, int threads,
                         const std::string& instruction_set) {
  const py::ssize_t dims = logits.ndim();
  check(dims >= 2, "logits: got shape ", shape_of(logits), ", needs [..., h, w]");
  UpsampleParams params{};
  params.input = data_of<float>("logits", logits);
  params.height = logits.shape(dims - 2);
  params.width = logits.shape(dims - 1);
  params.y = taps_of("y", y_index, y_weight);
  params.x = taps_of("x", x_index, x_weight);
  params.threads = threads;
  params.instruction_set = parse_instruction_set(instruction_set);

  std::vector<py::ssize_t> shape(logits.shape(), logits.shape() + dims - 2);
  params.planes = 1;
  for (py::ssize_t size : shape) params.planes *= size;
  shape.push_back(params.y.out);
  shape.push_back(params.x.out);
  auto output = py::array_t<float>(shape);
  params.output = output.mutable_data();
  {
    py::gil_scoped_release release;
    upsample(params);
  }
  return std::move(output);
}

py::dict build_info() {
  py::list sets;
  for (InstructionSet set : usable_instruction_sets()) sets.append(name_of(set));
  py::dict info;
  info["cuda"] = built_with_cuda();
  info["cuda_version"] = cuda_version();
  info["cuda_architectures"] = cuda_architectures();
  info["compiler"] = DEEPLAB_COMPILER;
  info["build_type"] = DEEPLAB_BUILD_TYPE;
  info["instruction_sets"] = sets;
  info["threads"] = available_threads();
  return info;
}

}  // namespace
}  // namespace deeplab

PYBIND11_MODULE(_C, module) {
  using namespace deeplab;
  module.doc() = "Kernels of deeplab-infer; see deeplab_infer.ops.functional for the public functions.";
  py::register_exception_translator([](std::exception_ptr error) {
    try {
      if (error) std::rethrow_exception(error);
    } catch (const TypeMismatch& mismatch) {
      PyErr_SetString(PyExc_TypeError, mismatch.what());
    }
  });
  module.def("upsample_argmax", &upsample_argmax_numpy, py::arg("logits"), py::arg("y_index"), py::arg("y_weight"),
             py::arg("x_index"), py::arg("x_weight"), py::arg("scores") = false, py::arg("threads") = 0,
             py::arg("instruction_set") = "auto",
             "Labels (and softmax scores) of logits resized by two tap tables, without full-size logits in memory.");
  module.def("upsample", &upsample_numpy, py::arg("logits"), py::arg("y_index"), py::arg("y_weight"),
             py::arg("x_index"), py::arg("x_weight"), py::arg("threads") = 0, py::arg("instruction_set") = "auto",
             "Logits resized by two tap tables.");
  define_operators(module);
  module.def("build_info", &build_info, "How this module was built and what it can use on this machine.");
}
