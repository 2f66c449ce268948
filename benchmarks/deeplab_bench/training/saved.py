# SPDX-License-Identifier: Apache-2.0
"""Bytes that a forward pass leaves behind for the backward pass: counted, not measured.

Every operator passes a mode that notes the memory of its results. What still lives when the loss is there is held by
autograd's graph: saved tensors, whatever a recomputation keeps instead, and copies of weights in another precision. It
is counted once a storage, with the part of the network that made it. Parameters, buffers, the batch and its float32
form, the network's input, are there anyway and are not counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deeplab_infer.data.loading import Batch
from deeplab_infer.models import DeepLab
from deeplab_infer.optimize import fuse
from deeplab_infer.training.step import TrainingStep

from .steps import make_step, random_batch
from .variants import VARIANTS

LOSS = "loss"


class _Results(TorchDispatchMode):
    """Notes the storages that operators make, and the part that runs then."""

    def __init__(self, model: nn.Module, batch: Batch, parts: list[str]) -> None:
        super().__init__()
        before = (*model.parameters(), *model.buffers(), batch.images, batch.labels, batch.valid)
        self._there = {_identity(tensor) for tensor in before}
        self._input_shape = (len(batch.images), 3, *batch.images.shape[1:3])
        self._parts = parts
        self._made: dict[int, tuple[StorageWeakRef, int, str]] = {}

    def __torch_dispatch__(self, operator: Any, _: Any, arguments: Any = (), options: Any = None) -> Any:
        result = operator(*arguments, **(options or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor)
        return result

    def alive(self) -> dict[str, int]:
        """Bytes by part."""
        found: dict[str, int] = {}
        for storage, size, part in self._made.values():
            if size and not storage.expired():
                found[part] = found.get(part, 0) + size
        # The labels come first and the loss last: it is the last part.
        return {**{part: size for part, size in found.items() if part != LOSS}, LOSS: found.get(LOSS, 0)}

    def _note(self, tensor: Tensor) -> None:
        identity = _identity(tensor)
        if identity not in self._there and identity not in self._made:
            storage = tensor.untyped_storage()
            is_input = tensor.dtype == torch.float32 and tensor.shape == self._input_shape
            # The weak reference keeps the identity from being given to other memory.
            self._made[identity] = StorageWeakRef(storage), 0 if is_input else storage.nbytes(), self._parts[-1]


def saved_by_part(step: TrainingStep, batch: Batch) -> dict[str, int]:
    """Bytes that a step's forward pass and loss leave for the backward pass.

    Args:
        step: not compiled: a compiled network's memory passes no operator.
        batch: what it trains on.

    Returns:
        Bytes by part in the order of the forward pass: ``stem``, ``layer1``, ..., ``aspp``, ``decoder``,
        ``dropout``, ``auxiliary``, and ``loss``; ``backbone`` is what none of its children made: activations and
        pooling behind a ResNet's stem.

    Raises:
        ValueError: a compiled step.
    """
    if step.options.compiled:
        raise ValueError("what a compiled network saves cannot be counted; its peak can be measured")
    parts = [LOSS]
    results = _Results(step.model, batch, parts)
    with _named_parts(step.model, parts), results:
        loss = step.loss(batch)
    found = results.alive()
    del loss  # it held the graph until here
    return found


def count_saved(job: dict[str, Any]) -> dict[str, int]:
    """`saved_by_part` of a job's step as on a GPU, the backbone fused too, without memory, arithmetic or a GPU.

    The step runs on tensors that have shapes and no data. Operators are the CPU's: what cuDNN's normalisation may
    reserve for itself besides is not in here, and in low precision the batch statistics count half, a few kilobytes.
    Activations are the same everywhere.

    Raises:
        ValueError: a compiled variant.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    job = {**job, "device": "cpu"}
    step = make_step(job)
    if VARIANTS[job["variant"]].fused:
        fuse(step.model)
    batch = random_batch(job)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        _without_data(step.model, mode.from_tensor)
        images, labels = mode.from_tensor(batch.images), mode.from_tensor(batch.labels)
        return saved_by_part(step, batch._replace(images=images, labels=labels))


def _without_data(model: nn.Module, convert: Callable[[Tensor], Tensor]) -> None:
    """Parameters and buffers replaced by shapes, in place."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(convert(parameter.detach()), parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, convert(buffer))


@contextlib.contextmanager
def _named_parts(model: DeepLab, parts: list[str]) -> Iterator[None]:
    """Keeps the name of the part that runs now at the end of ``parts``."""
    handles = []
    for name, module in _parts(model):
        handles.append(module.register_forward_pre_hook(_entering(name, parts)))
        handles.append(module.register_forward_hook(_leaving(parts)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _entering(name: str, parts: list[str]) -> Callable[..., None]:
    def enter(*_: Any) -> None:
        parts.append(name)

    return enter


def _leaving(parts: list[str]) -> Callable[..., None]:
    def leave(*_: Any) -> None:
        parts.pop()

    return leave


def _parts(model: DeepLab) -> Iterator[tuple[str, nn.Module]]:
    """Every module with its part: a child of the backbone, else of the network. Some children are never called."""
    for name, module in model.named_modules():
        names = name.split(".")
        if name:
            yield names[1] if names[0] == "backbone" and len(names) > 1 else names[0], module


def _identity(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
