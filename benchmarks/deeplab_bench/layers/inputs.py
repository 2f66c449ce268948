# SPDX-License-Identifier: Apache-2.0
"""What exported files are profiled with: a generated street scene at the size asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeplab_infer.data.synthetic_streets import generate_street
from deeplab_infer.manifest import Manifest
from deeplab_infer.preprocess import normalise
from deeplab_infer.runtime.base import check_batch

_SMALLEST_SCENE = 16
_SIZE = (512, 1024)


def make_batch(manifest: Manifest, job: dict[str, Any]) -> tuple[NDArray[Any], tuple[int, int]]:
    """A batch as the file takes it, and its (height, width).

    Without a size in the job it is the one that the file was exported for, or what it allows nearest to 512x1024.

    Raises:
        BackendError: a batch or size that the file does not take.
    """
    height, width = _size(manifest, job)
    image, _ = generate_street(1, max(_SMALLEST_SCENE, height), max(_SMALLEST_SCENE, width))
    batch = np.ascontiguousarray(np.repeat(image[None, :height, :width], job["batch"], axis=0))
    data = normalise(batch, manifest.config) if manifest.input_kind == "float" else batch
    check_batch(data, manifest)
    return data, (height, width)


def _size(manifest: Manifest, job: dict[str, Any]) -> tuple[int, int]:
    if job["height"] is not None:
        return job["height"], job["width"]
    limits = (manifest.height, manifest.width)
    height, width = (min(max(side, low), high) for side, (low, _, high) in zip(_SIZE, limits, strict=True))
    return height, width
