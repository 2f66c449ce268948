# SPDX-License-Identifier: Apache-2.0
"""ReLU after batch normalisation, whose result need not be kept for the gradient.

Autograd keeps the input of every normalisation, and besides it the rectified output for the convolution that reads
it. The second is the first, normalised and rectified: inside `recomputed_activations` it is made again when the
gradient needs it, by the same kernels on the same numbers, so that nothing changes but memory and one pass over it.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

Activation = Callable[[Tensor], Tensor]


class _Recipe:
    """How a tensor is made again: ``activation(batch_norm(x))``."""

    def __init__(self, norm: nn.BatchNorm2d, x: Tensor, activation: Activation) -> None:
        # Shares the memory that the normalisation keeps for its own gradient.
        self._norm, self._x, self._activation = norm, x.detach(), activation
        self._batch_statistics = norm.training
        self._made: Tensor | None = None

    def make(self) -> Tensor:
        """The tensor; it is asked for twice, by the convolution that read it and by the activation that made it."""
        if self._made is not None:
            made, self._made = self._made, None
            return made
        norm = self._norm
        # In training the batch's statistics, computed again, and not counted again.
        running = (None, None) if self._batch_statistics else (norm.running_mean, norm.running_var)
        with torch.no_grad():
            y = F.batch_norm(self._x, *running, norm.weight, norm.bias, self._batch_statistics, 0.0, norm.eps)
            self._made = self._activation(y)
        return self._made


class _Recipes:
    """Recipes of the tensors that are alive, by their memory."""

    def __init__(self) -> None:
        self._recipes: dict[int, tuple[weakref.ref[Tensor], _Recipe]] = {}

    def add(self, tensor: Tensor, recipe: _Recipe) -> None:
        storage = _storage(tensor)

        def forget(reference: weakref.ref[Tensor]) -> None:
            if self._recipes.get(storage, (None,))[0] is reference:
                del self._recipes[storage]

        self._recipes[storage] = (weakref.ref(tensor, forget), recipe)

    def pack(self, tensor: Tensor) -> Tensor | _Recipe:
        """What autograd keeps instead of a tensor."""
        found = self._recipes.get(_storage(tensor))
        if found is None:
            return tensor
        original = found[0]()
        same = original is not None and original.shape == tensor.shape and original.stride() == tensor.stride()
        return found[1] if same else tensor


# Plain, not a context variable: compilers of graphs read it as a constant. Training is one thread's.
_active: _Recipes | None = None


@contextlib.contextmanager
def recomputed_activations() -> Iterator[None]:
    """Forward passes in here keep no rectified outputs of normalisations; gradients may be taken outside."""
    global _active
    outer, _active = _active, _Recipes()
    try:
        with saved_tensors_hooks(_active.pack, _unpack):
            yield
    finally:
        _active = outer


def norm_relu(norm: nn.Module, x: Tensor, activation: Activation = F.relu) -> Tensor:
    """``activation(norm(x))``; inside `recomputed_activations` the result is not kept.

    Args:
        norm: batch normalisation, or what took its place.
        x: [N, C, H, W].
        activation: what follows it; its gradient may use its result only.
    """
    y = norm(x)
    if _active is None or type(norm) is not nn.BatchNorm2d or not y.requires_grad:
        return activation(y)
    recipe = _Recipe(norm, x, activation)
    with saved_tensors_hooks(lambda _: recipe, _unpack):
        result = activation(y)
    _active.add(result, recipe)
    return result


def _storage(tensor: Tensor) -> int:
    """Which memory a tensor lies in; unlike an address, tensors without data have one too."""
    return tensor.untyped_storage()._cdata


def _unpack(kept: Tensor | _Recipe) -> Tensor:
    return kept.make() if isinstance(kept, _Recipe) else kept
