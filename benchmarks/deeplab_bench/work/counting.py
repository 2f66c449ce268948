# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds as the papers printed them, from the operations that `deeplab_infer.optimize.work` counts.

Three counts, for the papers print one and a GPU runs another:

- ``dense``: what the convolutions are.
- ``space_to_batch``: atrous convolutions as the papers' code ran them, the padded map cut into ``rate * rate`` parts,
  which rounds its size up.
- ``profiler``: what the papers printed, the float operations of TensorFlow's graph profiler over two. Besides the
  convolutions it counts some element-wise operations, and once a graph those of the weight decay and initialisers.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import nn

from deeplab_infer.configs import ModelConfig
from deeplab_infer.models import DeepLab
from deeplab_infer.optimize import work
from deeplab_infer.optimize.work import Count, Operation

# Float operations that TensorFlow's profiler counts for a regularised weight (L2 loss 3, initialiser 2) and for a
# depthwise weight (initialiser only: the papers do not regularise those).
_OPS_A_WEIGHT, _OPS_A_DEPTHWISE_WEIGHT = 5, 2


@dataclass(frozen=True)
class PaperCount(Count):
    """The operations of one forward pass, and what the papers count of them.

    Attributes:
        input_ops: float operations of the input's normalisation as TensorFlow's profiler counts them.
    """

    input_ops: int = 0

    @property
    def space_to_batch(self) -> int:
        """Multiply-adds as the papers' code ran them."""
        return sum(space_to_batch(op) for op in self.operations)

    @property
    def profiler_pass(self) -> float:
        """What TensorFlow's profiler adds for every pass, in multiply-adds."""
        return self.space_to_batch + (sum(profiler_ops(op) for op in self.operations) + self.input_ops) / 2

    @property
    def profiler_graph(self) -> float:
        """What TensorFlow's profiler counts once, however many passes the graph has, in multiply-adds."""
        ops = (op.weights * (_OPS_A_DEPTHWISE_WEIGHT if op.grouped else _OPS_A_WEIGHT) for op in self.operations)
        return sum(ops) / 2

    @property
    def profiler(self) -> float:
        """What the papers would print for this pass."""
        return self.profiler_pass + self.profiler_graph


def count(
    model: nn.Module | ModelConfig | str,
    height: int,
    width: int,
    *,
    batch: int = 1,
    element_bytes: int = 2,
    post: bool = False,
) -> PaperCount:
    """Count a network's forward pass; arguments and errors are those of `deeplab_infer.optimize.work.count`."""
    model = work.on_meta(model)
    counted = work.count(model, height, width, batch=batch, element_bytes=element_bytes, post=post)
    # The papers subtract the mean for a ResNet; the others' scaling to -1..1 is two operations.
    resnet = isinstance(model, DeepLab) and model.config.backbone == "resnet"
    pixels = batch * 3 * height * width
    return PaperCount(counted.operations, counted.input_bytes, pixels * (1 if resnet else 2))


def space_to_batch(op: Operation) -> int:
    """Multiply-adds of an operation as the papers' code ran it."""
    if op.kind != "convolution":
        return 0
    assert op.window is not None
    window = op.window
    sides = [
        side if rate == 1 or step > 1 or kernel == 1 else space_to_batch_size(side, kernel, rate)
        for side, kernel, step, rate in zip(
            op.shape[2:], window.kernel[1:], window.stride, window.dilation, strict=True
        )
    ]
    return prod(op.shape[:2]) * prod(sides) * prod(window.kernel)


def space_to_batch_size(size: int, kernel: int, rate: int) -> int:
    """Rows that the papers' code computes where ``size`` are needed.

    >>> [space_to_batch_size(33, 3, rate) for rate in (1, 2, 6, 12, 18)]
    [33, 34, 36, 36, 36]
    """
    border = (kernel - 1) * rate
    return -(-(size + border) // rate) * rate - border


def profiler_ops(op: Operation) -> int:
    """Float operations that TensorFlow's profiler counts besides the multiply-adds, a pass.

    One an element: of a sum's or a bias's output, of what is averaged, of each pooling window.
    """
    if op.kind == "max pool":
        assert op.window is not None
        return op.output_elements * prod(op.window.kernel)
    if op.kind == "mean":
        return op.inputs
    has_bias = op.window is not None and op.window.bias
    return op.output_elements if op.kind == "add" or has_bias else 0
