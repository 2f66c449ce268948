# SPDX-License-Identifier: Apache-2.0
"""Small results with holes, lines, single pixels and every class count that changes the type of a file."""

import cv2
import numpy as np

from deeplab_infer.segmentation import Segmentation

NAMES = ("road", "car & bus", "sky")


def make_labels(height=40, width=56, classes=3, seed=0, blur=5):
    """Blobs of all classes, some with holes."""
    noise = np.random.default_rng(seed).random((classes, height, width)).astype(np.float32)
    smooth = [cv2.GaussianBlur(layer, (blur, blur), 0) for layer in noise]
    return np.argmax(smooth, 0).astype(np.uint8 if classes <= 256 else np.int32)


def make_result(path=None, height=40, width=56, classes=3, seed=0, scores=False):
    labels = make_labels(height, width, classes, seed)
    rng = np.random.default_rng(seed + 1)
    names = NAMES if classes == 3 else tuple(f"class {i}" for i in range(classes))
    return Segmentation(
        labels=labels,
        classes=names,
        palette=tuple((i % 256, i // 256, 90) for i in range(classes)),
        scores=rng.random(labels.shape, np.float32) if scores else None,
        image=rng.integers(0, 256, (*labels.shape, 3), dtype=np.uint8),
        path=None if path is None else str(path),
    )
