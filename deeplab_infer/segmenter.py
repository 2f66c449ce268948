# SPDX-License-Identifier: Apache-2.0
"""`Segmenter`: one call from an image to a segmentation, on any backend."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from .configs import ModelConfig
from .errors import DeepLabError, ImageError
from .images import as_rgb
from .ops.functional import upsample, upsample_argmax
from .preprocess import Size, network_size, normalise, resize_image
from .runtime.base import Runner
from .runtime.gpu_array import GpuArray, as_gpu_pixels, is_gpu_array
from .runtime.opening import open_runner
from .runtime.tta import plan_passes, softmax
from .runtime.windows import Window, place_windows, slide
from .segmentation import Segmentation

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Wanted:
    """What a call asks for besides labels."""

    scores: bool
    probabilities: bool


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
            backend: ``"auto"``, ``"tensorrt"``, ``"onnxruntime"``, ``"onnxruntime-tensorrt"``, ``"onnxruntime-rtx"``,
                ``"openvino"`` or ``"torch"``.
            device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
            color: channel order of ndarrays and tensors given to `predict`: ``"rgb"`` (default) or ``"bgr"``,
                which is what ``cv2.imread`` returns. Files, bytes and PIL images know their own order.
            mode: ``"whole"`` or ``"slide"``; None takes the config's.
            window, window_stride: (height, width) of slide mode; None takes the config's.
            window_batch: windows run at once; None: 4, and 8 on an engine, whose memory is taken for its largest batch
                anyway. Never more than the model was exported for.
            scales, flip: multi-scale and mirrored passes whose probabilities are averaged.
            threads: CPU threads of the backend and of our own kernels; None uses all.
            fused: let the torch backend run on the fused kernels.
            precision: what the torch backend computes in: ``"fp32"``, ``"tf32"``, ``"fp16"`` or ``"bf16"``; None is
                ``"fp32"``. Exported files carry their own.
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
        self._window = window or self.config.window
        self._stride = window_stride or self.config.window_stride
        if window_batch is None:
            window_batch = 8 if getattr(runner, "profiles", ()) else 4
        self._window_batch = min(window_batch, runner.manifest.batch[2])
        self._scales, self._flip = tuple(scales), flip
        try:
            self._check_options(runner, window_batch)
        except DeepLabError:
            runner.close()
            raise
        self._runner = runner

    # -- use

    @overload
    def predict(
        self, image: list[Any], *, color: str | None = ..., scores: bool = ..., probabilities: bool = ...
    ) -> list[Segmentation]: ...
    @overload
    def predict(
        self, image: Any, *, color: str | None = ..., scores: bool = ..., probabilities: bool = ...
    ) -> Segmentation: ...
    def predict(
        self, image: Any, *, color: str | None = None, scores: bool = False, probabilities: bool = False
    ) -> Segmentation | list[Segmentation]:
        """Segment one image, or a list of them.

        Args:
            image: a path, encoded bytes, a PIL image, an ndarray [H, W], [H, W, 3] or [H, W, 4] (uint8, uint16, or
                float 0..1), a torch tensor [C, H, W], or a list of these. A list is run in batches where
                neighbouring images have one size. Any size from one pixel. Engines also take uint8 [H, W, 3] RGB arrays
                on their GPU (``__cuda_array_interface__``: CuPy, Numba, PyCUDA, torch), which are used in place.
            color: channel order of arrays and tensors for this call.
            scores: also give the softmax probability of each pixel's class.
            probabilities: also give the probabilities of all classes: C x H x W float32.

        Returns:
            A `Segmentation` at the size of the image, or a list of them.

        Raises:
            ImageError: not an image.
            DeepLabError: scores of a model that gives labels, or a size that the model was not exported for.
        """
        wanted = _Wanted(scores, probabilities)
        if self._open().manifest.output_kind == "labels" and (scores or probabilities):
            raise DeepLabError(
                "this model was exported with --output labels and has no scores; export it with --output logits"
            )
        if isinstance(image, list):
            return self._predict_list(image, color or self._color, wanted)
        return self._predict_one(image, color or self._color, wanted)

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
        }
        fusion = getattr(runner, "fusion", None)
        if runner.name == "torch":
            description["fused_kernels"] = 0 if fusion is None else len(fusion.fused)
            description["compiled"] = bool(getattr(runner, "compiled", False))
        if hasattr(runner, "cuda_graphs"):
            description["cuda_graphs"] = runner.cuda_graphs
        if self._mode == "slide":
            description |= {"window": list(self._window or ()), "window_stride": list(self._stride or ())}
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

    def _check_options(self, runner: Runner, window_batch: int) -> None:
        if self._color not in ("rgb", "bgr"):
            raise DeepLabError(f"color {self._color!r} is not 'rgb' or 'bgr'")
        if self._mode not in ("whole", "slide"):
            raise DeepLabError(f"mode {self._mode!r} is not 'whole' or 'slide'")
        if window_batch < 1:
            raise DeepLabError(f"window_batch must be at least 1, got {window_batch}")
        plan_passes(1, 1, self.config.test_scale, self._scales, self._flip)
        if self._mode == "slide":
            for name, size in (("window", self._window), ("window_stride", self._stride)):
                if size is None or len(size) != 2 or min(size) < 1:
                    raise DeepLabError(f"mode 'slide' needs {name}=(height, width) of at least 1, got {size}")
            window, stride = self._window or (1, 1), self._stride or (1, 1)
            if stride[0] > window[0] or stride[1] > window[1]:
                raise DeepLabError(
                    f"window_stride {list(stride)} is larger than window {list(window)}: pixels between windows would "
                    "have no class"
                )
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
        rgb = as_rgb(image, color)
        if self._mode == "whole" and not self._averaged:
            return self._predict_batch([rgb], [image], wanted, started)[0]
        prepared = perf_counter()
        scores: NDArray[np.float32] | None
        probabilities: NDArray[np.float32] | None
        if self._averaged:
            probabilities = averaged = self._average(rgb)
            ran = perf_counter()
            labels, scores = _argmax(averaged, self.config.num_classes)
            passes = len(self._scales) * (2 if self._flip else 1)
            extra: dict[str, Any] = {"passes": passes}
        else:
            size = self._network_size(*rgb.shape[:2])
            if hasattr(self._open(), "segment_windows") and not wanted.probabilities:
                return self._slide_in_one_pass(image, rgb, size, wanted, started)
            logits, windows = self._slide_logits(resize_image(rgb, size))
            ran = perf_counter()
            labels, scores = self._labels(logits, rgb.shape[:2], None, wanted)
            probabilities = softmax(self._full_size(logits, rgb.shape[:2])) if wanted.probabilities else None
            extra = {"network_input": list(size), "windows": windows}
        times = (started, prepared, ran, perf_counter())
        return self._result(
            image,
            rgb,
            labels,
            scores if wanted.scores else None,
            probabilities if wanted.probabilities else None,
            times,
            extra,
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
        limit = min(self._open().manifest.batch[2], 8)
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
            rgb = as_rgb(image, color)
            if group and (len(group) == limit or not self._same_batch(rgb, pixels[0])):
                results += self._predict_batch(pixels, group, wanted, started)
                group, pixels, started = [], [], perf_counter()
            group.append(image)
            pixels.append(rgb)
        return results + (self._predict_batch(pixels, group, wanted, started) if group else [])

    def _same_batch(self, one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
        """Whether two images enter the network together; a pass on the GPU ends at one size too."""
        if hasattr(self._open(), "segment") and one.shape != other.shape:
            return False
        return self._network_size(*one.shape[:2]) == self._network_size(*other.shape[:2])

    def _predict_batch(
        self, pixels: list[NDArray[np.uint8]], images: list[Any], wanted: _Wanted, started: float
    ) -> list[Segmentation]:
        """Whole images that enter the network at one size."""
        size = self._network_size(*pixels[0].shape[:2])
        if hasattr(self._open(), "segment") and self._one_pass(pixels[0].shape[:2], size, wanted):
            return self._predict_in_one_pass(pixels, images, wanted, started, size)
        batch = np.stack([resize_image(rgb, size) for rgb in pixels])
        prepared = perf_counter()
        outputs = self._run(batch)
        ran = perf_counter()
        results = []
        for rgb, image, output in zip(pixels, images, outputs, strict=True):
            extra: dict[str, Any] = {"network_input": list(size), "batch": len(pixels)}
            shape = rgb.shape[:2]
            probabilities = None
            if self._open().manifest.output_kind == "labels":
                labels, scores = self._resize_labels(output, shape, extra), None
            else:
                labels, scores = self._labels(output, shape, size, wanted)
                if wanted.probabilities:
                    probabilities = softmax(self._full_size(output, shape, size))
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
            for part, count in self._parts(batch)
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

    def _parts(self, batch: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.uint8], int]]:
        """Batches that the network accepts, each with its number of images; a fixed one is filled up with the last."""
        low, _, high = self._open().manifest.batch
        for start in range(0, len(batch), high):
            part = batch[start : start + high]
            count = len(part)
            if count < low:
                part = np.concatenate([part, np.repeat(part[-1:], low - count, axis=0)])
            yield part, count

    def _run(self, batch: NDArray[np.uint8]) -> NDArray[Any]:
        """Through the network, in batches that it accepts."""
        runner = self._open()
        floats = runner.manifest.input_kind == "float"
        outputs = [
            runner.run(normalise(part, self.config) if floats else part)[:count] for part, count in self._parts(batch)
        ]
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def _windows_of(self, size: Size) -> list[Window]:
        assert self._window is not None and self._stride is not None
        return place_windows(size[0], size[1], self._window, self._stride)

    def _slide_in_one_pass(
        self, source: Any, rgb: NDArray[np.uint8], size: Size, wanted: _Wanted, started: float
    ) -> Segmentation:
        """The runner goes from the pixels of an image to its labels, window by window."""
        runner: Any = self._open()
        image, windows = resize_image(rgb, size), self._windows_of(size)
        prepared = perf_counter()
        labels, scores = runner.segment_windows(
            image, windows, (rgb.shape[0], rgb.shape[1]), batch=self._window_batch, scores=wanted.scores
        )
        ran = perf_counter()
        extra = {"network_input": list(size), "windows": len(windows), "one_pass": True}
        return self._result(source, rgb, labels, scores, None, (started, prepared, ran, ran), extra)

    def _slide_logits(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], int]:
        windows = self._windows_of((image.shape[0], image.shape[1]))
        config = self.config
        logits = slide(
            image, self._run, windows, config.num_classes, config.align_corners, self._window_batch, self._threads
        )
        return logits, len(windows)

    def _average(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Mean probabilities, float32 [C, H, W], of all scales and flips."""
        height, width = rgb.shape[:2]
        passes = plan_passes(height, width, self.config.test_scale, self._scales, self._flip)
        total = np.zeros((self.config.num_classes, height, width), np.float32)
        for one in passes:
            image = resize_image(rgb, one.size)
            image = np.ascontiguousarray(image[:, ::-1]) if one.flip else image
            if self._mode == "slide":
                full = self._full_size(self._slide_logits(image)[0], (height, width))
            else:
                full = self._full_size(self._run(image[None])[0], (height, width), one.size)
            probabilities = softmax(full)
            total += probabilities[:, :, ::-1] if one.flip else probabilities
        total /= len(passes)
        return total

    def _via(self, shape: tuple[int, ...], size: Size | None) -> Size | None:
        """The reference's first resize, where it is not the identity."""
        return size if size is not None and self.config.resize_logits_twice and tuple(shape) != size else None

    def _labels(
        self, logits: NDArray[np.float32], shape: tuple[int, ...], size: Size | None, wanted: _Wanted
    ) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
        found = upsample_argmax(
            logits,
            (shape[0], shape[1]),
            align_corners=self.config.align_corners,
            via=self._via(shape, size),
            scores=wanted.scores,
            threads=self._threads,
        )
        return found if isinstance(found, tuple) else (found, None)

    def _full_size(
        self, logits: NDArray[np.float32], shape: tuple[int, ...], size: Size | None = None
    ) -> NDArray[np.float32]:
        return upsample(
            logits,
            (shape[0], shape[1]),
            self.config.align_corners,
            via=self._via(shape, size),
            threads=self._threads,
        )

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


def _argmax(probabilities: NDArray[np.float32], classes: int) -> tuple[NDArray[Any], NDArray[np.float32]]:
    labels = probabilities.argmax(0)
    return labels.astype(np.uint8 if classes <= 256 else np.int32), probabilities.max(0)
