# SPDX-License-Identifier: Apache-2.0
"""A network through torch.compile, one program a shape of its input."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ..errors import BackendError

SHAPES_COMPILED = 8  # programs that are kept
_COMPILERS = ("torch._dynamo", "torch._inductor", "torch._functorch", "triton")
_log = logging.getLogger(__name__)
_numbers = itertools.count()


class CompiledNetwork:
    """Calls a network through its compiled form; the first call at a shape compiles, which takes minutes on a GPU.

    After `SHAPES_COMPILED` shapes further ones run as they are, with a warning. May be shared between threads.
    """

    def __init__(self, model: nn.Module, mode: str | None) -> None:
        """Nothing is compiled yet.

        Args:
            model: in eval mode.
            mode: of ``torch.compile``; without CUDA graphs, because passes are captured as a whole.
        """
        self._plain, self._mode = model, mode
        self._programs: dict[tuple[int, ...], Callable[[Tensor], Tensor]] = {}
        self._warned = False
        self._lock = threading.Lock()

    def __call__(self, x: Tensor) -> Tensor:
        """The network's output.

        Raises:
            BackendError: the compiler is missing or failed.
        """
        shape = tuple(x.shape)
        if shape not in self._programs:
            with self._lock:
                first = self._compile_first(shape, x)
            if first is not None:
                return first
        program = self._programs.get(shape)
        if program is not None:
            return _call(program, x)
        y: Tensor = self._plain(x)
        return y

    def _compile_first(self, shape: tuple[int, ...], x: Tensor) -> Tensor | None:
        """The output, where this call is the one that compiles for the shape."""
        if shape in self._programs:
            return None
        if len(self._programs) == SHAPES_COMPILED:
            if not self._warned:
                self._warned = True
                _log.warning(
                    "the network was compiled for %d sizes; further sizes run without torch.compile: give images of "
                    "fewer sizes",
                    SHAPES_COMPILED,
                )
            return None
        _log.info("compiling the network for an input of %s", " x ".join(map(str, shape)))
        program = torch.compile(_own_function(self._plain), mode=self._mode, dynamic=False, fullgraph=True)
        y = _call(program, x)
        self._programs[shape] = program
        return y


def _own_function(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The network's call as a function with code of its own: torch counts programs by code, over all networks."""

    def call(x: Tensor) -> Tensor:
        y: Tensor = model(x)
        return y

    call.__code__ = call.__code__.replace(co_name=f"network_{next(_numbers)}")
    return call


def _call(program: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    try:
        return program(x)
    except Exception as error:
        if not any(type(one).__module__.startswith(_COMPILERS) for one in _chain(error)):
            raise
        what = " ".join(str(error).split("\n")[:2])  # which compiler, and what it said
        raise BackendError(
            f"torch.compile failed ({type(error).__name__}: {what}); it needs a C++ compiler (g++, or the one that "
            "CXX names) and, on a GPU, triton: install them, or run without compiled"
        ) from error


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
