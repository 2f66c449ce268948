# SPDX-License-Identifier: Apache-2.0
"""The published DeepLabV3+ and DeepLabV3 tables of mmsegmentation, row by row.

37 DeepLabV3+ rows and their DeepLabV3 sisters, as the model zoo's README printed them in January 2022.
Memory is training memory of one of four GPUs; fps is batch 1 on a V100, forward and post-processing.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from importlib.resources import files

from ..errors import ConfigError
from .suggest import suggest

_DATASETS = {
    "Cityscapes": "cityscapes",
    "ADE20K": "ade20k",
    "Pascal VOC 2012 + Aug": "voc12aug",
    "Pascal Context": "pascal_context",
    "Pascal Context 59": "pascal_context_59",
    "LoveDA": "loveda",
    "Potsdam": "potsdam",
}


@dataclass(frozen=True)
class ReferenceRow:
    """One row of the published tables. Empty cells are None.

    Attributes:
        name, legacy_name: config names of mmsegmentation 1.x and 0.x.
        method: ``"DeepLabV3+"`` or ``"DeepLabV3"``.
        dataset: our dataset name.
        backbone: label such as ``"R-50-D8"``.
        output_stride: 8 or 16.
        multi_grid: absolute rates of the last stage, or empty.
        crop: training crop (height, width).
        schedule: iterations.
        fp16: trained and timed in half precision.
        memory_gb: training memory a GPU, GB.
        fps: images a second on a V100.
        miou, miou_ms_flip: percent, single scale and multi-scale with flip.
        align_corners, test_mode, window, window_stride, test_scale: as in `ModelConfig`.
        images_per_gpu: training batch a GPU.
        checkpoint_url, checkpoint_sha256: official weights, and the first digits of their SHA-256.
        network_input: typical (height, width) that the network sees at test time.
        gmacs: multiply-adds of an image at test time, 1e9 (convolutions, without the auxiliary head).
        note: what is odd about the row upstream.
    """

    name: str
    legacy_name: str
    method: str
    dataset: str
    backbone: str
    output_stride: int
    multi_grid: tuple[int, ...]
    crop: tuple[int, int]
    schedule: int
    fp16: bool
    memory_gb: float | None
    fps: float | None
    miou: float | None
    miou_ms_flip: float | None
    align_corners: bool
    test_mode: str
    window: tuple[int, int] | None
    window_stride: tuple[int, int] | None
    test_scale: tuple[int, int]
    images_per_gpu: int
    checkpoint_url: str
    checkpoint_sha256: str
    network_input: tuple[int, int]
    gmacs: float
    note: str


@functools.cache
def reference_rows() -> tuple[ReferenceRow, ...]:
    """All rows: the 37 of DeepLabV3+ first, in the table's order, then those of DeepLabV3."""
    text = files(__package__).joinpath("reference_table.csv").read_text(encoding="utf-8")
    return tuple(_row(cells) for cells in csv.DictReader(text.splitlines()))


def reference_row(name: str) -> ReferenceRow:
    """The row of a named config, by its modern or legacy name.

    Raises:
        ConfigError: no such row.
    """
    key = name.removesuffix(".py")
    for row in reference_rows():
        if key in (row.name, row.legacy_name):
            return row
    raise ConfigError(
        f"no row {name!r} in the published tables{suggest(key, [r.name for r in reference_rows()])}; "
        "only mmsegmentation's configs have one"
    )


def _row(cells: dict[str, str]) -> ReferenceRow:
    return ReferenceRow(
        name=cells["config"].removesuffix(".py"),
        legacy_name=cells["config_legacy"].removesuffix(".py"),
        method=cells["method"],
        dataset=_DATASETS[cells["dataset"]],
        backbone=cells["backbone"],
        output_stride=int(cells["output_stride"]),
        multi_grid=tuple(int(rate) for rate in cells["multi_grid"].split()),
        crop=(int(cells["crop_h"]), int(cells["crop_w"])),
        schedule=int(cells["lr_schd"]),
        fp16=cells["fp16"] == "1",
        memory_gb=_number(cells["mem_gb"]),
        fps=_number(cells["fps"]),
        miou=_number(cells["miou"]),
        miou_ms_flip=_number(cells["miou_ms_flip"]),
        align_corners=cells["align_corners"] == "1",
        test_mode=cells["test_mode"],
        window=_size(cells["window"]) if cells["window"] else None,
        window_stride=_size(cells["stride"]) if cells["stride"] else None,
        test_scale=_size(cells["test_scale_wxh"]),
        images_per_gpu=int(cells["imgs_per_gpu"]),
        checkpoint_url=cells["checkpoint_url"],
        checkpoint_sha256=cells["checkpoint_sha256_prefix"],
        network_input=_size(cells["typical_net_input_hxw"]),
        gmacs=float(cells["gmacs_per_image"]),
        note=cells["note"],
    )


def _number(cell: str) -> float | None:
    return float(cell) if cell else None


def _size(cell: str) -> tuple[int, int]:
    first, second = cell.split("x")
    return int(first), int(second)
