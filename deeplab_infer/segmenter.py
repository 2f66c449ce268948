# SPDX-License-Identifier: Apache-2.0
"""`Segmenter`: one call from an image to a segmentation, on any backend."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from .configs import ModelConfig
from .errors import DeepLabError, ImageError
from .images import MAX_PIXELS, as_rgb
from .manifest import Manifest
from .pixels import Pixels, open_pixels
from .preprocess import Size, network_size, resize_image
from .runtime.base import Runner
from .runtime.batches import run_batches, split_batch
from .runtime.gpu_array import GpuArray, as_gpu_pixels, is_gpu_array
from .runtime.opening import open_runner
from .runtime.streamed import Band, Resized, WholeMap, collect
from .runtime.tta import plan_passes, softmax
from .segmentation import Segmentation
from .sliding import MEMORY, Progress, Slider, Sliding, even_default

if TYPE_CHECKING:
    from .streaming import Stream

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Wanted:
    """What a call asks for besides labels."""

    scores: bool
    probabilities: bool
    progress: Progress | None = None


class Segmenter:
    """A loaded model that segments images.

    >>> with Segmenter("model.onnx") as segmenter:
    ...     result = segmenter.predict("street.png")

    May be shared between threads.

    Attributes:
        config: the model's `ModelConfig`.
        classes, palette: names and RGB colours of its classes.
    """

    def __init__(
        self,
        model: Any,
        *,
        backend: str = "auto",
        device: str = "auto",
        color: str = "rgb",
        mode: str | None = None,
        window: Size | None = None,
        window_stride: Size | None = None,
        window_batch: int | None = None,
        windows: str = "reference",
        blend: str = "mean",
        memory: int = MEMORY,
        max_pixels: int = MAX_PIXELS,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        threads: int | None = None,
        fused: bool = True,
        precision: str | None = None,
        compiled: bool = False,
        contexts: int = 2,
        cuda_graphs: bool = True,
        weights: str | os.PathLike[str] | None = None,
    ) -> None:
        """Load a model.

        Args:
            model: a TensorRT ``.engine``, ``.onnx`` or OpenVINO ``.xml`` file; or, with torch, a `DeepLab`, a
                checkpoint, or a config's name.
            backend: ``"auto"`` (on a CPU the fastest one installed, docs/cpu.md), ``"tensorrt"``, ``"onnxruntime"``,
                ``"onnxruntime-tensorrt"``, ``"onnxruntime-rtx"``, ``"openvino"`` or ``"torch"``.
            device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
            color: channel order of ndarrays and tensors given to `predict`: ``"rgb"`` (default) or ``"bgr"``,
                which is what ``cv2.imread`` returns. Files, bytes and PIL images know their own order.
            mode: ``"whole"`` or ``"slide"``; None takes the config's.
            window, window_stride: (height, width) of slide mode; None takes the config's (a stride of ``"even"``
                windows: so that they overlap by an eighth).
            window_batch: windows run at once; None: 4, and 8 on an engine, whose memory is taken for its largest batch
                anyway. Never more than the model was exported for.
            windows: ``"reference"``, as the published figures were made, or ``"even"``: as few as keep the overlap of
                the stride, evenly spread.
            blend: how windows meet: ``"mean"`` (the reference's), or weights that fall towards a window's border,
                ``"linear"`` or ``"hann"``. docs/large_images.md has the formulas.
            memory: bytes that a map of float logits may take; larger images are done in bands of rows, with the same
                labels. On a GPU, bytes of its memory.
            max_pixels: image files with more pixels are refused before they are decoded.
            scales, flip: multi-scale and mirrored passes whose probabilities are averaged.
            threads: CPU threads of the backend and of our own kernels; None uses all: one a physical core on OpenVINO.
            fused: let the torch backend run on the fused kernels, and OpenVINO on Winograd's convolutions.
            precision: what a network is computed in: ``"fp32"`` (also None), ``"bf16"``, and on torch ``"tf32"`` or
                ``"fp16"``; ``"fastest"`` is bf16 on a CPU that computes in it, else fp32. Exported files carry their
                own, but OpenVINO also computes float32 ones in bf16 (docs/cpu.md).
            compiled: let the torch backend compile the network (``torch.compile``); the first images of a size take
                minutes. 8 sizes are compiled; further ones run without, with a warning.
            contexts: calls that may run at once on an engine; each takes GPU memory.
            cuda_graphs: let the passes on a GPU be replayed as CUDA graphs.
            weights: an ONNX file of the same network, whose weights replace those of an engine built with ``--refit``.

        Raises:
            BackendError: no such backend or device here.
            ModelFileError: the file is missing, damaged, or was not written by deeplab-export.
            DeepLabError: options that contradict each other or the model.
        """
        self._threads = threads
        self._runner: Runner | None = None
        runner = open_runner(
            model,
            backend=backend,
            device=device,
            threads=threads,
            fused=fused,
            precision=precision,
            compiled=compiled,
            contexts=contexts,
            cuda_graphs=cuda_graphs,
            weights=weights,
        )
        self.config: ModelConfig = runner.manifest.config
        self.classes, self.palette = self.config.classes, self.config.palette
        self._color = color
        self._mode = mode or self.config.test_mode
        if window_batch is None:
            window_batch = 8 if getattr(runner, "profiles", ()) else 4
        self._scales, self._flip, self._max_pixels = tuple(scales), flip, max_pixels
        window = window or self.config.window
        stride = window_stride or (even_default(window) if windows == "even" else self.config.window_stride)
        batch = min(window_batch, runner.manifest.batch[2])
        self._sliding = Sliding(window, stride, windows, blend, batch, memory)
        try:
            self._check_options(runner, window_batch)
        except DeepLabError:
            runner.close()
            raise
        self._runner = runner
        if threads is None:
            self._threads = getattr(runner, "threads", None)

    # -- use

    @overload
    def predict(
        self,
        image: list[Any],
        *,
        color: str | None = ...,
        scores: bool = ...,
        probabilities: bool = ...,
        progress: Progress | None = ...,
    ) -> list[Segmentation]: ...
    @overload
    def predict(
        self,
        image: Any,
        *,
        color: str | None = ...,
        scores: bool = ...,
        probabilities: bool = ...,
        progress: Progress | None = ...,
    ) -> Segmentation: ...
    def predict(
        self,
        image: Any,
        *,
        color: str | None = None,
        scores: bool = False,
        probabilities: bool = False,
        progress: Progress | None = None,
    ) -> Segmentation | list[Segmentation]:
        """Segment one image, or a list of them.

        Args:
            image: a path, encoded bytes, a PIL image, an ndarray [H, W], [H, W, 3] or [H, W, 4] (uint8, uint16, or
                float 0..1), a torch tensor [C, H, W], or a list of these. A list is run in batches where
                neighbouring images have one size. Any size from one pixel. Anything else with shape, dtype and slicing
                (zarr, HDF5) is an image too; in slide mode a large one is read in pieces. Engines also take uint8
                [H, W, 3] RGB arrays on their GPU (``__cuda_array_interface__``: CuPy, Numba, PyCUDA, torch), which are
                used in place.
            color: channel order of arrays and tensors for this call.
            scores: also give the softmax probability of each pixel's class.
            probabilities: also give the probabilities of all classes: C x H x W float32.
            progress: called with (windows done, windows in all) during an image that is done in bands.

        Returns:
            A `Segmentation` at the size of the image, or a list of them.

        Raises:
            ImageError: not an image.
            DeepLabError: scores of a model that gives labels, a size that the model was not exported for, or
                probabilities that take more than ``memory``.
        """
        wanted = _Wanted(scores, probabilities, progress)
        self._check_scores(scores or probabilities)
        if isinstance(image, list):
            return self._predict_list(image, color or self._color, wanted)
        return self._predict_one(image, color or self._color, wanted)

    def stream(
        self,
        source: Any,
        *,
        batch: int | None = None,
        latency_ms: float | None = None,
        drop: bool = False,
        smooth: int = 0,
        scores: bool = False,
        every: int = 1,
        **options: Any,
    ) -> Stream:
        """Segment a folder, a video, a camera or any iterable; reading, inference and your code run at the same time.

        Args:
            source: a path or pattern of images and videos, a folder, an address (``rtsp://``, ``http://``), a device
                (``/dev/video0``), a list of these, an array [N, H, W, 3], or an iterable of what `predict` takes.
                Videos and cameras need PyAV: ``pip install 'deeplab-infer[video]'``.
            batch: images at once at most; None: one on a CPU, else as many as the model takes, 8 at most.
            latency_ms: how long an image waits for others; None: 50 for cameras and iterables, else until a batch is
                full.
            drop: of a camera, let the newest frame take the place of the oldest that waits; ``dropped`` counts.
            smooth: frames, 2..255, over which each pixel's label is voted on; 0 for none. docs/streams.md has the rule.
            scores: also give the softmax probability of each pixel's class; not with ``smooth``.
            every: only each so many-th frame of a source.
            options: further fields of `deeplab_infer.streaming.StreamOptions`: ``color``; ``decoder`` (``"auto"``,
                ``"cpu"``, ``"cuda"``); ``reconnect`` (`Reconnect`: attempts, first_s, cap_s); ``timeout_s``;
                ``input_options`` of FFmpeg; ``ahead``, bytes of images in memory; ``on_error``, called with each
                `Failure` instead of a warning; ``progress`` as in `predict`.

        Returns:
            An iterator of `Segmentation` in the order of the source, with ``frame`` (from 0 in each source), ``time_s``
            (presentation time; None for images) and ``source`` in the metadata. What cannot be read is reported and
            passed over. Leave it early with ``close()`` or a ``with`` statement.

        Raises:
            ImageError: the source cannot be opened, or nothing of it could be read; while iterating: a camera is gone.
            BackendError: PyAV or the decoder asked for is not there.
            DeepLabError: options that do not go together.
        """
        from .streaming.stream import Stream, StreamOptions

        self._check_scores(scores)
        given = {"color": self._color, "max_pixels": self._max_pixels, **options}
        known = {option.name for option in fields(StreamOptions)}
        if unknown := sorted(set(given) - known):
            raise DeepLabError(f"stream has no option {', '.join(unknown)}; there are {', '.join(sorted(known))}")
        chosen = StreamOptions(batch, latency_ms, drop, smooth, scores, every, **given)
        return Stream(self, source, chosen)

    def predict_bands(
        self, image: Any, *, color: str | None = None, scores: bool = False, progress: Progress | None = None
    ) -> Iterator[Band]:
        """Segment an image in windows, or several times, and give its rows away as they are done, from the top.

        For answers that should never be whole in memory. `predict` gives the same labels.

        Args:
            image: one image, as in `predict`.
            color, scores, progress: as in `predict`.

        Yields:
            `Band`: ``top``, ``labels`` [rows, W], and ``scores`` where asked for. Their heights differ.

        Raises:
            DeepLabError: a model in whole mode without averaging; otherwise as `predict`.
        """
        if self._mode != "slide" and not self._averaged:
            raise DeepLabError("an image in whole mode has no bands; open the model with mode='slide' and a window")
        self._check_scores(scores)
        pixels = self._open_pixels(image, color or self._color)
        if self._averaged:
            return self._average(pixels, _Wanted(scores, False, progress))
        return self._slider.bands(pixels, self._network_size(*pixels.size), scores, False, progress)[0]

    def predict_gpu(self, image: Any) -> GpuArray:
        """Segment an image that is on the GPU and leave the labels there; nothing waits.

        Args:
            image: uint8 [H, W, 3] or [N, H, W, 3] RGB with ``__cuda_array_interface__``, on the engine's GPU; work is
                enqueued on its stream.

        Returns:
            labels [H, W] or [N, H, W], uint8 up to 256 classes, else int32, in that stream.

        Raises:
            ImageError: another type, shape or layout.
            DeepLabError: not an engine, or not whole mode without averaging.
        """
        runner = self._open()
        if not hasattr(runner, "segment_gpu"):
            raise DeepLabError(f"backend {runner.name!r} does not work on arrays on a GPU; open a TensorRT engine")
        if not is_gpu_array(image):
            raise ImageError(f"a {type(image).__name__} is not an array on a GPU; predict takes images in host memory")
        if self._mode != "whole" or self._averaged:
            raise DeepLabError("images on the GPU are segmented whole and once; copy them to the host for other modes")
        pixels = as_gpu_pixels(image)
        shape = (pixels.shape[1], pixels.shape[2])
        size = self._network_size(*shape)
        labels = runner.segment_gpu(pixels, size, shape, via=self._via(shape, size))
        if len(image.__cuda_array_interface__["shape"]) == 3:
            labels.shape = shape
        return labels

    @property
    def manifest(self) -> Manifest:
        """What the model promises: sizes it accepts, precision, where its weights came from."""
        return self._open().manifest

    @property
    def largest_batch(self) -> int:
        """Images that `predict` runs at once at most; 1 in slide mode and where passes are averaged."""
        if self._mode != "whole" or self._averaged:
            return 1
        return min(self._open().manifest.batch[2], 8)

    @property
    def concurrency(self) -> int:
        """Calls that are worth running at once: on an engine one is copied while another one is computed."""
        return min(2, getattr(self._open(), "contexts", 1))

    def batch_key(self, height: int, width: int) -> Size:
        """Neighbours in a list of which this is equal enter the network together.

        That is the size at which they enter it, or on an engine their own: a pass on the GPU ends at one size too.
        """
        return (height, width) if hasattr(self._open(), "segment") else self._network_size(height, width)

    def describe(self) -> dict[str, Any]:
        """How this segmenter runs: backend, device, precision, mode, sizes; JSON-able."""
        runner = self._open()
        manifest = runner.manifest
        description: dict[str, Any] = {
            "config": self.config.name,
            "backend": runner.name,
            "device": runner.device,
            "precision": manifest.precision,
            "mode": self._mode,
            "scales": list(self._scales),
            "flip": self._flip,
            "rewrites": list(manifest.rewrites),
        }
        fusion = getattr(runner, "fusion", None)
        if runner.name == "torch":
            description["fused_kernels"] = 0 if fusion is None else len(fusion.fused)
            description["compiled"] = bool(getattr(runner, "compiled", False))
        if hasattr(runner, "compute"):
            description |= {"compute": runner.compute, "threads": self._threads}
        if hasattr(runner, "cuda_graphs"):
            description["cuda_graphs"] = runner.cuda_graphs
        if self._mode == "slide":
            description |= self._sliding.describe()
        return description

    def close(self) -> None:
        """Free the model; the segmenter cannot be used afterwards."""
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def __enter__(self) -> Segmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- how

    def _open(self) -> Runner:
        if self._runner is None:
            raise DeepLabError("this segmenter is closed; open the model again")
        return self._runner

    @property
    def _slider(self) -> Slider:
        return Slider(self._sliding, self._open(), self._threads)

    def _check_options(self, runner: Runner, window_batch: int) -> None:
        if self._color not in ("rgb", "bgr"):
            raise DeepLabError(f"color {self._color!r} is not 'rgb' or 'bgr'")
        if self._mode not in ("whole", "slide"):
            raise DeepLabError(f"mode {self._mode!r} is not 'whole' or 'slide'")
        if window_batch < 1:
            raise DeepLabError(f"window_batch must be at least 1, got {window_batch}")
        plan_passes(1, 1, self.config.test_scale, self._scales, self._flip)
        if self._mode == "slide":
            self._sliding.check()
        averaged = self._averaged
        if runner.manifest.output_kind == "labels" and (self._mode == "slide" or averaged):
            what = "windows" if self._mode == "slide" else "scales and flips"
            raise DeepLabError(
                f"this model was exported with --output labels; {what} need logits: export it with --output logits"
            )
        if averaged and self._fixed_size(runner) is not None and self._mode == "whole":
            raise DeepLabError(
                "this model was exported for one size; several scales need open --height and --width, or slide mode"
            )

    @property
    def _averaged(self) -> bool:
        return self._flip or self._scales != (1.0,)

    @staticmethod
    def _fixed_size(runner: Runner) -> Size | None:
        manifest = runner.manifest
        if manifest.height[0] == manifest.height[2] and manifest.width[0] == manifest.width[2]:
            return manifest.height[0], manifest.width[0]
        return None

    def _network_size(self, height: int, width: int) -> Size:
        fixed = self._fixed_size(self._open())
        if fixed is not None and self._mode == "whole":
            return fixed
        return network_size(height, width, self.config.test_scale)

    def _predict_one(self, image: Any, color: str, wanted: _Wanted) -> Segmentation:
        started = perf_counter()
        if is_gpu_array(image) and self._takes_gpu(image):
            return self._predict_on_gpu(image, wanted, started)
        if self._mode == "whole" and not self._averaged:
            return self._predict_batch([as_rgb(image, color, self._max_pixels)], [image], wanted, started)[0]
        pixels = self._open_pixels(image, color)
        if wanted.probabilities:
            self._slider.check_probabilities(pixels.size)
        prepared = perf_counter()
        if self._averaged:
            bands = self._average(pixels, wanted)
            band = collect(bands, pixels.size, self.config.num_classes, wanted.scores, wanted.probabilities)
            ran = perf_counter()
            extra: dict[str, Any] = {"passes": len(self._scales) * (2 if self._flip else 1)}
        else:
            size = self._network_size(*pixels.size)
            answer = self._slider.answer(pixels, size, wanted.scores, wanted.probabilities, wanted.progress)
            band, ran, extra = answer.band, answer.ran, answer.extra
        times = (started, prepared, ran, perf_counter())
        return self._result(image, pixels.array, band.labels, band.scores, band.probabilities, times, extra)

    def _open_pixels(self, image: Any, color: str) -> Pixels:
        """An image for windows or several passes; a large array that enters the network as it is stays where it is."""

        def in_pieces(size: Size) -> bool:
            alone = self._mode == "slide" and self._scales == (1.0,)
            return alone and self._slider.in_pieces(size, self._network_size(*size))

        return open_pixels(image, color, self._max_pixels, in_pieces)

    def _check_scores(self, wanted: bool) -> None:
        if wanted and self._open().manifest.output_kind == "labels":
            raise DeepLabError(
                "this model was exported with --output labels and has no scores; export it with --output logits"
            )

    def _takes_gpu(self, image: Any) -> bool:
        """Whether an array on a GPU is used there; torch's [C, H, W] tensors are copied to the host instead."""
        runner, shape = self._open(), image.__cuda_array_interface__["shape"]
        is_tensor = type(image).__module__.partition(".")[0] == "torch"
        if is_tensor and (not hasattr(runner, "segment_gpu") or shape[-1] != 3):
            _log.debug("the tensor is copied to host memory; engines use uint8 [H, W, 3] in place")
            return False
        return True

    def _predict_on_gpu(self, image: Any, wanted: _Wanted, started: float) -> Segmentation:
        if wanted.scores or wanted.probabilities:
            raise DeepLabError("images on the GPU give labels only; copy them to the host for scores")
        labels = self.predict_gpu(image).numpy()
        if labels.ndim == 3:
            raise ImageError("predict takes one image on the GPU at a time; predict_gpu takes batches")
        done = perf_counter()
        extra = {"network_input": list(self._network_size(*labels.shape)), "input": "in place on the GPU"}
        return self._result(None, None, labels, None, None, (started, started, done, done), extra)

    def _predict_list(self, images: list[Any], color: str, wanted: _Wanted) -> list[Segmentation]:
        """Neighbours that enter the network at one size go in one batch."""
        if self._mode != "whole" or self._averaged:
            return [self._predict_one(image, color, wanted) for image in images]
        limit = self.largest_batch
        results: list[Segmentation] = []
        group: list[Any] = []
        pixels: list[NDArray[np.uint8]] = []
        started = perf_counter()
        for image in images:
            if is_gpu_array(image) and self._takes_gpu(image):
                results += self._predict_batch(pixels, group, wanted, started) if group else []
                results.append(self._predict_one(image, color, wanted))
                group, pixels, started = [], [], perf_counter()
                continue
            rgb = as_rgb(image, color, self._max_pixels)
            if group and (
                len(group) == limit or self.batch_key(*rgb.shape[:2]) != self.batch_key(*pixels[0].shape[:2])
            ):
                results += self._predict_batch(pixels, group, wanted, started)
                group, pixels, started = [], [], perf_counter()
            group.append(image)
            pixels.append(rgb)
        return results + (self._predict_batch(pixels, group, wanted, started) if group else [])

    def _predict_batch(
        self, pixels: list[NDArray[np.uint8]], images: list[Any], wanted: _Wanted, started: float
    ) -> list[Segmentation]:
        """Whole images that enter the network at one size."""
        if wanted.probabilities:
            self._slider.check_probabilities(max(((rgb.shape[0], rgb.shape[1]) for rgb in pixels), key=math.prod))
        size = self._network_size(*pixels[0].shape[:2])
        if hasattr(self._open(), "segment") and self._one_pass(pixels[0].shape[:2], size, wanted):
            return self._predict_in_one_pass(pixels, images, wanted, started, size)
        batch = np.stack([resize_image(rgb, size) for rgb in pixels])
        prepared = perf_counter()
        outputs = run_batches(self._open(), batch, self._threads)
        ran = perf_counter()
        results = []
        for rgb, image, output in zip(pixels, images, outputs, strict=True):
            extra: dict[str, Any] = {"network_input": list(size), "batch": len(pixels)}
            shape = rgb.shape[:2]
            probabilities = None
            if self._open().manifest.output_kind == "labels":
                labels, scores = self._resize_labels(output, shape, extra), None
            else:
                full = self._at_image_size(output, (shape[0], shape[1]), size)
                labels, scores = full.labels(0, shape[0], wanted.scores)
                probabilities = softmax(full.logits(0, shape[0])) if wanted.probabilities else None
            if self._fixed_size(self._open()) is not None and self.config.test_scale is None and shape != size:
                extra["note"] = f"resized to the {size[0]} x {size[1]} pixels that the model was exported for"
            done = perf_counter()
            share = tuple(started + (t - started) / len(pixels) for t in (started, prepared, ran))
            results.append(
                self._result(image, rgb, labels, scores, probabilities, (*share, share[2] + done - ran), extra)
            )
            ran = done
        return results

    def _one_pass(self, shape: tuple[int, ...], size: Size, wanted: _Wanted) -> bool:
        """Whether the runner can go from pixels to labels by itself."""
        labels_in_graph = self._open().manifest.output_kind == "labels"
        return not wanted.probabilities and (not labels_in_graph or tuple(shape) == size)

    def _predict_in_one_pass(
        self, pixels: list[NDArray[np.uint8]], images: list[Any], wanted: _Wanted, started: float, size: Size
    ) -> list[Segmentation]:
        """Pixels in, labels out, everything between on the GPU."""
        runner: Any = self._open()
        shape = (pixels[0].shape[0], pixels[0].shape[1])
        # With a float input the GPU resizes too; with a uint8 input the graph takes the pixels at the network's size.
        resizes = runner.manifest.input_kind == "float" or getattr(runner, "resizes", False)
        ready = pixels if resizes else [resize_image(rgb, size) for rgb in pixels]
        batch = ready[0][None] if len(ready) == 1 else np.stack(ready)  # a copy takes as long as a small network
        prepared = perf_counter()
        found = [
            (labels[:count], None if scores is None else scores[:count])
            for part, count in split_batch(runner, batch)
            for labels, scores in [runner.segment(part, size, shape, via=self._via(shape, size), scores=wanted.scores)]
        ]
        ran = perf_counter()
        labels = np.concatenate([part for part, _ in found])
        scores = np.concatenate([part for _, part in found]) if wanted.scores else None
        extra = {"network_input": list(size), "batch": len(pixels), "one_pass": True}
        times = tuple(started + (t - started) / len(pixels) for t in (started, prepared, ran, ran))
        return [
            self._result(image, rgb, labels[i], None if scores is None else scores[i], None, times, extra)
            for i, (image, rgb) in enumerate(zip(images, pixels, strict=True))
        ]

    def _average(self, pixels: Pixels, wanted: _Wanted) -> Iterator[Band]:
        """Mean probabilities of all scales and flips."""
        passes = plan_passes(*pixels.size, self.config.test_scale, self._scales, self._flip)
        return self._slider.averaged(pixels, passes, self._mode == "slide", wanted.probabilities, wanted.progress)

    def _via(self, shape: tuple[int, ...], size: Size | None) -> Size | None:
        """The reference's first resize, where it is not the identity."""
        return size if size is not None and self.config.resize_logits_twice and tuple(shape) != size else None

    def _at_image_size(self, logits: NDArray[np.float32], shape: Size, size: Size) -> Resized:
        corners = self.config.align_corners
        return Resized(WholeMap(logits), shape, corners, via=self._via(shape, size), threads=self._threads)

    def _resize_labels(self, labels: NDArray[Any], shape: tuple[int, ...], extra: dict[str, Any]) -> NDArray[Any]:
        if labels.shape == tuple(shape):
            return labels
        extra["note"] = "labels resized with nearest neighbour, coarser than a model with logits output"
        _log.info(extra["note"])
        return np.asarray(cv2.resize(labels, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST))

    def _result(
        self,
        source: Any,
        rgb: NDArray[np.uint8] | None,
        labels: NDArray[Any],
        scores: NDArray[np.float32] | None,
        probabilities: NDArray[np.float32] | None,
        times: tuple[float, ...],
        extra: dict[str, Any],
    ) -> Segmentation:
        names = ("preprocess", "inference", "postprocess")
        return Segmentation(
            labels=labels,
            classes=self.classes,
            palette=self.palette,
            scores=scores,
            probabilities=probabilities,
            image=rgb,
            path=os.fspath(source) if isinstance(source, (str, os.PathLike)) else None,
            timings_ms={name: (b - a) * 1e3 for name, a, b in zip(names, times, times[1:], strict=False)},
            metadata={**self.describe(), **extra},
        )
