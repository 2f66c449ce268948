# SPDX-License-Identifier: Apache-2.0
"""A GPU and an engine of host memory: the runner's own work, without either.

Addresses are real, so that a wrong one crashes or gives wrong labels; kernels are the CUDA kernels, emulated; the
engine is ONNX Runtime; a graph is the list of calls that were captured.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

from deeplab_infer.errors import BackendError
from deeplab_infer.runtime.cuda import host_view


class FakeCuda:
    """The methods of `deeplab_infer.runtime.cuda.Cuda`."""

    index = 0
    name = "fake"

    def __init__(self, memory: int = 1 << 32, graphs: bool = True) -> None:
        self.left, self.graphs = memory, graphs
        self.held: dict[int, Any] = {}
        self.streams: set[int] = set()
        self.events: dict[int, int] = {}
        self.executables: dict[int, list[Callable[[], None]]] = {}
        self.capturing: list[Callable[[], None]] | None = None
        self.log: list[str] = []
        self._next = 1000

    def number(self) -> int:
        self._next += 1
        return self._next

    def use(self) -> None: ...

    def do(self, name: str, work: Callable[[], None]) -> None:
        """Run now, or keep for the graph that is being captured."""
        self.log.append(name)
        if self.capturing is not None:
            self.capturing.append(work)
        else:
            work()

    def malloc(self, size: int) -> int:
        if size > self.left:
            raise BackendError("CUDA could not allocate (cudaErrorMemoryAllocation): the GPU's memory is full")
        buffer = (ctypes.c_uint8 * (size + 256))()
        ctypes.memset(buffer, 0xAB, size + 256)
        address = -(-ctypes.addressof(buffer) // 256) * 256
        self.held[address] = buffer
        self.left -= size
        self.log.append("malloc")
        return address

    malloc_host = malloc

    def malloc_async(self, size: int, stream: int) -> int:
        return self.malloc(size)

    def free(self, address: int) -> None:
        del self.held[address]

    free_host = free

    def free_async(self, address: int, stream: int) -> None:
        self.free(address)

    def host_view(self, address: int, shape: Any, dtype: Any) -> Any:
        return host_view(address, shape, dtype)

    array = host_view

    def new_array(self, shape: Any, dtype: Any, stream: int) -> Any:
        return host_view(self.malloc(int(np.prod(shape)) * np.dtype(dtype).itemsize), shape, dtype)

    def create_stream(self) -> int:
        stream = self.number()
        self.streams.add(stream)
        return stream

    def destroy_stream(self, stream: int) -> None:
        self.streams.remove(stream)

    def synchronise(self, stream: int) -> None:
        assert self.capturing is None, "a capture must not wait"

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        self.do("copy", lambda: ctypes.memmove(target, source, size))

    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int, stream: int
    ) -> None:
        assert width <= min(target_pitch, source_pitch)

        def work() -> None:
            for row in range(rows):
                ctypes.memmove(target + row * target_pitch, source + row * source_pitch, width)

        self.do("copy_rows", work)

    def create_event(self) -> int:
        event = self.number()
        self.events[event] = 0
        return event

    def destroy_event(self, event: int) -> None:
        del self.events[event]

    def record(self, event: int, stream: int) -> None:
        self.events[event] = stream

    def wait(self, stream: int, event: int) -> None:
        assert event in self.events

    def begin_capture(self, stream: int) -> None:
        if not self.graphs:
            raise BackendError("CUDA could not capture a CUDA graph (cudaErrorStreamCaptureUnsupported): see elsewhere")
        self.capturing = []

    def end_capture(self, stream: int) -> int:
        assert self.capturing is not None
        graph = self.number()
        self.executables[graph], self.capturing = self.capturing, None
        return graph

    def abandon_capture(self, stream: int) -> None:
        self.capturing = None

    def launch(self, graph: int, stream: int) -> None:
        self.log.append("launch")
        for work in self.executables[graph]:
            work()

    def destroy_graph(self, graph: int) -> None:
        del self.executables[graph]

    def run_kernel(self, kernel: Callable[..., None], stream: int, *arguments: Any, **options: Any) -> None:
        self.do(kernel.__name__, lambda: kernel(*arguments, **options, emulate=True))

    @property
    def is_clean(self) -> bool:
        """Everything was given back."""
        return not (self.held or self.streams or self.events or self.executables)


class FakeEngine:
    """ONNX Runtime behind the calls of `TensorRtEngine`."""

    workspace = 4096

    def __init__(self, path: Any, cuda: FakeCuda, profiles: Any) -> None:
        self.session = onnxruntime.InferenceSession(str(path))
        self.cuda, self.profiles = cuda, profiles
        self.contexts = 0
        self.closed = False

    def create_context(self) -> FakeContext:
        self.contexts += 1
        return FakeContext(self)

    def close(self) -> None:
        self.closed = True


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.shape: tuple[int, ...] = ()

    def prepare(self, profile: int, shape: tuple[int, ...], stream: int) -> None:
        assert 0 <= profile < len(self.engine.profiles)
        self.profile, self.shape = profile, shape

    def set_memory(self, address: int, size: int) -> None:
        assert size >= self.engine.workspace
        assert address % 256 == 0
        ctypes.memset(address, 0, size)

    def output_shape(self, name: str) -> tuple[int, ...]:
        session = self.engine.session
        kind = np.uint8 if "uint8" in session.get_inputs()[0].type else np.float32
        return session.run([name], {"image": np.zeros(self.shape, kind)})[0].shape

    def enqueue(self, addresses: dict[str, int], stream: int) -> None:
        session = self.engine.session
        kind = np.uint8 if "uint8" in session.get_inputs()[0].type else np.float32

        def work() -> None:
            image = host_view(addresses["image"], self.shape, kind)
            (output,) = session.run(None, {"image": image})
            (name,) = set(addresses) - {"image"}
            host_view(addresses[name], output.shape, output.dtype)[...] = output

        self.engine.cuda.do("enqueue", work)
