# SPDX-License-Identifier: Apache-2.0
"""Multiply-adds that the DeepLabv3+ paper and the TensorFlow model zoo print, and the same networks counted here."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.resources import files

import torch
from torch import nn

from deeplab_infer.configs import ModelConfig, dataset_spec, load_config
from deeplab_infer.models import build_model

from .counting import PaperCount, count

# How far a printed figure, rounded to 0.01, may be from the counted one, 1e9 multiply-adds.
TOLERANCE = {"v3+ Table 3": 0.02, "v3+ Table 5": 0.02, "TF zoo VOC": 0.035, "TF zoo Cityscapes": 0.035}
AGREES, MISPRINT, DEVIATES, NOT_OURS = "agrees", "misprint", "deviates", "not one of our networks"
_NAMES = {"resnet101_beta": "resnet101-beta", "mobilenet_v2": "mobilenetv2", "xception65": "xception65"}


@dataclass(frozen=True)
class PaperRow:
    """A printed figure.

    Attributes:
        source: table or page.
        backbone: as in the file.
        output_stride: at test time.
        decoder, separable: columns of the tables; ``separable`` is ASPP and decoder alike.
        scales: of the passes that are summed.
        flip: each pass mirrored too.
        height, width: of scale 1.
        printed: 1e9 multiply-adds.
    """

    source: str
    backbone: str
    output_stride: int
    decoder: bool
    separable: bool
    scales: tuple[float, ...]
    flip: bool
    height: int
    width: int
    printed: float

    @property
    def network(self) -> tuple[object, ...]:
        """What rows of the same network at the same input have in common."""
        return self.source, self.backbone, self.output_stride, self.decoder, self.separable, self.height, self.width

    def describe(self) -> str:
        """Such as ``"resnet101_beta OS 8 decoder, 6 scales, flip"``."""
        parts = [f"{self.backbone} OS {self.output_stride}"]
        parts[0] += " decoder" * self.decoder + " separable" * self.separable
        parts += [f"{len(self.scales)} scales"] * (len(self.scales) > 1) + ["flip"] * self.flip
        return ", ".join(parts)

    def sizes(self) -> list[tuple[int, int]]:
        """Input sizes of its passes without the mirrored ones: 513 at scale 0.5 is 257."""
        return [(int((self.height - 1) * s) + 1, int((self.width - 1) * s) + 1) for s in self.scales]


@dataclass(frozen=True)
class Comparison:
    """A printed figure and the counted ones, 1e9 multiply-adds; None where the network is not ours.

    Attributes:
        row: what was printed.
        dense, space_to_batch, profiler: sums over the passes, see `counting`.
        verdict: `AGREES`, `MISPRINT`, `DEVIATES` or `NOT_OURS`.
        note: why, where it does not agree.
    """

    row: PaperRow
    dense: float | None = None
    space_to_batch: float | None = None
    profiler: float | None = None
    verdict: str = NOT_OURS
    note: str = ""

    @property
    def deviation(self) -> float | None:
        """Counted less printed."""
        return None if self.profiler is None else self.profiler - self.row.printed


def paper_rows() -> list[PaperRow]:
    """The 28 rows of the paper's tables 3 and 5 and seven of the model zoo."""
    text = files(__package__).joinpath("paper_multiply_adds.csv").read_text(encoding="utf-8")
    return [_row(cells) for cells in csv.DictReader(text.splitlines())]


def paper_config(row: PaperRow) -> ModelConfig | None:
    """The config of a row's network; None for the searched DPC head, which this toolkit does not have."""
    if row.backbone not in _NAMES:
        return None
    name = f"deeplabv3{'plus' * row.decoder}_{_NAMES[row.backbone]}"
    name += "_dense" * (row.decoder and not row.separable)
    name += "_no-aspp" * (row.backbone == "mobilenet_v2")
    config = load_config(name)
    if "Cityscapes" in row.source:
        config = config.replace(dataset=dataset_spec("cityscapes"))
    return config.with_output_stride(row.output_stride)


def compare_papers(rows: Iterable[PaperRow]) -> list[Comparison]:
    """PaperCount every row's network and judge what was printed.

    A single-scale figure that deviates is a misprint where the same table's multi-scale figure of that network,
    less the other passes, leaves what was counted.
    """
    models: dict[tuple[object, ...], nn.Module] = {}
    counts: dict[tuple[object, ...], PaperCount] = {}
    compared = []
    for row in rows:
        config = paper_config(row)
        if config is None:
            note = "its head is the searched dense prediction cell"
            compared.append(Comparison(row, note=note))
            continue
        if row.network not in models:
            with torch.device("meta"):
                models[row.network] = build_model(config).eval()
        for size in row.sizes():
            if (row.network, size) not in counts:
                counts[row.network, size] = count(models[row.network], *size)
        compared.append(_compare(row, tuple(counts[row.network, size] for size in row.sizes())))
    return [_judge(one, compared) for one in compared]


def _row(cells: dict[str, str]) -> PaperRow:
    return PaperRow(
        cells["source"],
        cells["backbone"],
        int(cells["eval_os"]),
        cells["decoder"] == "1",
        cells["separable"] == "1",
        tuple(float(scale) for scale in cells["scales"].split()),
        cells["flip"] == "1",
        int(cells["height"]),
        int(cells["width"]),
        float(cells["paper_gmacs"]),
    )


def _compare(row: PaperRow, passes: tuple[PaperCount, ...]) -> Comparison:
    mirrored = 2 if row.flip else 1
    profiler = mirrored * sum(one.profiler_pass for one in passes) + passes[0].profiler_graph
    dense, parts = (mirrored * sum(getattr(one, name) for one in passes) for name in ("dense", "space_to_batch"))
    return Comparison(row, dense / 1e9, parts / 1e9, profiler / 1e9)


def _judge(one: Comparison, others: list[Comparison]) -> Comparison:
    if one.profiler is None:
        return one
    if _agree(one.profiler, one.row):
        return replace(one, verdict=AGREES)
    for other in others:
        left = _left_by(other, one)
        if left is not None and _agree(one.profiler, one.row, left):
            note = f"its own row of {len(other.row.scales)} scales, {other.row.printed:.2f}, leaves {left:.2f} for it"
            return replace(one, verdict=MISPRINT, note=f"{note}, not {one.row.printed:.2f}")
    return replace(one, verdict=DEVIATES, note=f"counted {one.profiler:.2f}, printed {one.row.printed:.2f}")


def _left_by(multi: Comparison, single: Comparison) -> float | None:
    """What a multi-scale figure, less the other passes, leaves for the single pass; None for another network's."""
    row = multi.row
    if row.network != single.row.network or row.flip or len(row.scales) < 2 or single.row.scales[0] not in row.scales:
        return None
    assert multi.profiler is not None and single.profiler is not None
    return row.printed - (multi.profiler - single.profiler)


def _agree(counted: float, row: PaperRow, printed: float | None = None) -> bool:
    return abs(counted - (row.printed if printed is None else printed)) < TOLERANCE[row.source]
