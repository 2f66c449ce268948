# SPDX-License-Identifier: Apache-2.0
"""Compiled OpenVINO models of one network, by the size of their input."""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from ..errors import BackendError

Shape = tuple[int, ...]
# Compiles the network for inputs of one shape, or of any where that is None; None where one shape gains nothing.
Compile = Callable[["Shape | None"], Any]

KEPT_SIZES = 4
_OFTEN, _LATELY = 3, 8  # a size is worth a model of its own when so many of the last so many images have it


class CompiledNetwork:
    """One compiled model with an inference request a thread.

    Inputs are read where they lie, and results are written into the array that is given out.
    """

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self._requests = threading.local()

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """The only input to the only output.

        Args:
            batch: as the model says, C-contiguous.

        Returns:
            An array of its own.
        """
        request = self._request()
        output = self.compiled.output(0)
        if output.get_partial_shape().is_dynamic:
            # Its size is known afterwards, and the request owns the memory.
            return np.array(request.infer({0: batch}, share_inputs=True, share_outputs=True)[0], copy=True)
        result = np.empty(tuple(output.shape), output.get_element_type().to_dtype())
        request.set_output_tensor(openvino.Tensor(result, shared_memory=True))
        request.infer({0: batch}, share_inputs=True, share_outputs=True)
        return result

    def _request(self) -> Any:
        if not hasattr(self._requests, "request"):
            self._requests.request = self.compiled.create_infer_request()
        return self._requests.request


class SizedModels:
    """A network for inputs of any size, and compiled once more for each size that keeps coming.

    A known size allows rewrites that an open one does not. They cost a compilation and a copy of the weights, so only
    sizes that come often get them, and only the last `KEPT_SIZES` are kept.
    """

    def __init__(self, make: Compile, *, by_size: bool, kept: int = KEPT_SIZES) -> None:
        """Compile for any size.

        Args:
            make: compiles for a shape, or for all where it is None.
            by_size: whether sizes are open.
            kept: models of one size that are kept at most.
        """
        self._make = make
        self._any: CompiledNetwork | None = CompiledNetwork(make(None))
        self._kept = kept if by_size else 0
        self._sized: OrderedDict[Shape, CompiledNetwork] = OrderedDict()
        self._recent: deque[Shape] = deque(maxlen=_LATELY)
        self._lock = threading.Lock()

    @property
    def sizes(self) -> list[Shape]:
        """Shapes that have a model of their own, the longest unused first."""
        return [shape for shape, model in self._sized.items() if model is not self._any]

    @property
    def compiled(self) -> Any:
        """The model for any size; None once closed."""
        return None if self._any is None else self._any.compiled

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """A batch through the model for its shape."""
        return self._pick(batch.shape).run(batch)

    def close(self) -> None:
        """Drop all models."""
        with self._lock:
            self._any = None
            self._sized.clear()

    def _pick(self, shape: Shape) -> CompiledNetwork:
        with self._lock:
            if self._any is None:
                raise BackendError("this network is closed; open it again")
            self._recent.append(shape)
            if shape in self._sized:
                self._sized.move_to_end(shape)
                return self._sized[shape]
            if not self._kept or self._recent.count(shape) < _OFTEN:
                return self._any
            while len(self._sized) >= self._kept:
                self._sized.popitem(last=False)
            compiled = self._make(shape)
            self._sized[shape] = self._any if compiled is None else CompiledNetwork(compiled)
            return self._sized[shape]
