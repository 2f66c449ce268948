# SPDX-License-Identifier: Apache-2.0
"""Networks on a GPU without torch: uint8 pixels in, labels out, the whole pass as one CUDA graph a shape."""

from __future__ import annotations

import logging
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import _C
from ..engine_manifest import Profile
from ..errors import BackendError, DeepLabError
from ..manifest import Manifest
from .base import check_batch
from .cuda import Cuda
from .gpu_array import GpuArray
from .windows import Grid, Window, grid_of, split_windows

Size = tuple[int, int]
_log = logging.getLogger(__name__)
_ALIGNMENT = 256
_CLOSED = "closed"
_PASSES_KEPT = 8  # shapes whose context and graph are kept, a slot


class Context(Protocol):
    """A network at one input shape."""

    def prepare(self, profile: int, shape: tuple[int, ...], stream: int) -> None:
        """Choose the profile and the input's shape."""
        ...

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Shape of an output at that input."""
        ...

    def set_memory(self, address: int, size: int) -> None:
        """Temporary memory for the runs that follow."""
        ...

    def enqueue(self, addresses: dict[str, int], stream: int) -> None:
        """Run in a stream, with input and output at these addresses."""
        ...


class Engine(Protocol):
    """What runs the network: TensorRT, or ONNX Runtime on a GPU.

    Attributes:
        workspace: bytes of temporary memory that a context needs.
    """

    workspace: int

    def create_context(self) -> Context:
        """A context of its own for each shape."""
        ...

    def close(self) -> None:
        """Let it go."""
        ...


@dataclass(frozen=True)
class Job:
    """What one pass does; passes of the same job share a context and a CUDA graph.

    Attributes:
        source: shape of the images as they come: [N, H, W, 3] uint8, or the network's own float input.
        network: (height, width) at which they enter the network.
        labels: (height, width) of the labels; None for the network's own output.
        via: the reference's first resize of the logits, where it is not the identity.
        scores: whether the probability of each label is wanted too.
        windows: whether the images are uint8 windows that are cut out of a larger image on the GPU.
    """

    source: tuple[int, ...]
    network: Size
    labels: Size | None = None
    via: Size | None = None
    scores: bool = False
    windows: bool = False


@dataclass
class _Pass:
    """A job's context, its buffers and, from the second run on, its graph."""

    context: Context
    input: Any  # what the engine reads
    output: Any  # what it writes
    results: list[Any]  # on the device, to be copied to the host
    source: Any
    runs: int = 0
    graph: int | None = None


class GpuRunner:
    """A network with a pool of slots: stream, memory and contexts that one call uses at a time.

    With profiles, a slot's memory for the network is one allocation, made at the start for their largest shapes.
    Other buffers are made when they are first needed, and only grow.

    Attributes:
        name: backend, e.g. ``"tensorrt"``.
        device: e.g. ``"cuda:0"``.
        manifest: of the exported model; sizes are those of the profiles.
        profiles: what the network accepts; empty: whatever the manifest does.
        cuda_graphs: whether passes are captured; turned off, with a warning, where the driver refuses.
    """

    def __init__(
        self,
        engine: Engine,
        manifest: Manifest,
        cuda: Cuda,
        name: str,
        *,
        profiles: tuple[Profile, ...] = (),
        command: str = "",
        contexts: int = 2,
        cuda_graphs: bool = True,
    ) -> None:
        """Set up slots.

        Args:
            engine: opened.
            manifest: its promises.
            cuda: the GPU.
            name: of the backend.
            profiles: of an engine.
            command: that made the engine, for messages.
            contexts: calls that may run at once; each takes memory.
            cuda_graphs: capture passes.

        Raises:
            BackendError: no memory for a slot.
        """
        if contexts < 1:
            raise BackendError(f"contexts must be at least 1, got {contexts}")
        self.manifest, self.profiles, self.name = manifest, profiles, name
        self.device = f"cuda:{cuda.index}"
        self.cuda_graphs = cuda_graphs
        self._command = command
        self._engine: Engine | None = engine
        self._cuda = cuda
        self._free: queue.LifoQueue[_Slot | str | None] = queue.LifoQueue()
        self._contexts = contexts
        self._lock = threading.Lock()
        for _ in range(contexts - 1):
            self._free.put(None)  # made when a second call comes while the first runs
        self._free.put(_Slot(self, engine, cuda))

    @property
    def contexts(self) -> int:
        """Calls that may run at once."""
        return self._contexts

    # -- use

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """See `Runner.run`."""
        check_batch(batch, self.manifest)
        height, width = batch.shape[1:3] if self.manifest.input_kind == "uint8" else batch.shape[2:4]
        self.profile_of(batch.shape[0], (height, width))
        return self._run_on_host(batch, Job(batch.shape, (height, width)))[0]

    def segment(
        self,
        images: NDArray[np.uint8],
        network: Size,
        size: Size,
        *,
        via: Size | None = None,
        scores: bool = False,
    ) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        """Labels of images in one pass on the GPU; only they come back.

        Args:
            images: uint8 [N, H, W, 3] RGB. With a uint8 input they have the network's size already; with a float input
                they are resized and normalised on the GPU.
            network: (height, width) at which they enter the network.
            size: (height, width) of the labels.
            via: the reference's first resize of the logits.
            scores: also give the softmax probability of each label.

        Returns:
            labels [N, *size], uint8 up to 256 classes, else int32, and float32 scores or None.

        Raises:
            BackendError: sizes that the engine was not built for, or labels in the graph with ``scores``.
        """
        found = self._run_on_host(images, self.job(images.shape, network, size, via, scores))
        return found[0], found[1] if scores else None

    def segment_gpu(self, images: GpuArray, network: Size, size: Size, *, via: Size | None = None) -> GpuArray:
        """`segment` of images that are on the GPU, used in place; the result stays there.

        Work is enqueued on the stream that the images are in, and nothing waits.

        Returns:
            labels [N, *size], in that stream.
        """
        job = self.job(images.shape, network, size, via, False)
        if images.device != self._cuda.index:
            raise BackendError(f"the image is on GPU {images.device}, the engine on GPU {self._cuda.index}")
        with self._slot() as slot:
            stream = images.stream or slot.stream
            result = self._cuda.new_array((images.shape[0], *size), self.manifest.label_dtype, stream)
            slot.run_in_place(job, images, result, stream)
            return result

    def segment_windows(
        self, image: NDArray[np.uint8], windows: Sequence[Window], size: Size, *, batch: int, scores: bool = False
    ) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        """Labels of one image from overlapping windows, whose logits stay on the GPU.

        Args:
            image: uint8 [H, W, 3] RGB at the network's size.
            windows: from `place_windows`.
            size: (height, width) of the labels.
            batch: windows run at once; fewer where no profile takes so many.
            scores: also give the softmax probability of each label.

        Returns:
            labels [*size], uint8 up to 256 classes, else int32, and float32 scores or None.

        Raises:
            BackendError: windows that the engine was not built for, or labels in the graph.
            DeepLabError: windows that are not those of `place_windows` for this image.
        """
        grid = grid_of(windows)
        if grid.size != image.shape[:2]:
            raise DeepLabError(f"the windows are of an image of {list(grid.size)}, got one of {list(image.shape[:2])}")
        if self.manifest.output_kind == "labels":
            raise BackendError("this engine gives labels, and windows need logits; export it with --output logits")
        parts = split_windows(windows, min(batch, self._batch_limit(grid.window)))
        counts = [self._accepted(len(part), grid.window) for part in parts]
        for count in counts:
            self.profile_of(count, grid.window)
        jobs = [Job((count, *grid.window, 3), grid.window, windows=True) for count in counts]
        with self._slot() as slot:
            found = slot.run_windows(image, grid, list(zip(parts, jobs, strict=True)), size, scores)
        return found[0][0], found[1][0] if scores else None

    def job(self, source: tuple[int, ...], network: Size, size: Size, via: Size | None, scores: bool) -> Job:
        """Check a pass before anything runs.

        Raises:
            BackendError: see `segment`.
        """
        manifest = self.manifest
        if manifest.input_kind == "uint8" and source[1:3] != network:
            raise BackendError(
                f"this engine takes pixels at the network's size {list(network)}, got {list(source[1:3])}; export with "
                "--input float to have images resized on the GPU"
            )
        if manifest.output_kind == "labels" and (scores or size != network):
            raise BackendError(
                "this engine gives labels at the network's size and no scores; export it with --output logits"
            )
        self.profile_of(source[0], network)
        return Job(source, network, size, via, scores)

    def close(self) -> None:
        """Free the GPU's memory; waits for calls that are running."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is None:
            return
        for slot in [self._free.get() for _ in range(self._contexts)]:
            if isinstance(slot, _Slot):
                slot.close()
        self._free.put(_CLOSED)  # for a call that was already waiting
        engine.close()

    def profile_of(self, batch: int, size: Size) -> int:
        """Number of the first profile that takes an input of these sizes.

        Raises:
            BackendError: none does.
        """
        for index, profile in enumerate(self.profiles):
            if profile.accepts(batch, *size):
                return index
        if not self.profiles:
            return 0
        listed = "; ".join(map(str, self.profiles))
        again = f"\nit was built with: {self._command}" if self._command else ""
        raise BackendError(
            f"an input of {batch} x {size[0]} x {size[1]} is outside what the engine was built for (batch x height x "
            f"width: {listed}); build it with --batch, --height and --width that include it{again}"
        )

    def _batch_limit(self, size: Size) -> int:
        """Largest batch of inputs of a size."""
        limits = [p.batch for p in self._profiles_of(size)]
        return max((high for _, _, high in limits), default=1)

    def _accepted(self, count: int, size: Size) -> int:
        """Smallest batch that holds so many inputs."""
        limits = [p.batch for p in self._profiles_of(size)]
        return min((max(count, low) for low, _, high in limits if high >= count), default=count)

    def _profiles_of(self, size: Size) -> list[Profile]:
        if not self.profiles:
            return [Profile(self.manifest.batch, self.manifest.height, self.manifest.width)]
        return [p for p in self.profiles if p.accepts(p.batch[0], *size)]

    # -- how

    def _run_on_host(self, images: NDArray[Any], job: Job) -> list[NDArray[Any]]:
        with self._slot() as slot:
            return slot.run(job, images)

    @contextmanager
    def _slot(self) -> Iterator[_Slot]:
        with self._lock:
            engine = self._engine
        self._cuda.use()
        slot = _CLOSED if engine is None else self._free.get()
        try:
            if slot == _CLOSED or engine is None:
                raise BackendError("this engine is closed; open it again")
            if not isinstance(slot, _Slot):
                slot = _Slot(self, engine, self._cuda)
            yield slot
        finally:
            self._free.put(slot)


class _Slot:
    """One stream and its memory."""

    def __init__(self, runner: GpuRunner, engine: Engine, cuda: Cuda) -> None:
        self._runner, self._engine, self._cuda = runner, engine, cuda
        self._manifest: Manifest = runner.manifest
        self._passes: OrderedDict[Job, _Pass] = OrderedDict()
        self._device: dict[str, tuple[int, int]] = {}  # name -> address, bytes
        self._host: dict[str, tuple[int, int]] = {}
        largest = {**_largest(runner.manifest, runner.profiles), "workspace": engine.workspace}
        self._block = cuda.malloc(sum(map(_align, largest.values())))
        self.stream = cuda.create_stream()
        self._busy = cuda.create_event()
        end = self._block
        for name, size in largest.items():
            self._device[name] = (end, size)
            end += _align(size)
        self._addresses_in_block = range(self._block, end)

    def run(self, job: Job, images: NDArray[Any]) -> list[NDArray[Any]]:
        """Copy images in, run, copy results out, wait."""
        cuda = self._cuda
        current = self._pass(job)
        staged = cuda.host_view(self._pinned("in", images.nbytes), images.shape, images.dtype)
        np.copyto(staged, images)
        outputs = [self._pinned(f"out {i}", result.nbytes) for i, result in enumerate(current.results)]
        self._replay(current, lambda: self._transfer_and_enqueue(job, current, outputs))
        cuda.synchronise(self.stream)
        return self._copies(outputs, current.results)

    def run_windows(
        self, image: NDArray[np.uint8], grid: Grid, parts: list[tuple[Sequence[Window], Job]], size: Size, scores: bool
    ) -> list[NDArray[Any]]:
        """Copy an image in, run the network on its windows, merge their logits, copy labels out, wait."""
        cuda, config = self._cuda, self._manifest.config
        count = sum(len(part) for part, _ in parts)
        shape = self._pass(parts[0][1]).output.shape[1:]
        pixels = self._array("image", image.shape, np.uint8, in_passes=False)
        logits = self._array("windows", (count, *shape), np.float32, in_passes=False)
        merged = self._array("map", (config.num_classes, *grid.size), np.float32, in_passes=False)
        results = [self._array("map labels", (1, *size), self._manifest.label_dtype, in_passes=False)]
        if scores:
            results.append(self._array("map scores", (1, *size), np.float32, in_passes=False))
        staged = self._pinned("in", image.nbytes)
        outputs = [self._pinned(f"out {i}", result.nbytes) for i, result in enumerate(results)]
        np.copyto(cuda.host_view(staged, image.shape, np.uint8), image)
        cuda.copy(_address(pixels), staged, image.nbytes, self.stream)
        target = _address(logits)
        for part, job in parts:
            target += self._run_part(job, part, pixels, target)
        run, stream = cuda.run_kernel, self.stream
        run(_C.merge_windows, stream, logits, merged, grid.window, grid.stride, config.align_corners)
        whole = cuda.array(_address(merged), (1, *merged.shape), np.float32)
        run(_C.upsample_labels, stream, whole, results[0], results[1] if scores else None, config.align_corners, None)
        for address, result in zip(outputs, results, strict=True):
            cuda.copy(address, _address(result), result.nbytes, stream)
        cuda.synchronise(stream)
        return self._copies(outputs, results)

    def _run_part(self, job: Job, windows: Sequence[Window], image: Any, target: int) -> int:
        """Windows through the network, their logits to an address; gives the bytes written there."""
        current = self._pass(job)
        row, source = image.shape[1] * 3, _address(current.source)
        width = windows[0].size[1] * 3
        for index in range(job.source[0]):
            window = windows[min(index, len(windows) - 1)]  # the last fills a batch up
            rows = window.size[0]
            start = _address(image) + window.top * row + window.left * 3
            self._cuda.copy_rows(source + index * rows * width, width, start, row, width, rows, self.stream)
        self._replay(current, lambda: self._enqueue(job, current, self.stream, current.source, current.results))
        size = int(current.output.nbytes) // job.source[0] * len(windows)
        self._cuda.copy(target, _address(current.output), size, self.stream)
        return size

    def run_in_place(self, job: Job, images: GpuArray, labels: GpuArray, stream: int) -> None:
        """Read images where they are and write labels where they belong, in the caller's stream."""
        cuda = self._cuda
        current = self._pass(job)
        cuda.wait(stream, self._busy)  # the slot's memory may still be read by an earlier call
        source = cuda.array(images.address, images.shape, images.dtype)
        self._enqueue(job, current, stream, source, [cuda.array(_address(labels), labels.shape, labels.dtype)])
        cuda.record(self._busy, stream)
        cuda.wait(self.stream, self._busy)

    def close(self) -> None:
        """Give everything back."""
        cuda = self._cuda
        cuda.use()
        cuda.synchronise(self.stream)
        self._forget_passes()
        for name, (address, held) in self._device.items():
            if held and not self._in_block(name):
                cuda.free(address)
        for address, _ in self._host.values():
            cuda.free_host(address)
        cuda.free(self._block)
        cuda.destroy_event(self._busy)
        cuda.destroy_stream(self.stream)

    def _copies(self, addresses: list[int], results: list[Any]) -> list[NDArray[Any]]:
        """Results out of pinned memory, which the next call writes to."""
        return [
            self._cuda.host_view(address, result.shape, result.dtype).copy()
            for address, result in zip(addresses, results, strict=True)
        ]

    def _replay(self, current: _Pass, work: Callable[[], None]) -> None:
        """Enqueue a pass's work, which is the same in every run, as its graph where there is one."""
        if current.graph is not None:
            self._cuda.launch(current.graph, self.stream)
        else:
            self._first_runs(current, work)
        current.runs += 1

    def _first_runs(self, current: _Pass, work: Callable[[], None]) -> None:
        """Run once as it is (TensorRT sets itself up), then capture what was run and launch that."""
        if not self._runner.cuda_graphs or current.runs == 0:
            work()
            return
        try:
            self._cuda.begin_capture(self.stream)
            work()
            current.graph = self._cuda.end_capture(self.stream)
        except (BackendError, RuntimeError) as error:
            self._cuda.abandon_capture(self.stream)
            self._runner.cuda_graphs = False
            _log.warning("running without CUDA graphs, a little slower: %s", error)
            work()
            return
        self._cuda.launch(current.graph, self.stream)

    def _transfer_and_enqueue(self, job: Job, current: _Pass, outputs: list[int]) -> None:
        source = current.source
        self._cuda.copy(_address(source), self._host["in"][0], source.nbytes, self.stream)
        self._enqueue(job, current, self.stream, source, current.results)
        for address, result in zip(outputs, current.results, strict=True):
            self._cuda.copy(address, _address(result), result.nbytes, self.stream)

    def _enqueue(self, job: Job, current: _Pass, stream: int, source: Any, results: list[Any]) -> None:
        """Preprocess, network, labels: what of it the engine does not do itself."""
        config, run = self._manifest.config, self._cuda.run_kernel
        network_input = source
        if current.input is not current.source:
            run(
                _C.preprocess,
                stream,
                source,
                current.input,
                list(config.mean),
                list(config.std),
                reverse_channels=config.channel_order == "bgr",
            )
            network_input = current.input
        own_labels = job.labels is not None and self._manifest.output_kind == "logits"
        output = current.output if own_labels else results[0]
        addresses = {"image": _address(network_input), self._manifest.output_kind: _address(output)}
        current.context.enqueue(addresses, stream)
        if own_labels:
            scores = results[1] if job.scores else None
            run(_C.upsample_labels, stream, output, results[0], scores, config.align_corners, job.via)

    def _pass(self, job: Job) -> _Pass:
        if job in self._passes:
            self._passes.move_to_end(job)
            return self._passes[job]
        while len(self._passes) >= _PASSES_KEPT:
            _, oldest = self._passes.popitem(last=False)
            self._drop_graph(oldest)
        manifest = self._manifest
        context = self._engine.create_context()
        context.set_memory(*self._device["workspace"])
        floats = manifest.input_kind == "float"
        batch = job.source[0]
        shape = (batch, 3, *job.network) if floats else (batch, *job.network, 3)
        context.prepare(self._runner.profile_of(batch, job.network), shape, self.stream)
        self._cuda.synchronise(self.stream)  # the profile is set before another stream may use the context
        output_shape = context.output_shape(manifest.output_kind)
        label_type = manifest.label_dtype
        output_type = np.float32 if manifest.output_kind == "logits" else label_type
        network_input = self._array("input", shape, np.float32 if floats else np.uint8)
        output = self._array("output", output_shape, output_type)
        pixels = floats and (job.labels is not None or job.windows)
        source = self._array("source", job.source, np.uint8) if pixels else network_input
        results = [output]
        if job.labels is not None and manifest.output_kind == "logits":
            size = (batch, *job.labels)
            results = [self._array("labels", size, label_type)]
            if job.scores:
                results.append(self._array("scores", size, np.float32))
        self._passes[job] = current = _Pass(context, network_input, output, results, source)
        return current

    def _buffer(self, name: str, size: int, in_passes: bool = True) -> int:
        """Device memory that only grows; passes, which may have used the old one, are forgotten."""
        address, held = self._device.get(name, (0, 0))
        if held < size:
            self._cuda.synchronise(self.stream)
            if in_passes:
                self._forget_passes()
            if held and not self._in_block(name):
                self._cuda.free(address)
            address = self._cuda.malloc(size)
            self._device[name] = (address, size)
        return address

    def _array(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, in_passes: bool = True) -> Any:
        address = self._buffer(name, int(np.prod(shape)) * np.dtype(dtype).itemsize, in_passes)
        return self._cuda.array(address, shape, dtype)

    def _in_block(self, name: str) -> bool:
        return self._device[name][0] in self._addresses_in_block

    def _pinned(self, name: str, size: int) -> int:
        address, held = self._host.get(name, (0, 0))
        if held < size:
            for current in self._passes.values():  # their graphs copy to and from the old memory
                self._drop_graph(current)
            if held:
                self._cuda.free_host(address)
            address = self._cuda.malloc_host(size)
            self._host[name] = (address, size)
        return address

    def _forget_passes(self) -> None:
        for current in self._passes.values():
            self._drop_graph(current)
        self._passes.clear()

    def _drop_graph(self, current: _Pass) -> None:
        if current.graph is not None:
            self._cuda.destroy_graph(current.graph)
            current.graph = None


def _largest(manifest: Manifest, profiles: tuple[Profile, ...]) -> dict[str, int]:
    """Bytes of the largest input and output over all profiles."""
    inputs = outputs = 0
    for profile in profiles:
        batch, height, width = profile.batch[2], profile.height[2], profile.width[2]
        inputs = max(inputs, batch * height * width * 3 * (1 if manifest.input_kind == "uint8" else 4))
        if manifest.output_kind == "labels":
            outputs = max(outputs, batch * height * width * 4)
        else:
            stride = manifest.config.logits_stride
            cells = -(-height // stride) * -(-width // stride)
            outputs = max(outputs, batch * manifest.config.num_classes * cells * 4)
    return {"input": inputs, "output": outputs}


def _align(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _address(array: Any) -> int:
    return int(array.address) if isinstance(array, GpuArray) else int(array.ctypes.data)
