# SPDX-License-Identifier: Apache-2.0
"""The network itself, in torch: the one runner that needs it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import _C
from ..errors import BackendError, DeepLabError
from ..manifest import Manifest
from ..models import DeepLab
from ..ops.tensors import merge_windows, preprocess
from ..optimize import AppliedRewrite, FusionReport, applied_names, fuse, optimise, unfuse
from ..preprocess import normalise
from .base import check_batch
from .torch_compiled import CompiledNetwork
from .torch_passes import CudaHardware, Hardware, Job, Passes, Size
from .torch_precision import cast, precision_on
from .windows import Window, grid_of, split_windows

_log = logging.getLogger(__name__)
_ANY = (1, 1, 1 << 20)
_MIB = 1 << 20


class TorchRunner:
    """A rewritten network (`deeplab_infer.optimize`) on the CPU, on the fused kernels unless told otherwise.

    Attributes:
        fusion: what runs on fused kernels; None without them.
        compiled: whether torch.compile makes the rest.
    """

    name = "torch"
    _compile_mode: str | None = None

    def __init__(
        self, model: DeepLab, device: str, fused: bool = True, *, precision: str | None = None, compiled: bool = False
    ) -> None:
        """Take a copy of the network.

        Args:
            model: in eval mode; stays as it is.
            device: ``"cpu"`` or ``"cuda:N"``.
            fused: use the fused kernels.
            precision: ``"fp32"`` (also None), ``"tf32"`` (on a GPU), ``"fp16"`` or ``"bf16"``.
            compiled: run through ``torch.compile``.

        Raises:
            BackendError: unknown precision, or one that the device does not have.
        """
        self.device = device
        self.compiled = compiled
        self._precision = precision_on(precision, device)
        network, rewrites = optimise(model)
        unfuse(network).requires_grad_(False)
        self.fusion: FusionReport | None = fuse(network) if fused else None
        for part in self.fusion.left if self.fusion else ():
            _log.warning("%s runs on plain torch: %s", part.name, part.reason)
        cast(network, self._precision.dtype, self.fusion)
        self._channels_last = device != "cpu" and self._precision.channels_last
        layout = torch.channels_last if self._channels_last else torch.contiguous_format
        self._model: DeepLab | None = network.to(device).to(memory_format=layout)  # type: ignore[call-overload]
        self._network: Callable[[Tensor], Tensor] | None = (
            CompiledNetwork(network, self._compile_mode) if compiled else network
        )
        self.manifest = network_manifest(model, self._precision.name, rewrites, {"torch": torch.__version__})

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """See `Runner.run`."""
        check_batch(batch, self.manifest)
        network = self._open()
        x = torch.from_numpy(normalise(batch, self.manifest.config)).to(self._precision.dtype)
        with torch.inference_mode():
            return np.ascontiguousarray(network(x).float().numpy())

    def memory(self) -> dict[str, float]:
        """``weights_mib``: parameters and buffers of the network.

        Raises:
            BackendError: closed.
        """
        self._open()
        assert self._model is not None
        tensors = (*self._model.parameters(), *self._model.buffers())
        return {"weights_mib": sum(one.nbytes for one in tensors) / _MIB}

    def close(self) -> None:
        """Drop the network."""
        self._model = self._network = None

    def _open(self) -> Callable[[Tensor], Tensor]:
        if self._network is None:
            raise BackendError("this network is closed; open it again")
        return self._network


class TorchGpuRunner(TorchRunner):
    """The same network on a GPU: uint8 pixels in, labels out, everything between stays there.

    Passes run in a stream of the runner's own. Calls from several threads take turns: one lock a runner.

    Attributes:
        resizes: `segment` takes images of any size, and resizes them in 8 bits to the pixel as OpenCV does.
    """

    resizes = True
    _compile_mode = "max-autotune-no-cudagraphs"  # whole passes are captured here, with what is around the network

    def __init__(
        self,
        model: DeepLab,
        device: str,
        fused: bool = True,
        *,
        precision: str | None = None,
        compiled: bool = False,
        cuda_graphs: bool = True,
        hardware: Hardware | None = None,
    ) -> None:
        """See `TorchRunner`.

        Args:
            model, device, fused, precision, compiled: as there.
            cuda_graphs: from the second image of a size on, replay the pass as one CUDA graph.
            hardware: where passes run; None is the GPU.
        """
        super().__init__(model, device, fused, precision=precision, compiled=compiled)
        self._hardware = hardware or CudaHardware(torch.device(device))
        self._passes = Passes(self._hardware, self._enqueue, tf32=self._precision.tf32, cuda_graphs=cuda_graphs)
        self._lock = threading.Lock()

    @property
    def cuda_graphs(self) -> bool:
        """Whether passes are captured; False, after a warning, where the driver refused."""
        return self._passes.cuda_graphs

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """See `Runner.run`."""
        check_batch(batch, self.manifest)
        return self._run(Job(batch.shape, (batch.shape[1], batch.shape[2])), batch)[0]

    def segment(
        self, images: NDArray[np.uint8], network: Size, size: Size, *, via: Size | None = None, scores: bool = False
    ) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        """Labels of images in one pass on the GPU; only they come back.

        Args:
            images: uint8 [N, H, W, 3] RGB of any size.
            network: (height, width) at which they enter the network.
            size: (height, width) of the labels.
            via: the reference's first resize of the logits.
            scores: also give the softmax probability of each label.

        Returns:
            labels [N, *size], uint8 up to 256 classes, else int32, and float32 scores or None.

        Raises:
            BackendError: not such images, no memory, or the compiler failed.
        """
        check_batch(images, self.manifest)
        found = self._run(Job(images.shape, network, size, via, scores), images)
        return found[0], found[1] if scores else None

    def segment_windows(
        self, image: NDArray[np.uint8], windows: Sequence[Window], size: Size, *, batch: int, scores: bool = False
    ) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        """Labels of one image from sliding windows, in one pass on the GPU.

        Args:
            image: uint8 [H, W, 3] RGB at the network's size.
            windows: of it, from `place_windows`.
            size: (height, width) of the labels.
            batch: windows that enter the network at once.
            scores: also give the softmax probability of each label.

        Returns:
            labels [*size], uint8 up to 256 classes, else int32, and float32 scores or None.

        Raises:
            BackendError: not such an image, no memory, or the compiler failed.
            DeepLabError: windows that are not those of `place_windows` for this image.
        """
        check_batch(image[None], self.manifest)
        grid = grid_of(windows)
        if grid.size != image.shape[:2]:
            raise DeepLabError(f"the windows are of an image of {list(grid.size)}, got one of {list(image.shape[:2])}")
        job = Job((1, *image.shape), grid.window, size, None, scores, tuple(windows), batch)
        found = self._run(job, image[None])
        return found[0][0], found[1][0] if scores else None

    def memory(self) -> dict[str, float]:
        """As `TorchRunner.memory`, and on the GPU what torch reserved and the most that was in use, for all networks.

        ``device_reserved_mib`` and ``device_peak_mib`` count since the process began, or since
        ``torch.cuda.reset_peak_memory_stats``.
        """
        found = super().memory()
        device = self._hardware.device
        if device.type == "cuda":
            found["device_reserved_mib"] = torch.cuda.memory_reserved(device) / _MIB
            found["device_peak_mib"] = torch.cuda.max_memory_allocated(device) / _MIB
        return found

    def close(self) -> None:
        """Free the network and all graphs; waits for a call that is running."""
        with self._lock:
            self._passes.forget()
            super().close()

    def _run(self, job: Job, images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        with self._lock:
            self._open()
            try:
                return self._passes.run(job, images)
            except torch.cuda.OutOfMemoryError as error:
                raise BackendError(
                    "the GPU's memory is full: use smaller images, a smaller batch, fp16, or another GPU"
                ) from error

    def _enqueue(self, job: Job, source: Tensor) -> list[Tensor]:
        """The whole pass; what is given out as it is, is float32."""
        if job.windows:
            return self._labels(self._merged(job, source[0]), job)
        logits = self._logits(source, job.network)
        return [logits.float().contiguous()] if job.labels is None else self._labels(logits, job)

    def _logits(self, pixels: Tensor, size: Size) -> Tensor:
        config = self.manifest.config
        x = preprocess(
            pixels,
            config.mean,
            config.std,
            size=size,
            dtype=self._precision.dtype,
            reverse_channels=config.channel_order == "bgr",
            channels_last=self._channels_last,
        )
        return self._open()(x)

    def _merged(self, job: Job, image: Tensor) -> Tensor:
        """[1, C, H, W] at the image's size, the mean over the windows."""
        parts = [
            self._logits(torch.stack([image[w.top : w.bottom, w.left : w.right] for w in group]), job.network)
            for group in split_windows(job.windows, job.batch)
        ]
        grid, align_corners = grid_of(job.windows), self.manifest.config.align_corners
        return merge_windows(torch.cat(parts), grid.size, grid.window, grid.stride, align_corners)[None]

    def _labels(self, logits: Tensor, job: Job) -> list[Tensor]:
        assert job.labels is not None
        if not (logits.is_contiguous() or logits.is_contiguous(memory_format=torch.channels_last)):
            logits = logits.contiguous()  # the kernel reads either layout, and no other
        shape = (logits.shape[0], *job.labels)
        kind = getattr(torch, self.manifest.label_dtype)
        results = [torch.empty(shape, dtype=kind, device=logits.device)]
        if job.scores:
            results.append(torch.empty(shape, dtype=torch.float32, device=logits.device))
        _C.upsample_labels(
            logits,
            results[0],
            results[1] if job.scores else None,
            self.manifest.config.align_corners,
            job.via,
            **self._hardware.kernel_options(),
        )
        return results


def open_model(
    model: Any,
    device: str,
    threads: int | None,
    fused: bool = True,
    *,
    precision: str | None = None,
    compiled: bool = False,
    cuda_graphs: bool = True,
) -> TorchRunner:
    """A runner of a network, a checkpoint file, or a config's name with its official or bundled weights.

    Args:
        model: the network, or where it is.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        threads: CPU threads of torch, in the whole process; None leaves them.
        fused, precision, compiled, cuda_graphs: see `TorchRunner` and `TorchGpuRunner`.

    Raises:
        BackendError: not a network, no such device or precision.
    """
    model = load_network(model)
    device = _device(device)
    if threads is not None:
        torch.set_num_threads(threads)
    was_training = model.training
    try:
        model.eval()
        if device == "cpu":
            return TorchRunner(model, device, fused, precision=precision, compiled=compiled)
        return TorchGpuRunner(model, device, fused, precision=precision, compiled=compiled, cuda_graphs=cuda_graphs)
    finally:
        model.train(was_training)


def network_manifest(
    model: DeepLab, precision: str, report: Iterable[AppliedRewrite], tools: dict[str, str]
) -> Manifest:
    """What a network promises that runs without a file: uint8 pixels of any size to logits.

    Args:
        model: with the config and the weights' origin.
        precision: that it is computed in.
        report: of `optimise`.
        tools: versions of what runs it.
    """
    return Manifest(
        config=model.config,
        input_kind="uint8",
        output_kind="logits",
        precision=precision,
        opset=0,
        batch=_ANY,
        height=_ANY,
        width=_ANY,
        checkpoint_sha256=model.checkpoint_sha256,
        checkpoint_source=model.checkpoint_source,
        rewrites=applied_names(report),
        tools=tools,
    )


def load_network(model: Any) -> DeepLab:
    """A network as it is, or from a checkpoint file or a config's name with its official or bundled weights.

    Raises:
        BackendError: something else.
    """
    if isinstance(model, (str, os.PathLike)):
        model = _load(os.fspath(model))
    if not isinstance(model, DeepLab):
        raise BackendError(
            f"cannot run a {type(model).__name__}; give an .onnx file, a checkpoint, a config's name or a DeepLab"
        )
    return model


def _device(device: str) -> str:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = device.partition(":")
    if device != "cpu" and (kind != "cuda" or (number and not number.isdigit())):
        raise BackendError(f"the torch backend has no device {device!r}; use auto, cpu, cuda or cuda:N")
    if kind == "cpu":
        return device
    if not torch.cuda.is_available():
        raise BackendError("this machine has no CUDA GPU that torch can use; use --device cpu")
    index = int(number) if number else torch.cuda.current_device()
    if index >= torch.cuda.device_count():
        raise BackendError(f"there is no GPU {index} for torch; the last one is cuda:{torch.cuda.device_count() - 1}")
    return f"cuda:{index}"


def _load(source: str) -> DeepLab:
    from .. import checkpoints
    from ..configs import list_configs, load_config

    if source in list_configs():
        return checkpoints.load("auto", load_config(source))
    return checkpoints.load(source)
