// SPDX-License-Identifier: Apache-2.0
#include "bindings/operators.h"

#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <vector>

#include "bindings/arrays.h"
#include "common/check.h"
#include "common/huge_pages.h"
#include "ops/depthwise.h"
#include "ops/depthwise_backward.h"
#include "ops/merge_windows.h"
#include "ops/preprocess.h"
#include "ops/upsample_concat.h"
#include "ops/upsample_labels.h"

namespace py = pybind11;

namespace deeplab {
namespace {

Execution execution_of(intptr_t stream, int threads, const std::string& instruction_set, bool emulate) {
  check(threads >= 0, "threads: got ", threads, "; 0 (all available) or a positive count is accepted");
  return {threads, parse_instruction_set(instruction_set), reinterpret_cast<void*>(stream), emulate};
}

DepthwiseOptions options_of(int64_t stride, const std::vector<int64_t>& rates, const std::string& activation) {
  return {stride, rates, parse_activation(activation)};
}

void depthwise_arrays(const py::object& x, const py::object& weight, const py::object& scale, const py::object& shift,
                      const py::object& out, int64_t stride, const std::vector<int64_t>& rates,
                      const std::string& activation, intptr_t stream, int threads, const std::string& instruction_set,
                      bool emulate) {
  const Execution execution = execution_of(stream, threads, instruction_set, emulate);
  const DepthwiseOptions options = options_of(stride, rates, activation);
  const Array a = array_of("x", x, stream), b = array_of("weight", weight, stream);
  const Array c = array_of("scale", scale, stream), d = array_of("shift", shift, stream);
  const Array e = array_of("out", out, stream);
  const py::gil_scoped_release release;
  depthwise(a.view, b.view, c.view, d.view, e.view, options, execution);
}

void statistics_arrays(const py::object& x, const py::object& weight, const py::object& mean,
                       const py::object& variance, const py::object& workspace, int64_t stride,
                       const std::vector<int64_t>& rates, intptr_t stream, int threads,
                       const std::string& instruction_set, bool emulate) {
  const Execution execution = execution_of(stream, threads, instruction_set, emulate);
  const DepthwiseOptions options = options_of(stride, rates, "none");
  const Array a = array_of("x", x, stream), b = array_of("weight", weight, stream);
  const Array c = array_of("mean", mean, stream), d = array_of("variance", variance, stream);
  const Array e = optional_array_of("workspace", workspace, stream);
  const py::gil_scoped_release release;
  depthwise_statistics(a.view, b.view, c.view, d.view, e.view, options, execution);
}

void gradient_arrays(const py::object& x, const py::object& weight, const py::object& dy, const py::object& scale,
                     const py::object& shift, const py::object& a, const py::object& b, const py::object& c,
                     const py::object& dconv, const py::object& sums, const py::object& dweight,
                     const py::object& workspace, int64_t stride, const std::vector<int64_t>& rates,
                     const std::string& activation, intptr_t stream, int threads, const std::string& instruction_set,
                     bool emulate) {
  const Execution execution = execution_of(stream, threads, instruction_set, emulate);
  const DepthwiseOptions options = options_of(stride, rates, activation);
  const Array input = array_of("x", x, stream), weights = array_of("weight", weight, stream);
  const struct {
    const char* name;
    const py::object& object;
    TensorView GradientViews::*member;
  } wanted[] = {{"dy", dy, &GradientViews::dy},
                {"scale", scale, &GradientViews::scale},
                {"shift", shift, &GradientViews::shift},
                {"a", a, &GradientViews::a},
                {"b", b, &GradientViews::b},
                {"c", c, &GradientViews::c},
                {"dconv", dconv, &GradientViews::dconv},
                {"sums", sums, &GradientViews::sums},
                {"dweight", dweight, &GradientViews::dweight},
                {"workspace", workspace, &GradientViews::workspace}};
  std::vector<Array> arrays;
  GradientViews views;
  for (const auto& one : wanted) {
    arrays.push_back(optional_array_of(one.name, one.object, stream));
    views.*one.member = arrays.back().view;
  }
  const py::gil_scoped_release release;
  depthwise_gradient(input.view, weights.view, views, options, execution);
}

void input_gradient_arrays(const py::object& dconv, const py::object& weight, const py::object& dx, int64_t stride,
                           const std::vector<int64_t>& rates, intptr_t stream, int threads,
                           const std::string& instruction_set, bool emulate) {
  const Execution execution = execution_of(stream, threads, instruction_set, emulate);
  const DepthwiseOptions options = options_of(stride, rates, "none");
  const Array a = array_of("dconv", dconv, stream), b = array_of("weight", weight, stream);
  const Array c = array_of("dx", dx, stream);
  const py::gil_scoped_release release;
  depthwise_input_gradient(a.view, b.view, c.view, options, execution);
}

void concat_arrays(const py::object& x, const py::object& low, const py::object& out, bool align_corners,
                   intptr_t stream, int threads, const std::string& instruction_set, bool emulate) {
  const Execution execution = execution_of(stream, threads, instruction_set, emulate);
  const Array a = array_of("x", x, stream), b = array_of("low", low, stream), c = array_of("out", out, stream);
  const py::gil_scoped_release release;
  upsample_concat(a.view, b.view, c.view, align_corners, execution);
}

void concat_gradient_arrays(const py::object& dy, const py::object& dx, bool align_corners, intptr_t stream,
                            int threads, const std::string& instruction_set, bool emulate) {
  const Execution execution = execution_of(stream, threads, instruction_set, emulate);
  const Array a = array_of("dy", dy, stream), b = array_of("dx", dx, stream);
  const py::gil_scoped_release release;
  upsample_concat_gradient(a.view, b.view, align_corners, execution);
}

void concat_depthwise_arrays(const py::object& x, const py::object& low, const py::object& weight,
                             const py::object& scale, const py::object& shift, const py::object& out,
                             bool align_corners, int64_t rate, const std::string& activation, intptr_t stream,
                             int threads, const std::string& instruction_set, bool emulate) {
  const Execution execution = execution_of(stream, threads, instruction_set, emulate);
  const DepthwiseOptions options = options_of(1, {rate}, activation);
  const Array a = array_of("x", x, stream), b = array_of("low", low, stream);
  const Array c = array_of("weight", weight, stream), d = array_of("scale", scale, stream);
  const Array e = array_of("shift", shift, stream), f = array_of("out", out, stream);
  const py::gil_scoped_release release;
  upsample_concat_depthwise(a.view, b.view, c.view, d.view, e.view, f.view, align_corners, options, execution);
}

void labels_arrays(const py::object& logits, const py::object& labels, const py::object& scores, bool align_corners,
                   const std::optional<std::pair<int64_t, int64_t>>& via, intptr_t stream, int threads, bool emulate) {
  const Execution execution = execution_of(stream, threads, "auto", emulate);
  const Array a = array_of("logits", logits, stream), b = array_of("labels", labels, stream);
  const Array c = optional_array_of("scores", scores, stream);
  const py::gil_scoped_release release;
  upsample_labels(a.view, b.view, c.view, align_corners, via.value_or(std::pair<int64_t, int64_t>{0, 0}), execution);
}

void merge_windows_arrays(const py::object& logits, const py::object& out, const std::pair<int64_t, int64_t>& window,
                          const std::pair<int64_t, int64_t>& stride, bool align_corners, intptr_t stream, int threads,
                          const std::string& instruction_set, bool emulate) {
  const Execution execution = execution_of(stream, threads, instruction_set, emulate);
  const Array a = array_of("logits", logits, stream), b = array_of("out", out, stream);
  const py::gil_scoped_release release;
  merge_windows(a.view, b.view, window, stride, align_corners, execution);
}

void preprocess_arrays(const py::object& images, const py::object& out, const std::vector<float>& mean,
                       const std::vector<float>& std, bool reverse_channels, intptr_t stream, int threads,
                       const std::string& instruction_set, bool emulate) {
  const Execution execution = execution_of(stream, threads, instruction_set, emulate);
  const Array a = array_of("images", images, stream), b = array_of("out", out, stream);
  const py::gil_scoped_release release;
  preprocess(a.view, b.view, mean, std, reverse_channels, execution);
}

void prefer_huge_pages_array(const py::object& out) {
  const Array array = array_of("out", out, 0);
  check(array.view.device == Device::cpu, "out: is on a GPU");
  prefer_huge_pages(array.view.data, array.view.elements() * size_of(array.view.dtype));
}

}  // namespace

void define_operators(py::module_& module) {
  const auto stream = py::arg("stream") = intptr_t{0};
  const auto threads = py::arg("threads") = 0;
  const auto instruction_set = py::arg("instruction_set") = "auto";
  const auto emulate = py::arg("emulate") = false;
  const auto stride = py::arg("stride") = int64_t{1};
  module.def("depthwise", &depthwise_arrays, py::arg("x"), py::arg("weight"), py::arg("scale"), py::arg("shift"),
             py::arg("out"), stride, py::arg("rates") = std::vector<int64_t>{1}, py::arg("activation") = "relu", stream,
             threads, instruction_set, emulate, "Atrous depthwise convolution, scale, shift, activation; all rates.");
  module.def("depthwise_statistics", &statistics_arrays, py::arg("x"), py::arg("weight"), py::arg("mean"),
             py::arg("variance"), py::arg("workspace"), stride, py::arg("rates"), stream, threads, instruction_set,
             emulate, "Mean and biased variance of the convolution's output, which is not written.");
  module.def("depthwise_gradient", &gradient_arrays, py::arg("x"), py::arg("weight"), py::arg("dy"), py::arg("scale"),
             py::arg("shift"), py::arg("a"), py::arg("b"), py::arg("c"), py::arg("dconv"), py::arg("sums"),
             py::arg("dweight"), py::arg("workspace"), stride, py::arg("rates"), py::arg("activation"), stream, threads,
             instruction_set, emulate, "Sums over dy, and with dconv the gradients of convolution and weights.");
  module.def("depthwise_input_gradient", &input_gradient_arrays, py::arg("dconv"), py::arg("weight"), py::arg("dx"),
             stride, py::arg("rates"), stream, threads, instruction_set, emulate, "The transposed convolution.");
  module.def("depthwise_workspace", &depthwise_workspace, py::arg("batch"), py::arg("channels"), py::arg("out_height"),
             py::arg("out_width"), py::arg("rates"), py::arg("sums"), "Floats of workspace of a reduction on the GPU.");
  module.def("upsample_concat", &concat_arrays, py::arg("x"), py::arg("low"), py::arg("out"), py::arg("align_corners"),
             stream, threads, instruction_set, emulate, "concat(interpolate(x, size of low), low).");
  module.def("upsample_concat_gradient", &concat_gradient_arrays, py::arg("dy"), py::arg("dx"),
             py::arg("align_corners"), stream, threads, instruction_set, emulate, "The share of dy that came from x.");
  module.def("upsample_concat_depthwise", &concat_depthwise_arrays, py::arg("x"), py::arg("low"), py::arg("weight"),
             py::arg("scale"), py::arg("shift"), py::arg("out"), py::arg("align_corners"), py::arg("rate") = 1,
             py::arg("activation") = "relu", stream, threads, instruction_set, emulate,
             "depthwise(upsample_concat(x, low)) without the concatenation in memory.");
  module.def("prefer_huge_pages", &prefer_huge_pages_array, py::arg("out"),
             "Ask for huge pages under a dense CPU array that was just allocated and not touched yet.");
  module.def("upsample_labels", &labels_arrays, py::arg("logits"), py::arg("labels"), py::arg("scores"),
             py::arg("align_corners"), py::arg("via"), stream, threads, emulate, "upsample_argmax on the GPU.");
  module.def("merge_windows", &merge_windows_arrays, py::arg("logits"), py::arg("out"), py::arg("window"),
             py::arg("stride"), py::arg("align_corners"), stream, threads, instruction_set, emulate,
             "One map of logits from those of overlapping windows.");
  module.def("preprocess", &preprocess_arrays, py::arg("images"), py::arg("out"), py::arg("mean"), py::arg("std"),
             py::arg("reverse_channels") = false, stream, threads, instruction_set, emulate,
             "uint8 pixels resized, reordered, normalised, cast.");
}

}  // namespace deeplab
