# SPDX-License-Identifier: Apache-2.0
"""How far activations reach on real images: what an eight-bit scale is made of. ONNX Runtime's calibrators do it."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from deeplab_infer.errors import ExportError
from deeplab_infer.images import list_images, read_image
from deeplab_infer.preprocess import network_size, resize_image

METHODS = ("minmax", "percentile", "entropy")
STREETS = "streets"
_CALIBRATED = ("Conv", "Add", "Concat")
_FIRST_STREET = 2_000_000  # scenes that neither training nor verification uses

Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Calibration:
    """What an eight-bit export is calibrated with.

    Attributes:
        source: ``("streets",)`` for generated scenes, or files, folders and globs of images.
        count: images used.
        method: one of `METHODS`.
        percentile: of the method ``"percentile"``, 0..100.
    """

    source: tuple[str, ...] = (STREETS,)
    count: int = 32
    method: str = "minmax"
    percentile: float = 99.999

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        values: dict[str, Any] = {"source": list(self.source), "count": self.count, "method": self.method}
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
            ``"entropy"``: least information lost (Kullback-Leibler, of histograms with 128 bins).
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
    with tempfile.TemporaryDirectory(prefix="deeplab-calibration-") as folder:
        calibrator = _calibrator(model, Path(folder), method, percentile)
        name = model.graph.input[0].name
        for count, image in enumerate(images, 1):
            # One image at a time: the histograms are merged, the activations are not kept.
            with contextlib.redirect_stdout(io.StringIO()):  # the calibrators print
                calibrator.collect_data(_reader(name, image))
            if progress is not None:
                progress(count)
        with contextlib.redirect_stdout(io.StringIO()):
            data = calibrator.compute_data()
    magnitudes = {}
    for tensor in data.keys():  # noqa: SIM118  (ONNX Runtime's container is not iterable by itself)
        low, high = (float(np.max(np.abs(value))) for value in data[tensor].range_value)
        magnitude = max(low, high)
        if not np.isfinite(magnitude):
            raise ExportError(f"tensor {tensor} is not finite on the calibration images; check the checkpoint")
        magnitudes[tensor] = max(magnitude, 1e-6)
    return magnitudes


def calibration_images(
    source: str | Sequence[str | os.PathLike[str]], count: int, size: tuple[int, int]
) -> list[Image]:
    """Images to calibrate with, uint8 [H, W, 3] RGB.

    Args:
        source: ``"streets"`` for generated scenes of ``size``; or files, folders (with their subfolders) and globs.
        count: at most so many, spread over what is there.
        size: (height, width) of generated scenes.

    Raises:
        ExportError: count below 1, or nothing there.
        ImageError: a file is not an image.
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


def _calibrator(model: onnx.ModelProto, folder: Path, method: str, percentile: float) -> Any:
    from onnxruntime.quantization import calibrate as calibrators

    source, augmented = folder / "model.onnx", str(folder / "augmented.onnx")
    onnx.save(model, source)
    if method == "minmax":
        calibrator: Any = calibrators.MinMaxCalibrater(source, _CALIBRATED, augmented, symmetric=True)
    elif method == "percentile":
        calibrator = calibrators.PercentileCalibrater(
            source, _CALIBRATED, augmented, symmetric=True, num_bins=2048, percentile=percentile
        )
    else:
        calibrator = calibrators.EntropyCalibrater(source, _CALIBRATED, augmented, symmetric=True)
    calibrator.augment_graph()
    calibrator.create_inference_session()
    return calibrator


def _reader(name: str, image: NDArray[Any]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class OneImage(CalibrationDataReader):
        def __init__(self) -> None:
            self._images: Iterator[dict[str, NDArray[Any]]] = iter([{name: image}])

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self._images, None)

    return OneImage()
