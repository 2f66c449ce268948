# SPDX-License-Identifier: Apache-2.0
"""Whole passes in torch, from uint8 pixels to labels, on one device: run as they are first, then as one CUDA graph."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .torch_precision import arithmetic
from .windows import Window

Size = tuple[int, int]
_log = logging.getLogger(__name__)
PASSES_KEPT = 8  # jobs whose buffers and graph are kept


class CaptureError(RuntimeError):
    """A pass could not be captured; it can still be run."""


@dataclass(frozen=True)
class Job:
    """What one pass does; passes of the same job share buffers and a graph.

    Attributes:
        source: shape of the images as they come, uint8 [N, H, W, 3].
        network: (height, width) at which they enter the network; windows are of this.
        labels: (height, width) of the labels; None for the network's own logits.
        via: the reference's first resize of the logits, where it is not the identity.
        scores: whether the probability of each label is wanted too.
        windows: of a single image; empty: it enters as a whole.
        batch: windows that enter at once.
    """

    source: tuple[int, ...]
    network: Size
    labels: Size | None = None
    via: Size | None = None
    scores: bool = False
    windows: tuple[Window, ...] = ()
    batch: int = 1


@dataclass
class Captured:
    """Work that can be replayed.

    Attributes:
        results: tensors that every replay writes.
        replay: enqueues the work.
        graph: what holds its memory.
    """

    results: list[Tensor]
    replay: Callable[[], None]
    graph: Any = None


class Hardware(Protocol):
    """Where passes run: a stream, pinned memory, graphs.

    Attributes:
        device: of the tensors.
        uses_cudnn: whether torch's switches for CUDA matter.
    """

    device: torch.device
    uses_cudnn: bool

    def stream(self) -> AbstractContextManager[None]:
        """What is enqueued inside runs in order."""
        ...

    def kernel_options(self) -> dict[str, Any]:
        """How ``_C``'s kernels join that order."""
        ...

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Host memory for copies to and from the device."""
        ...

    def synchronise(self) -> None:
        """Wait for what was enqueued."""
        ...

    def capture(self, work: Callable[[], list[Tensor]], beside: Captured | None) -> Captured:
        """Record work without running it.

        Args:
            work: enqueues, and gives its results.
            beside: a recording that never runs at the same time, whose memory may be shared.

        Raises:
            CaptureError: it cannot be recorded.
        """
        ...


class CudaHardware:
    """One GPU: a stream of its own, and graphs that share one pool of memory."""

    uses_cudnn = True

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = self._new_stream()

    def _new_stream(self) -> torch.cuda.Stream:
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))  # in which the weights were copied
        return stream

    @contextmanager
    def stream(self) -> Iterator[None]:
        """See `Hardware.stream`."""
        with torch.cuda.stream(self._stream):
            yield

    def kernel_options(self) -> dict[str, Any]:
        """See `Hardware.kernel_options`."""
        return {"stream": torch.cuda.current_stream(self.device).cuda_stream}

    def staging(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Pinned: copies run beside the host."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def synchronise(self) -> None:
        """See `Hardware.synchronise`."""
        self._stream.synchronize()

    def capture(self, work: Callable[[], list[Tensor]], beside: Captured | None) -> Captured:
        """See `Hardware.capture`; other threads may allocate on the GPU meanwhile."""
        graph = torch.cuda.CUDAGraph()
        pool = None if beside is None else beside.graph.pool()
        try:
            with (
                torch.cuda.stream(self._stream),  # a capture that fails at its end leaves its stream the current one
                torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"),
            ):
                results = work()
        except RuntimeError as error:
            self._stream = self._new_stream()  # the old one may still be in its broken capture
            raise CaptureError(str(error)) from error
        return Captured(results, graph.replay, graph)


@dataclass
class _Pass:
    """A job's input on both sides, its results on the host and, from the second run on, its recording."""

    staged: Tensor
    source: Tensor
    benchmark: bool
    hosts: list[Tensor] | None = None
    captured: Captured | None = None
    runs: int = 0


class Passes:
    """Runs jobs, one at a time: a caller holds a lock.

    Attributes:
        cuda_graphs: whether passes are captured; turned off, with a warning, where that fails.
    """

    def __init__(
        self, hardware: Hardware, enqueue: Callable[[Job, Tensor], list[Tensor]], *, tf32: bool, cuda_graphs: bool
    ) -> None:
        """Nothing is allocated yet.

        Args:
            hardware: where.
            enqueue: the work of a job on its images on the device; gives its results there.
            tf32: see `arithmetic`.
            cuda_graphs: capture passes.
        """
        self.cuda_graphs = cuda_graphs
        self._hardware, self._enqueue, self._tf32 = hardware, enqueue, tf32
        self._kept: OrderedDict[Job, _Pass] = OrderedDict()
        self._made = 0

    def run(self, job: Job, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """Copy images in, run, copy results out, wait."""
        with torch.inference_mode():
            current = self._pass(job)
            np.copyto(current.staged.numpy(), images)
            if self.cuda_graphs and current.runs > 0 and current.captured is None:
                self._capture(job, current)
            with self._hardware.stream():
                current.source.copy_(current.staged, non_blocking=True)
                results = self._results(job, current)
                if current.hosts is None:
                    current.hosts = [self._hardware.staging(tuple(one.shape), one.dtype) for one in results]
                for host, result in zip(current.hosts, results, strict=True):
                    host.copy_(result, non_blocking=True)
                self._hardware.synchronise()
            current.runs += 1
            return [host.numpy().copy() for host in current.hosts]

    def forget(self) -> None:
        """Let all buffers and graphs go."""
        self._kept.clear()

    def _results(self, job: Job, current: _Pass) -> list[Tensor]:
        """As it is the first time, in which cuDNN and the compiler set themselves up; then replayed."""
        if current.captured is not None:
            current.captured.replay()
            return current.captured.results
        with self._arithmetic(current.benchmark):
            return self._enqueue(job, current.source)

    def _capture(self, job: Job, current: _Pass) -> None:
        beside = next((one.captured for one in self._kept.values() if one.captured is not None), None)
        try:
            with self._arithmetic(False):  # what the first run timed is remembered; timing cannot be captured
                current.captured = self._hardware.capture(lambda: self._enqueue(job, current.source), beside)
        except CaptureError as error:
            self.cuda_graphs = False
            _log.warning("running without CUDA graphs, a little slower: %s", error)

    def _pass(self, job: Job) -> _Pass:
        if job in self._kept:
            self._kept.move_to_end(job)
            return self._kept[job]
        while len(self._kept) >= PASSES_KEPT:
            self._kept.popitem(last=False)
        staged = self._hardware.staging(job.source, torch.uint8)
        with self._hardware.stream():
            source = torch.empty(job.source, dtype=torch.uint8, device=self._hardware.device)
        self._made += 1
        # Images of ever new sizes would pay for the timing each time.
        self._kept[job] = current = _Pass(staged, source, benchmark=self._made <= PASSES_KEPT)
        return current

    @contextmanager
    def _arithmetic(self, benchmark: bool) -> Iterator[None]:
        if not self._hardware.uses_cudnn:
            yield
            return
        with arithmetic(tf32=self._tf32, benchmark=benchmark):
            yield
