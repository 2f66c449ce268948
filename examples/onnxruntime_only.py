# SPDX-License-Identifier: Apache-2.0
"""An exported file without this package: ONNX Runtime, numpy and Pillow.

    python examples/onnxruntime_only.py model.onnx street.png -o mask.png

What stands around the network is written out: the size at which a picture enters it, and the resize of the logits to
the size of the picture before the argmax. Config, classes and palette are in the file's metadata. For files with uint8
input and logits as output (the defaults), whole pictures.

Labels equal `Segmenter`'s where the picture enters at its own size; where it is shrunk before, Pillow's resize is not
OpenCV's, and a few pixels at boundaries differ.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def network_size(height: int, width: int, limits: list[int] | None, shape: list[Any]) -> tuple[int, int]:
    """Size at which a picture enters: the file's own where it is fixed, else its shape kept within the limits."""
    if isinstance(shape[1], int) and isinstance(shape[2], int):
        return shape[1], shape[2]
    if limits is None:
        return height, width
    scale = min(max(limits) / max(height, width), min(limits) / min(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_matrix(source: int, target: int, align_corners: bool) -> np.ndarray:
    """Bilinear resize of one axis as a matrix [target, source], float32, with torch's `interpolate` corner rules."""
    index = np.arange(target)
    if align_corners:
        position = index * (source - 1) / max(target - 1, 1)
    else:
        position = np.clip((index + 0.5) * source / target - 0.5, 0, None)
    low = np.minimum(position.astype(int), source - 1)
    high = np.minimum(low + 1, source - 1)
    matrix = np.zeros((target, source), np.float32)
    np.add.at(matrix, (index, low), 1 - (position - low))
    np.add.at(matrix, (index, high), position - low)
    return matrix


def segment(session: onnxruntime.InferenceSession, picture: Image.Image) -> tuple[np.ndarray, dict[str, Any]]:
    """Labels uint8 [H, W] at the size of the picture, and the model's config."""
    config = json.loads(session.get_modelmeta().custom_metadata_map["deeplab_infer"])["config"]
    if config["test_mode"] != "whole":
        raise SystemExit("this model runs in windows; deeplab_infer.Segmenter places and merges them")
    width, height = picture.size
    entered = network_size(height, width, config["test_scale"], session.get_inputs()[0].shape)
    pixels = np.asarray(picture.resize(entered[::-1], Image.Resampling.BILINEAR))
    (logits,) = session.run(["logits"], {"image": pixels[None]})
    # The reference resizes to the size that entered, then to the picture's; one matrix does both.
    steps = [logits.shape[-2:], *([entered] if config["resize_logits_twice"] else []), (height, width)]
    rows, columns = (
        [resize_matrix(old[axis], new[axis], config["align_corners"]) for old, new in pairwise(steps)]
        for axis in (0, 1)
    )
    vertical = rows[-1] if len(rows) == 1 else rows[1] @ rows[0]
    horizontal = columns[-1] if len(columns) == 1 else columns[1] @ columns[0]
    labels = np.zeros((height, width), np.uint8)
    best = np.full((height, width), -np.inf, np.float32)
    for number, plane in enumerate(logits[0]):  # one class at a time: all of them at full size are large
        full = vertical @ plane @ horizontal.T
        labels[full > best] = number
        np.maximum(best, full, out=best)
    return labels, config


def main() -> None:
    """One picture to a mask."""
    parser = argparse.ArgumentParser(description="run an exported file on ONNX Runtime alone")
    parser.add_argument("model")
    parser.add_argument("picture")
    parser.add_argument("-o", "--output", default="mask.png")
    arguments = parser.parse_args()
    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    with Image.open(arguments.picture) as file:
        labels, config = segment(session, ImageOps.exif_transpose(file).convert("RGB"))
    mask = Image.fromarray(labels)
    mask.putpalette(np.asarray(config["dataset"]["palette"], np.uint8).tobytes())
    mask.save(arguments.output)
    counts = np.bincount(labels.ravel(), minlength=len(config["dataset"]["classes"]))
    for name, count in zip(config["dataset"]["classes"], counts, strict=True):
        print(f"{name}: {count / labels.size:.1%}")


if __name__ == "__main__":
    main()
