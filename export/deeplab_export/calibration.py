# SPDX-License-Identifier: Apache-2.0
"""How far activations reach on real images: what an eight-bit scale is made of.

ONNX Runtime runs the network. Its own calibrators are not used: they pass over NaN, and their histograms of 128 bins
leave the entropy method nothing to choose from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, shape_inference

from deeplab_infer.errors import ExportError
from deeplab_infer.images import list_images, read_image
from deeplab_infer.preprocess import network_size, resize_image

METHODS = ("minmax", "percentile", "entropy")
STREETS = "streets"
_CALIBRATED = ("Conv", "Add", "Concat")
_BINS = 2048
_LEVELS = 128  # of eight bits without the sign
_STRIDE = 8  # bins between the thresholds that the entropy method tries
_FIRST_STREET = 2_000_000  # scenes that neither training nor verification uses

Image = NDArray[np.uint8]
_Seen = tuple[str, float, NDArray[np.float32] | None]  # tensor, its peak, its values


@dataclass(frozen=True)
class Calibration:
    """What an eight-bit export is calibrated with.

    Attributes:
        source: ``("streets",)`` for generated scenes, or files, folders and globs of images.
        count: images used; None takes 16 generated ones, or up to 128 of what is given.
        method: one of `METHODS`.
        percentile: of the method ``"percentile"``, 0..100.
    """

    source: tuple[str, ...] = (STREETS,)
    count: int | None = None
    method: str = "minmax"
    percentile: float = 99.999

    @property
    def images(self) -> int:
        """How many images at most."""
        if self.count is not None:
            return self.count
        return 16 if self.source == (STREETS,) else 128

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        values: dict[str, Any] = {"source": list(self.source), "count": self.images, "method": self.method}
        return values | ({"percentile": self.percentile} if self.method == "percentile" else {})


def calibrate(
    model: onnx.ModelProto,
    images: Sequence[NDArray[Any]],
    method: str = "minmax",
    percentile: float = 99.999,
    progress: Callable[[int], None] | None = None,
) -> dict[str, float]:
    """Largest magnitude to represent, of every tensor that enters or leaves a convolution, addition or concat.

    Args:
        model: float32 graph with one input.
        images: inputs of the graph, each with its batch dimension.
        method: ``"minmax"``: the largest seen; ``"percentile"``: that share of the values is represented;
            ``"entropy"``: least information lost (Kullback-Leibler divergence of 128 levels from 2048 bins).
        percentile: for ``"percentile"``, 0..100.
        progress: called with the number of images done.

    Returns:
        Tensor's name to magnitude, above zero.

    Raises:
        ExportError: unknown method, no image, or an activation that is not finite.
    """
    if method not in METHODS:
        raise ExportError(f"calibration method {method!r} is not one of {', '.join(METHODS)}")
    if not images:
        raise ExportError("no image to calibrate with")
    if not 50 < percentile <= 100:
        raise ExportError(f"the calibration percentile must be above 50 and at most 100, got {percentile}")
    tensors = _tensors(model)
    histograms = {tensor: _Histogram() for tensor in tensors}
    observe = _observe_extremes(model, tensors) if method == "minmax" else _observe_values(model, tensors)
    for count, image in enumerate(images, 1):
        for tensor, peak, values in observe(image):
            if not np.isfinite(peak):
                raise ExportError(f"tensor {tensor} is not finite on the calibration images; check the checkpoint")
            histograms[tensor].add(peak, values)
        if progress is not None:
            progress(count)
    reach: dict[str, Callable[[_Histogram], float]] = {
        "minmax": lambda histogram: histogram.peak,
        "percentile": lambda histogram: histogram.quantile(percentile / 100),
        "entropy": lambda histogram: histogram.least_loss(),
    }
    return {tensor: max(reach[method](histogram), 1e-6) for tensor, histogram in histograms.items()}


def calibration_images(
    source: str | Sequence[str | os.PathLike[str]], count: int, size: tuple[int, int]
) -> list[Image]:
    """Images to calibrate with, uint8 [H, W, 3] RGB.

    Args:
        source: ``"streets"`` for generated scenes of ``size``; or files, folders (with their subfolders) and globs.
        count: at most so many, spread over what is there.
        size: (height, width) of generated scenes.

    Raises:
        ExportError: count below 1, or no source.
        ImageError: a file is not an image, or a source holds none.
    """
    if count < 1:
        raise ExportError(f"the number of calibration images must be at least 1, got {count}")
    if source == STREETS or list(source) == [STREETS]:
        from deeplab_infer.data.synthetic_streets import generate_street

        return [generate_street(_FIRST_STREET + index, *size)[0] for index in range(count)]
    paths = list_images([source] if isinstance(source, str) else source, recursive=True)
    if not paths:
        raise ExportError(f"no image to calibrate with in {source}")
    chosen = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [read_image(paths[index]) for index in chosen]


def fit_images(
    images: Sequence[Image],
    test_scale: tuple[int, int] | None,
    limits: tuple[tuple[int, int], tuple[int, int]],
) -> list[Image]:
    """Images at the sizes at which they enter the network: the config's resize, then what the file accepts."""
    fitted = []
    for image in images:
        size = network_size(image.shape[0], image.shape[1], test_scale)
        height, width = (min(max(side, low), high) for side, (low, high) in zip(size, limits, strict=True))
        fitted.append(resize_image(image, (height, width)))
    return fitted


def _tensors(model: onnx.ModelProto) -> list[str]:
    """What enters or leaves a calibrated operator, without weights, in the order in which it is computed."""
    inferred = shape_inference.infer_shapes(model).graph
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    }
    weights = {tensor.name for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in _CALIBRATED]
    names = dict.fromkeys(name for node in nodes for name in (*node.input, *node.output))
    return [name for name in names if name not in weights and types.get(name) == TensorProto.FLOAT]


def _observe_extremes(model: onnx.ModelProto, tensors: Sequence[str]) -> Callable[[NDArray[Any]], Iterator[_Seen]]:
    """Peaks that the graph itself reduces, so that no activation is kept."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    reductions = ("ReduceMax", "ReduceMin", "ReduceL1")  # the sum passes NaN on, the extremes need not
    for tensor in tensors:
        for kind in reductions:
            opened.graph.node.append(helper.make_node(kind, [tensor], [f"{tensor}_{kind}"], keepdims=0))
    wanted = [f"{tensor}_{kind}" for tensor in tensors for kind in reductions]
    session, name = _session(opened, wanted), model.graph.input[0].name

    def observe(image: NDArray[Any]) -> Iterator[_Seen]:
        found = np.asarray(session.run(wanted, {name: image}), np.float64).reshape(-1, 3)
        for tensor, (high, low, total) in zip(tensors, found, strict=True):
            yield tensor, max(high, -low) if np.isfinite(total) else float("nan"), None

    return observe


def _observe_values(model: onnx.ModelProto, tensors: Sequence[str]) -> Callable[[NDArray[Any]], Iterator[_Seen]]:
    """All values, for histograms; one image's activations are held at once."""
    name = model.graph.input[0].name
    inner = [tensor for tensor in tensors if tensor != name]
    session = _session(model, inner)

    def observe(image: NDArray[Any]) -> Iterator[_Seen]:
        found = dict(zip(inner, session.run(inner, {name: image}), strict=True)) | {name: image}
        for tensor in tensors:
            values = found.pop(tensor)
            yield tensor, max(float(values.max()), -float(values.min())), values  # numpy's extremes pass NaN on

    return observe


def _session(model: onnx.ModelProto, tensors: Sequence[str]) -> Any:
    """The graph with tensors as further outputs."""
    import onnxruntime

    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    there = {value.name for value in model.graph.output}
    values = [helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None) for tensor in tensors]
    opened.graph.output.extend(value for value in values if value.name not in there)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])


class _Histogram:
    """Magnitudes in equal bins from 0 on; the range doubles where a value is beyond it."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._counts = np.zeros(_BINS, np.int64)
        self._limit = 0.0

    def add(self, peak: float, values: NDArray[np.float32] | None) -> None:
        self.peak = max(self.peak, peak)
        if values is None:
            return
        if self._limit == 0 < self.peak:
            self._limit = max(self.peak, 1e-30)  # what came so far is zero, in the first bin at any range
        while self.peak > self._limit:
            self._counts = np.concatenate([self._counts.reshape(-1, 2).sum(1), np.zeros(_BINS // 2, np.int64)])
            self._limit *= 2
        scaled = np.abs(values).ravel() * (_BINS / self._limit if self._limit else 0.0)
        self._counts += np.bincount(np.minimum(scaled.astype(np.int64), _BINS - 1), minlength=_BINS)

    def quantile(self, share: float) -> float:
        """The magnitude that so many of the values do not exceed."""
        counted = np.cumsum(self._counts)
        return self._edge(int(np.searchsorted(counted, share * counted[-1])) + 1)

    def least_loss(self) -> float:
        """The threshold whose levels, with what is beyond it in the last, are nearest to the distribution."""
        counts = self._counts.astype(np.float64)
        counts[0] = counts[1]  # zeros of a ReLU are exact at any threshold
        losses = {size: _divergence(counts, size) for size in range(_LEVELS, _BINS + 1, _STRIDE)}
        best = min(losses.values())
        # Of equal ones the widest.
        return self._edge(max(size for size, loss in losses.items() if loss == best))

    def _edge(self, index: int) -> float:
        return min(index * self._limit / _BINS, self.peak)


def _divergence(counts: NDArray[np.float64], size: int) -> float:
    """Kullback-Leibler divergence of the first bins at `_LEVELS` levels from the clipped distribution."""
    level = np.arange(size) * _LEVELS // size
    inside, used = counts[:size], counts[:size] > 0
    sums = np.bincount(level, inside, _LEVELS)
    means = sums / np.maximum(np.bincount(level, used, _LEVELS), 1)
    levelled = np.where(used, means[level], 0)
    clipped = inside.copy()
    clipped[-1] += counts[size:].sum()
    found = clipped > 0
    if not found.any() or not (levelled[found] > 0).all():
        return float("inf")
    p, q = clipped[found] / clipped.sum(), levelled[found] / levelled.sum()
    return float(np.sum(p * np.log(p / q)))
