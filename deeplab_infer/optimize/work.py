# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds, memory traffic and peak memory, counted on the real modules.

A forward pass without data, on torch's meta device: a ResNet-101 at 1024x2048 takes about a second.
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

from ..configs import ModelConfig
from ..errors import DeepLabError
from ..models import DeepLab, build_model
from .fusion import Network, unfuse
from .stages import stage_namer

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
    "aten::mm": "matmul",
    "aten::bmm": "matmul",
    "aten::index_select": "gather",
    "aten::clone": "copy",
    "aten::arange": "indices",
    "aten::eq": "indices",
    "aten::mul": "indices",
    "deeplab::depthwise": "fused depthwise",
    "deeplab::upsample_concat": "fused upsample + concat",
    "deeplab::upsample_concat_depthwise": "fused upsample + concat + depthwise",
}
# Operators of ours that hold a convolution; the weight is this argument.
_FUSED_WEIGHTS = {"deeplab::depthwise": 1, "deeplab::upsample_concat_depthwise": 2}
# Allocations, and views whose schema does not say so.
_FREE = ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::detach", "aten::_unsafe_view")
_IN_EPILOGUE = ("batch norm", "activation")
_IMAGE = -1  # the buffer that holds the network's input


@dataclass(frozen=True)
class Window:
    """What a convolution or pooling slides over the map.

    Attributes:
        kernel: a convolution's (input channels a group, height, width), a pooling's (height, width).
        stride, dilation: (vertical, horizontal).
        bias: whether a bias is added.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, int]
    dilation: tuple[int, int] = (1, 1)
    bias: bool = False


@dataclass(frozen=True)
class Operation:
    """One operation of a forward pass.

    Attributes:
        name: path of the module that runs it; empty for the network itself.
        kind: a value of `KINDS`.
        stage: part of the network, see `stages.stage_namer`.
        shape: of its output.
        inputs: elements of its first input.
        window: of a convolution or pooling.
        dense: multiply-adds.
        weights: elements of the kernel of a convolution or matrix product; 0 elsewhere.
        grouped: a depthwise or other grouped convolution, which matrix units do not help.
        bytes_eager: inputs, weights and outputs, each moved once: every operation a kernel of its own.
        bytes_fused: the same with normalisation, activation and addition in the convolution before them, which then
            reads the addend too; 0 for an operation that is in another.
        output_bytes: of its output.
        reads: numbers of the operations in whose buffers its inputs lie, -1 for the network's input.
        buffer: number of the operation in whose buffer its output lies: its own, or the one that it is in.
    """

    name: str
    kind: str
    stage: str
    shape: tuple[int, ...]
    inputs: int = 0
    window: Window | None = None
    dense: int = 0
    weights: int = 0
    grouped: bool = False
    bytes_eager: int = 0
    bytes_fused: int = 0
    output_bytes: int = 0
    reads: tuple[int, ...] = ()
    buffer: int = 0

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
        input_bytes: of the network's input.
    """

    operations: tuple[Operation, ...]
    input_bytes: int = 0

    @property
    def dense(self) -> int:
        """Multiply-adds."""
        return sum(op.dense for op in self.operations)

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

    @property
    def peak_bytes(self) -> int:
        """Most bytes of activations that must be there at once: every result from when it is made to its last use.

        The input counts; what is in another operation (see `Operation`) works in that one's result, and a convolution
        needs no memory of its own.
        """
        size, first, last = {_IMAGE: self.input_bytes}, {_IMAGE: 0}, {_IMAGE: 0}
        for index, op in enumerate(self.operations):
            size[op.buffer] = max(size.get(op.buffer, 0), op.output_bytes)
            first.setdefault(op.buffer, index)
            last.update(dict.fromkeys((*op.reads, op.buffer), index))
        moments = range(len(self.operations))
        return max((sum(size[b] for b in size if first[b] <= now <= last[b]) for now in moments), default=0)

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of what the last operation gives."""
        return self.operations[-1].shape

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


@dataclass(frozen=True)
class Work:
    """What one pass of a network costs.

    Attributes:
        multiply_adds: of convolutions and matrix products.
        bytes_moved: inputs, weights and outputs of every operation, each moved once (`Count.bytes_eager`).
        bytes_fused: the same with what follows a convolution inside it (`Count.bytes_fused`).
        peak_bytes: most bytes of activations at once (`Count.peak_bytes`).
        parameters: numbers that are learned and stored, those of parts that only training runs too.
        output: shape [N, C, h, w] of the logits.
    """

    multiply_adds: int
    bytes_moved: int
    bytes_fused: int
    peak_bytes: int
    parameters: int
    output: tuple[int, ...]


def work_of(model: nn.Module, size: tuple[int, int], element_bytes: int = 4) -> Work:
    """Totals of `count` for one image.

    Args:
        model: a network whose input is [N, 3, H, W]; it is not changed.
        size: (height, width) of its input.
        element_bytes: size of activations and weights.

    Raises:
        DeepLabError: the network contains an operator that is not counted.
    """
    counted = count(model, *size, element_bytes=element_bytes)
    return Work(
        multiply_adds=counted.dense,
        bytes_moved=counted.bytes_eager,
        bytes_fused=counted.bytes_fused,
        peak_bytes=counted.peak_bytes,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        output=counted.output,
    )


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
    model = on_meta(model)
    image = torch.empty(batch, 3, height, width, device="meta")
    recorder = _Recorder(model, image, element_bytes)
    with torch.no_grad(), module_paths(model) as recorder.path, recorder:
        logits = model(image)
        if post:
            recorder.element_bytes = None
            align = isinstance(model, DeepLab) and model.config.align_corners
            full = nn.functional.interpolate(logits, size=(height, width), mode="bilinear", align_corners=align)
            full.argmax(1)
    return Count(tuple(recorder.operations), image.numel() * element_bytes)


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
    return None if is_view or name in _FREE else name.removesuffix("_")


def multiply_adds(name: str, args: Sequence[Any], output: Tensor) -> int:
    """Multiply-adds of one call of an operator."""
    if name == "aten::convolution":
        return output.numel() * prod(args[1].shape[1:])
    if name in _FUSED_WEIGHTS:
        return output.numel() * prod(args[_FUSED_WEIGHTS[name]].shape[2:])
    return output.numel() * int(args[0].shape[-1]) if KINDS.get(name) == "matmul" else 0


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


class _Recorder(TorchDispatchMode):
    """Turns every operator into an `Operation`."""

    def __init__(self, model: nn.Module, image: Tensor, element_bytes: int) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.path: list[str] = []
        self.element_bytes: int | None = element_bytes
        self._stage = stage_namer(model)
        self._kernels = {_storage(p) for p in model.parameters() if p.dim() > 1}
        # Which convolution made a tensor, and so takes what follows into its epilogue; in which operation's buffer a
        # storage lies. The tensors are kept, so that no other gets the same id.
        self._made_by: dict[int, int] = {}
        self._buffers = {_storage(image): _IMAGE}
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
            self.operations[index] = replace(self.operations[index], buffer=producer)
        self._buffers[_storage(made)] = self.operations[index].buffer
        self._kept.append(made)
        return output

    def _operation(self, name: str, args: Sequence[Any], output: Tensor) -> Operation:
        kind, path = KINDS[name], self.path[-1] if self.path else ""
        moved = moved_bytes(kind, args, output, self.element_bytes)
        storages = [_storage(t) for t in tree_iter(args) if isinstance(t, Tensor)]
        operation = Operation(
            path,
            kind,
            self._stage(path, kind),
            tuple(output.shape),
            inputs=sum(t.numel() for t in args[:1] if isinstance(t, Tensor)),
            window=_window(kind, args),
            dense=multiply_adds(name, args, output),
            bytes_eager=moved,
            bytes_fused=moved,
            output_bytes=traffic(output, self.element_bytes),
            reads=tuple(dict.fromkeys(self._buffers[s] for s in storages if s in self._buffers)),
            buffer=len(self.operations),
        )
        if kind == "matmul":
            return replace(operation, weights=sum(t.numel() for t in args if _storage(t) in self._kernels))
        if kind == "convolution":
            return replace(operation, weights=args[1].numel(), grouped=args[8] > 1)
        return operation

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


def _storage(tensor: Tensor) -> int:
    """What views of one tensor have in common."""
    return int(tensor.untyped_storage()._cdata)


def _same_shape(name: str, x: Any) -> Any:
    """The output of operators whose shape is known: torch decomposes them in Python, for most of a count's time."""
    if name == "aten::native_batch_norm":
        return torch.empty_like(x), x.new_empty(0), x.new_empty(0)
    return torch.empty_like(x) if name in ("aten::relu", "aten::hardtanh") else None


def _window(kind: str, args: Sequence[Any]) -> Window | None:
    if kind == "convolution":
        _, weight, bias, stride, _, dilation = args[:6]
        return Window(tuple(weight.shape[1:]), tuple(stride), tuple(dilation), bias is not None)
    return Window(tuple(args[1]), tuple(args[2])) if kind == "max pool" else None


def on_meta(model: Network | ModelConfig | str) -> Network | DeepLab:
    """A copy of a network in eval mode, unfused and without data, to be rewritten and counted in no time."""
    if isinstance(model, nn.Module):
        if all(parameter.is_meta for parameter in model.parameters()):
            return model
        tensors = (*model.parameters(), *model.buffers())
        ghosts = {id(tensor): _ghost(tensor) for tensor in tensors}  # deepcopy takes these: no weight is copied
        return unfuse(copy.deepcopy(model, ghosts)).eval()
    with torch.device("meta"):
        return build_model(model).eval()


def _ghost(tensor: Tensor) -> Tensor:
    ghost = tensor.detach().to("meta")
    return nn.Parameter(ghost, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else ghost
