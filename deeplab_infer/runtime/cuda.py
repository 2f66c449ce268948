# SPDX-License-Identifier: Apache-2.0
"""One GPU through cuda-python: memory, streams, events and graphs, in the device's primary context.

The primary context is what torch, CuPy, Numba and PyCUDA's ``autoprimaryctx`` use too, so their arrays and streams
are valid here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ..errors import BackendError
from .gpu_array import GpuArray

_ADVICE = {
    "cudaErrorInsufficientDriver": "no NVIDIA driver was found, or it is older than the CUDA runtime: install or "
    "update the driver, or use a CPU backend",
    "cudaErrorNoDevice": "this machine has no NVIDIA GPU that CUDA can use; use a CPU backend",
    "cudaErrorInvalidDevice": "there is no GPU with this number (nvidia-smi lists them)",
    "cudaErrorMemoryAllocation": "the GPU's memory is full: use smaller images, a smaller batch, fewer contexts, or "
    "another GPU",
}


class Cuda:
    """One GPU.

    Attributes:
        index: the GPU's number.
        name: e.g. ``"NVIDIA H200"``.
        compute_capability: e.g. ``"9.0"``.
    """

    def __init__(self, index: int = 0) -> None:
        """Make the GPU's primary context current.

        Raises:
            BackendError: cuda-python is missing, or CUDA has no such GPU.
        """
        try:
            from cuda.bindings import runtime
        except ImportError:
            raise BackendError(
                "TensorRT engines need cuda-python; run: pip install 'deeplab-infer[tensorrt]'"
            ) from None
        self._cuda: Any = runtime
        self.index = index
        self._call("find a GPU", runtime.cudaSetDevice(index))
        properties = self._call("read the GPU's properties", runtime.cudaGetDeviceProperties(index))
        self.name = bytes(properties.name).split(b"\0", 1)[0].decode()
        self.compute_capability = f"{properties.major}.{properties.minor}"

    def use(self) -> None:
        """Make this GPU the calling thread's."""
        self._call("use the GPU", self._cuda.cudaSetDevice(self.index))

    # -- memory

    def malloc(self, size: int) -> int:
        """Device memory, aligned to 256 bytes."""
        return int(self._call(f"allocate {_human(size)}", self._cuda.cudaMalloc(max(size, 1))))

    def free(self, address: int) -> None:
        """Give `malloc`'s memory back; waits for the device."""
        self._call("free memory", self._cuda.cudaFree(address))

    def malloc_async(self, size: int, stream: int) -> int:
        """Device memory for work that is enqueued on a stream after this call."""
        return int(self._call(f"allocate {_human(size)}", self._cuda.cudaMallocAsync(max(size, 1), stream)))

    def free_async(self, address: int, stream: int) -> None:
        """Give `malloc_async`'s memory back once the stream has got here, or now where the stream is gone."""
        (status,) = self._cuda.cudaFreeAsync(address, stream)
        if int(status) != 0:
            self._cuda.cudaGetLastError()
            self.free(address)

    def malloc_host(self, size: int) -> int:
        """Pinned host memory: copies to and from it run beside other work."""
        flags = self._cuda.cudaHostAllocDefault
        return int(self._call(f"pin {_human(size)} of host memory", self._cuda.cudaHostAlloc(max(size, 1), flags)))

    def free_host(self, address: int) -> None:
        """Give `malloc_host`'s memory back."""
        self._call("free pinned memory", self._cuda.cudaFreeHost(address))

    def host_view(self, address: int, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Pinned memory as an array."""
        return host_view(address, shape, dtype)

    def array(self, address: int, shape: Sequence[int], dtype: DTypeLike) -> GpuArray:
        """Device memory as an array for kernels; it does not own the memory."""
        return GpuArray(address, tuple(shape), np.dtype(dtype), self.index)

    def new_array(self, shape: Sequence[int], dtype: DTypeLike, stream: int) -> GpuArray:
        """Fresh device memory as an array that owns it, for work in a stream."""
        kind = np.dtype(dtype)
        address = self.malloc_async(int(np.prod(shape)) * kind.itemsize, stream)
        return GpuArray(address, tuple(shape), kind, self.index, stream, owner=self)

    def to_host(self, array: GpuArray) -> NDArray[Any]:
        """A copy of an array in host memory."""
        self.use()
        result = np.empty(array.shape, array.dtype)
        self.copy(result.ctypes.data, array.address, array.nbytes, array.stream)
        self.synchronise(array.stream)
        return result

    # -- work

    def create_stream(self) -> int:
        """A stream that does not wait for the default one."""
        flags = self._cuda.cudaStreamNonBlocking
        return int(self._call("create a stream", self._cuda.cudaStreamCreateWithFlags(flags)))

    def destroy_stream(self, stream: int) -> None:
        """Let a stream go."""
        self._call("destroy a stream", self._cuda.cudaStreamDestroy(stream))

    def synchronise(self, stream: int) -> None:
        """Wait for a stream; errors of the work on it appear here."""
        self._call("run the network", self._cuda.cudaStreamSynchronize(stream))

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy between host and device, or on the device, in a stream."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDefault
        self._call("copy memory", self._cuda.cudaMemcpyAsync(target, source, size, kind, stream))

    def copy_rows(
        self, target: int, target_pitch: int, source: int, source_pitch: int, width: int, rows: int, stream: int
    ) -> None:
        """Copy ``rows`` pieces of ``width`` bytes that lie a pitch apart, in a stream."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDefault
        status = self._cuda.cudaMemcpy2DAsync(target, target_pitch, source, source_pitch, width, rows, kind, stream)
        self._call("copy memory", status)

    def create_event(self) -> int:
        """A mark in a stream that others can wait for."""
        flags = self._cuda.cudaEventDisableTiming
        return int(self._call("create an event", self._cuda.cudaEventCreateWithFlags(flags)))

    def destroy_event(self, event: int) -> None:
        """Let an event go."""
        self._call("destroy an event", self._cuda.cudaEventDestroy(event))

    def record(self, event: int, stream: int) -> None:
        """Set an event behind what is in a stream."""
        self._call("record an event", self._cuda.cudaEventRecord(event, stream))

    def wait(self, stream: int, event: int) -> None:
        """Let a stream wait for an event."""
        self._call("wait for an event", self._cuda.cudaStreamWaitEvent(stream, event, 0))

    # -- graphs

    def begin_capture(self, stream: int) -> None:
        """Record what this thread enqueues on a stream from here on instead of running it."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("capture a CUDA graph", self._cuda.cudaStreamBeginCapture(stream, mode))

    def end_capture(self, stream: int) -> int:
        """The recorded work as an executable graph."""
        graph = self._call("capture a CUDA graph", self._cuda.cudaStreamEndCapture(stream))
        try:
            return int(self._call("instantiate a CUDA graph", self._cuda.cudaGraphInstantiate(graph, 0)))
        finally:
            self._call("destroy a CUDA graph", self._cuda.cudaGraphDestroy(graph))

    def abandon_capture(self, stream: int) -> None:
        """End a capture that failed, and forget it."""
        status, graph = self._cuda.cudaStreamEndCapture(stream)
        if int(status) == 0 and int(graph):
            self._cuda.cudaGraphDestroy(graph)
        self._cuda.cudaGetLastError()

    def launch(self, graph: int, stream: int) -> None:
        """Run an executable graph in a stream."""
        self._call("launch a CUDA graph", self._cuda.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: int) -> None:
        """Let an executable graph go."""
        self._call("destroy a CUDA graph", self._cuda.cudaGraphExecDestroy(graph))

    def run_kernel(self, kernel: Callable[..., None], stream: int, *arguments: Any, **options: Any) -> None:
        """Enqueue one of ``_C``'s kernels on a stream."""
        kernel(*arguments, **options, stream=stream)

    def _call(self, what: str, answer: tuple[Any, ...]) -> Any:
        status, *results = answer
        if int(status) != 0:
            name = getattr(status, "name", str(status))
            self._cuda.cudaGetLastError()
            advice = _ADVICE.get(name, "see the CUDA runtime's documentation of this error")
            raise BackendError(f"CUDA could not {what} ({name}): {advice}")
        return results[0] if results else None


def host_view(address: int, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """Host memory as an array that does not own it."""
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    buffer = (ctypes.c_uint8 * count).from_address(address)
    view: NDArray[Any] = np.ctypeslib.as_array(buffer).view(dtype).reshape(shape)
    return view


def _human(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB" if size >= 1 << 20 else f"{size} bytes"
