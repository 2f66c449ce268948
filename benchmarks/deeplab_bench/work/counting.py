# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds and memory traffic, counted on the real modules: a forward pass without data, on torch's meta device.

Three counts of multiply-adds, for the papers print one and a GPU runs another:

- ``dense``: what the convolutions are.
- ``space_to_batch``: atrous convolutions as the papers' code ran them, the padded map cut into ``rate * rate`` parts,
  which rounds its size up.
- ``profiler``: what the papers printed, the float operations of TensorFlow's graph profiler over two. Besides the
  convolutions it counts some element-wise operations, and once a graph those of the weight decay and initialisers.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from deeplab_infer.configs import ModelConfig
from deeplab_infer.errors import DeepLabError
from deeplab_infer.models import DeepLab, build_model
from deeplab_infer.optimize import unfuse

from .stages import Namer, stage_namer

# Operators of torch and what we call them. Views move nothing and are not operations.
KINDS = {
    "aten::convolution": "convolution",
    "aten::native_batch_norm": "batch norm",
    "aten::_native_batch_norm_legit_no_training": "batch norm",
    "aten::cudnn_batch_norm": "batch norm",
    "aten::relu": "activation",
    "aten::hardtanh": "activation",
    "aten::add": "add",
    "aten::max_pool2d_with_indices": "max pool",
    "aten::mean": "mean",
    "aten::cat": "concat",
    "aten::_to_copy": "convert",
    "aten::upsample_bilinear2d": "resize",
    "aten::argmax": "argmax",
    "deeplab::depthwise": "fused depthwise",
    "deeplab::upsample_concat": "fused upsample + concat",
    "deeplab::upsample_concat_depthwise": "fused upsample + concat + depthwise",
}
# Operators of ours that hold a convolution; the weight is this argument.
_FUSED_WEIGHTS = {"deeplab::depthwise": 1, "deeplab::upsample_concat_depthwise": 2}
_ALLOCATIONS = ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::detach")
_IN_EPILOGUE = ("batch norm", "activation")
# Float operations that TensorFlow's profiler counts for a regularised weight (L2 loss 3, initialiser 2) and for a
# depthwise weight (initialiser only: the papers do not regularise those).
_OPS_A_WEIGHT, _OPS_A_DEPTHWISE_WEIGHT = 5, 2


@dataclass(frozen=True)
class Operation:
    """One operation of a forward pass.

    Attributes:
        name: path of the module that runs it; empty for the network itself.
        kind: a value of `KINDS`.
        stage: part of the network, see `stages.stage_namer`.
        shape: of its output.
        dense: multiply-adds.
        space_to_batch: multiply-adds as the papers' code ran them.
        profiler_ops: float operations that TensorFlow's profiler counts besides the multiply-adds, a pass.
        weights: elements of a convolution's kernel; 0 elsewhere.
        grouped: a depthwise or other grouped convolution, which matrix units do not help.
        bytes_eager: inputs, weights and outputs, each moved once: every operation a kernel of its own.
        bytes_fused: the same with normalisation, activation and addition in the convolution before them, which then
            reads the addend too; 0 for an operation that is in another.
    """

    name: str
    kind: str
    stage: str
    shape: tuple[int, ...]
    dense: int = 0
    space_to_batch: int = 0
    profiler_ops: int = 0
    weights: int = 0
    grouped: bool = False
    bytes_eager: int = 0
    bytes_fused: int = 0

    @property
    def output_elements(self) -> int:
        """Elements of its output."""
        return prod(self.shape)


@dataclass(frozen=True)
class Stage:
    """Sums over the operations of one part of the network; bytes and multiply-adds as in `Operation`."""

    name: str
    dense: int
    bytes_eager: int
    bytes_fused: int
    weights: int


@dataclass(frozen=True)
class Count:
    """The operations of one forward pass.

    Attributes:
        operations: in the order in which they run; those after the network last.
        input_ops: float operations of the input's normalisation as TensorFlow's profiler counts them.
    """

    operations: tuple[Operation, ...]
    input_ops: int = 0

    @property
    def dense(self) -> int:
        """Multiply-adds."""
        return sum(op.dense for op in self.operations)

    @property
    def space_to_batch(self) -> int:
        """Multiply-adds as the papers' code ran them."""
        return sum(op.space_to_batch for op in self.operations)

    @property
    def profiler_pass(self) -> float:
        """What TensorFlow's profiler adds for every pass, in multiply-adds."""
        return self.space_to_batch + (sum(op.profiler_ops for op in self.operations) + self.input_ops) / 2

    @property
    def profiler_graph(self) -> float:
        """What TensorFlow's profiler counts once, however many passes the graph has, in multiply-adds."""
        ops = (op.weights * (_OPS_A_DEPTHWISE_WEIGHT if op.grouped else _OPS_A_WEIGHT) for op in self.operations)
        return sum(ops) / 2

    @property
    def profiler(self) -> float:
        """What the papers would print for this pass."""
        return self.profiler_pass + self.profiler_graph

    @property
    def weights(self) -> int:
        """Elements of all kernels."""
        return sum(op.weights for op in self.operations)

    @property
    def bytes_eager(self) -> int:
        """See `Operation`."""
        return sum(op.bytes_eager for op in self.operations)

    @property
    def bytes_fused(self) -> int:
        """See `Operation`."""
        return sum(op.bytes_fused for op in self.operations)

    def stages(self) -> list[Stage]:
        """Sums of the parts, in the order in which they first run."""
        groups: dict[str, list[Operation]] = {}
        for op in self.operations:
            groups.setdefault(op.stage, []).append(op)
        return [
            Stage(
                name,
                sum(op.dense for op in group),
                sum(op.bytes_eager for op in group),
                sum(op.bytes_fused for op in group),
                sum(op.weights for op in group),
            )
            for name, group in groups.items()
        ]


def count(
    model: nn.Module | ModelConfig | str,
    height: int,
    width: int,
    *,
    batch: int = 1,
    element_bytes: int = 2,
    post: bool = False,
) -> Count:
    """Count a network's forward pass.

    Args:
        model: a config, its name, or a network whose input is [N, 3, H, W]; it is not changed.
        height, width: of the network's input.
        batch: images a pass.
        element_bytes: size of activations and weights, 2 for half precision.
        post: count the resize of float32 logits to the input's size and the argmax to int64 labels too, as plain torch
            does them.

    Raises:
        ConfigError: an unknown config.
        DeepLabError: the network contains an operator that is not counted.
    """
    model = _on_meta(model)
    recorder = _Recorder(stage_namer(model), element_bytes)
    with torch.no_grad(), module_paths(model) as recorder.path, recorder:
        logits = model(torch.empty(batch, 3, height, width, device="meta"))
        if post:
            recorder.element_bytes = None
            align = isinstance(model, DeepLab) and model.config.align_corners
            full = nn.functional.interpolate(logits, size=(height, width), mode="bilinear", align_corners=align)
            full.argmax(1)
    # The papers subtract the mean for a ResNet; the others' scaling to -1..1 is two operations.
    resnet = isinstance(model, DeepLab) and model.config.backbone == "resnet"
    return Count(tuple(recorder.operations), batch * 3 * height * width * (1 if resnet else 2))


@contextmanager
def module_paths(model: nn.Module) -> Iterator[list[str]]:
    """Within, the last entry of the list is the path of the module whose forward pass is running."""
    stack: list[str] = []

    def enter(name: str, *_: Any) -> None:
        stack.append(name)

    def leave(*_: Any) -> None:
        stack.pop()

    handles = []
    for name, module in model.named_modules():
        handles += [
            module.register_forward_pre_hook(functools.partial(enter, name)),
            module.register_forward_hook(leave),
        ]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


def operator_name(func: Any) -> str | None:
    """Such as ``"aten::convolution"``, in-place forms under the name of the others; None for what moves nothing."""
    name = func._schema.name
    aliases = [value.alias_info for value in func._schema.returns]
    is_view = any(alias is not None and not alias.is_write for alias in aliases)
    return None if is_view or name in _ALLOCATIONS else name.removesuffix("_")


def multiply_adds(name: str, args: Sequence[Any], output: Tensor) -> int:
    """Multiply-adds of one call of an operator."""
    if name == "aten::convolution":
        return output.numel() * prod(args[1].shape[1:])
    if name in _FUSED_WEIGHTS:
        return output.numel() * prod(args[_FUSED_WEIGHTS[name]].shape[2:])
    return 0


def traffic(tensors: Any, element_bytes: int | None = None) -> int:
    """Bytes of all tensors in a structure; a broadcast dimension is there once.

    Args:
        tensors: anything with tensors in it.
        element_bytes: instead of the tensors' own sizes.
    """
    return sum(
        prod(size for size, stride in zip(t.shape, t.stride(), strict=True) if stride or size == 1)
        * (element_bytes or t.element_size())
        for t in tree_iter(tensors)
        if isinstance(t, Tensor)
    )


def moved_bytes(kind: str, args: Sequence[Any], output: Tensor, element_bytes: int | None = None) -> int:
    """Bytes that one call of an operator reads and writes; the pixels that a strided 1x1 skips are not read."""
    moved = traffic((args, output), element_bytes)
    if kind not in ("convolution", "max pool"):
        return moved
    kernel, stride = (args[1].shape[2:], args[3]) if kind == "convolution" else args[1:3]
    whole = traffic(args[0], element_bytes)
    read = int(whole * prod(min(1.0, k / s) for k, s in zip(kernel, stride, strict=True)))
    return moved - whole + read


def first_output(output: Any) -> Tensor:
    """What the network goes on with; normalisation and pooling return more than that."""
    return output[0] if isinstance(output, (tuple, list)) else output


def space_to_batch_size(size: int, kernel: int, rate: int) -> int:
    """Rows that the papers' code computes where ``size`` are needed.

    >>> [space_to_batch_size(33, 3, rate) for rate in (1, 2, 6, 12, 18)]
    [33, 34, 36, 36, 36]
    """
    border = (kernel - 1) * rate
    return -(-(size + border) // rate) * rate - border


class _Recorder(TorchDispatchMode):
    """Turns every operator into an `Operation`."""

    def __init__(self, stage: Namer, element_bytes: int) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.path: list[str] = []
        self.element_bytes: int | None = element_bytes
        self._stage = stage
        # Which convolution made a tensor, and so takes what follows into its epilogue. The tensors are kept, so that
        # no other gets the same id.
        self._made_by: dict[int, int] = {}
        self._kept: list[Tensor] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator_name(func)
        if name is None:
            return func(*args, **(kwargs or {}))
        if name not in KINDS:
            raise DeepLabError(f"the operator {name} is not counted; only DeepLab networks are")
        known = _same_shape(func._schema.name, args[0])
        output = func(*args, **(kwargs or {})) if known is None else known
        made = first_output(output)
        index = len(self.operations)
        self.operations.append(self._operation(name, args, made))
        producer = index if name == "aten::convolution" else self._fuse(index, args)
        if producer is not None:
            self._made_by[id(made)] = producer
        self._kept.append(made)
        return output

    def _operation(self, name: str, args: Sequence[Any], output: Tensor) -> Operation:
        kind, path = KINDS[name], self.path[-1] if self.path else ""
        moved = moved_bytes(kind, args, output, self.element_bytes)
        operation = Operation(
            path,
            kind,
            self._stage(path, kind),
            tuple(output.shape),
            multiply_adds(name, args, output),
            profiler_ops=_profiler_ops(kind, args, output),
            bytes_eager=moved,
            bytes_fused=moved,
        )
        if kind != "convolution":
            return operation
        weight = args[1]
        return replace(
            operation,
            space_to_batch=_space_to_batch(args, output),
            weights=weight.numel(),
            grouped=args[8] > 1,
        )

    def _fuse(self, index: int, args: Sequence[Any]) -> int | None:
        """Move an operation into the convolution that made its input; which that is."""
        kind = self.operations[index].kind
        if kind not in (*_IN_EPILOGUE, "add"):
            return None
        # The later of two convolutions adds: the other's result is there by then.
        makers = [(self._made_by[id(t)], t) for t in args if isinstance(t, Tensor) and id(t) in self._made_by]
        if not makers:
            return None
        producer, own = max(makers, key=lambda pair: pair[0])
        self.operations[index] = replace(self.operations[index], bytes_fused=0)
        if kind == "add":
            addend = traffic([t for t in args if t is not own], self.element_bytes)
            into = self.operations[producer]
            self.operations[producer] = replace(into, bytes_fused=into.bytes_fused + addend)
        return producer


def _same_shape(name: str, x: Any) -> Any:
    """The output of operators whose shape is known: torch decomposes them in Python, for most of a count's time."""
    if name == "aten::native_batch_norm":
        return torch.empty_like(x), x.new_empty(0), x.new_empty(0)
    return torch.empty_like(x) if name in ("aten::relu", "aten::hardtanh") else None


def _space_to_batch(args: Sequence[Any], output: Tensor) -> int:
    _, weight, _, stride, _, dilation = args[:6]
    sides = [
        side if rate == 1 or step > 1 or kernel == 1 else space_to_batch_size(side, kernel, rate)
        for side, kernel, step, rate in zip(output.shape[2:], weight.shape[2:], stride, dilation, strict=True)
    ]
    return prod(output.shape[:2]) * prod(sides) * prod(weight.shape[1:])


def _profiler_ops(kind: str, args: Sequence[Any], output: Tensor) -> int:
    """One operation an element: of a sum's or a bias's output, of what is averaged, of each pooling window."""
    if kind == "max pool":
        return output.numel() * prod(args[1])
    if kind == "mean":
        return int(args[0].numel())
    has_bias = kind == "convolution" and args[2] is not None
    return output.numel() if kind == "add" or has_bias else 0


def _on_meta(model: nn.Module | ModelConfig | str) -> nn.Module:
    if isinstance(model, nn.Module):
        if all(parameter.is_meta for parameter in model.parameters()):
            return model
        return unfuse(copy.deepcopy(model).to("meta")).eval()
    with torch.device("meta"):
        return build_model(model).eval()
