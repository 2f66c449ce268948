# SPDX-License-Identifier: Apache-2.0
"""A network of eleven convolutions with everything that a precision treats specially, and views of its graphs."""

import numpy as np
import onnx
import onnxruntime
import torch
import torch.nn.functional as F
from onnx import numpy_helper, shape_inference
from torch import nn

from deeplab_infer.configs import load_config

from ..networks import STREETS

SIZE = (64, 96)
# In the order in which they run; the second group is never quantised.
DENSE = (
    "stem",
    "narrow",
    "block.first",
    "block.second",
    "twin.main",
    "twin.shortcut",
    "branch",
    "project",
    "classifier",
)
SPARED = ("depthwise", "pool")


def _conv(inputs, outputs, kernel, stride=1, groups=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)


class TinyNetwork(nn.Module):
    """Residual addition of one and of two convolutions, image pooling, concat, depthwise convolution, both clips."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.config = load_config(STREETS)
        self.checkpoint_sha256, self.checkpoint_source = None, ""
        self.stem = _conv(3, 16, 3, stride=2)
        self.depthwise = _conv(16, 16, 3, groups=16)
        self.narrow = _conv(16, 24, 1, stride=2)
        self.block = nn.ModuleDict({"first": _conv(24, 24, 3), "second": _conv(24, 24, 3)})
        self.twin = nn.ModuleDict({"main": _conv(24, 24, 3), "shortcut": _conv(24, 24, 1)})
        self.pool = _conv(24, 8, 1)
        self.branch = _conv(24, 16, 1)
        self.project = _conv(48, 32, 1)
        self.classifier = _conv(32, self.config.num_classes, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.uniform_(layer.bias, -0.2, 0.2)
        self.eval()

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu6(self.depthwise(x))
        x = self.narrow(x)
        x = x + self.block["second"](F.relu(self.block["first"](x)))
        x = F.relu(self.twin["main"](x) + self.twin["shortcut"](x))
        pooled = F.relu(self.pool(x.mean((2, 3), keepdim=True))).expand(-1, -1, x.shape[2], x.shape[3])
        x = torch.cat([x, pooled, F.relu(self.branch(x))], 1)
        return self.classifier(F.relu(self.project(x)))


def types(model):
    """Element type of every tensor, by ONNX's own strict inference."""
    inferred = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    found = {tensor.name: tensor.data_type for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        found[value.name] = value.type.tensor_type.elem_type
    return found


def constants(model):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def producers(model):
    return {name: node for node in model.graph.node for name in node.output}


def consumers(model, name):
    return [node for node in model.graph.node if name in node.input]


def session(model):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Operator by operator as the file says.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model, image, *tensors):
    """The output, or tensors inside the graph."""
    if not tensors:
        return session(model).run(None, {"image": image})[0]
    known = types(model)
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    there = {value.name for value in opened.graph.output}
    for name in tensors:
        if name not in there:
            opened.graph.output.append(onnx.helper.make_tensor_value_info(name, known[name], None))
    return session(opened).run(list(tensors), {"image": image})


def relative_rms(found, expected):
    error = np.asarray(found, np.float64) - expected
    return float(np.sqrt(np.mean(error**2) / np.mean(np.asarray(expected, np.float64) ** 2)))
