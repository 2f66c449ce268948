# SPDX-License-Identifier: Apache-2.0
"""One set of weights at several output strides: what each costs, and how far its labels agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from deeplab_infer import checkpoints
from deeplab_infer.configs import ModelConfig
from deeplab_infer.data.synthetic_streets import generate_street
from deeplab_infer.evaluation import ConfusionMatrix
from deeplab_infer.models import DeepLab
from deeplab_infer.ops.functional import upsample
from deeplab_infer.optimize.work import Work

from .graph import Signature
from .onnx_export import promised_manifest
from .precision import choose_precision
from .verify import Sample, fit_samples, reference_logits

Size = tuple[int, int]
STRIDES = (8, 16, 32)
STREETS = 12  # scenes; rare classes decide the mIoU
_FIRST_STREET = 1_000_000  # as verification, far from the scenes that were trained on


@dataclass(frozen=True)
class StrideRow:
    """A network at one output stride.

    Attributes:
        output_stride: input pixels per backbone-output pixel.
        aspp_rates: atrous rates there.
        trained: whether the weights were trained at it.
        chosen: whether the export is for it.
        work: what one image costs.
        agreement: share of pixels with the label that the network gives at its config's stride; None where unknown.
        miou: against the true labels, 0..1; None where they are unknown.
        note: what does not follow the stride exactly.
    """

    output_stride: int
    aspp_rates: tuple[int, ...]
    trained: bool
    chosen: bool
    work: Work
    agreement: float | None = None
    miou: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


@dataclass(frozen=True)
class Labels:
    """How labels at other strides compare.

    Attributes:
        images: what they were compared on; empty where they were not.
        why_not: why they were not.
        shares: agreement and mIoU (None without true labels) by output stride, 0..1.
    """

    images: str = ""
    why_not: str = ""
    shares: dict[int, tuple[float, float | None]] = field(default_factory=dict)


def compare_labels(
    model: DeepLab,
    signature: Signature,
    size: Size,
    samples: Sequence[Sample] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Labels:
    """Labels at every stride against those at the config's, in float32.

    Args:
        model: with weights, under its own config.
        signature: sizes that images are fitted to, as verification does.
        size: (height, width) of generated streets.
        samples: images; by default generated streets, for a network that knows their classes.
        progress: called with a phase, what is done and what there is to do.

    Raises:
        DataError: a size that is too small for a street, or true labels that do not fit.
    """
    config = model.config
    if not has_weights(model):
        return Labels(why_not="labels are not compared: the weights are random")
    if samples is not None:
        fitted = fit_samples(samples, promised_manifest(config, signature, choose_precision("fp32", "fp32")))
        images = f"{len(fitted)} image{'s' * (len(fitted) > 1)}"
    elif config.dataset.name == "synthetic_streets":
        fitted = [Sample(f"street {i}", *generate_street(_FIRST_STREET + i, *size)) for i in range(STREETS)]
        images = f"{STREETS} generated streets of {size[0]}x{size[1]}"
    else:
        return Labels(why_not="labels are not compared: give images of yours with --images (and --labels for mIoU)")
    networks = {stride: _at_stride(model, stride) for stride in STRIDES}
    tallies = {stride: _Tally(config) for stride in STRIDES}
    for done, sample in enumerate(fitted, 1):
        found = {stride: _labels(network, sample.image) for stride, network in networks.items()}
        for stride, labels in found.items():
            tallies[stride].add(labels, found[config.output_stride], sample.labels)
        if progress is not None:
            progress("comparing labels", done, len(fitted))
    return Labels(images, "", {stride: tally.shares() for stride, tally in tallies.items()})


def has_weights(model: DeepLab) -> bool:
    """Whether a network's weights came from somewhere; its labels mean nothing where they are random."""
    return bool(model.checkpoint_source or model.checkpoint_sha256)


class _Tally:
    """Pixels with equal labels, and confusion with the true ones."""

    def __init__(self, config: ModelConfig) -> None:
        self._equal = self._pixels = 0
        self._matrix = ConfusionMatrix(config.classes, config.dataset.ignore_index)

    def add(self, labels: NDArray[Any], reference: NDArray[Any], truth: NDArray[Any] | None) -> None:
        self._equal += int((labels == reference).sum())
        self._pixels += labels.size
        if truth is not None:
            self._matrix.add(labels, truth)

    def shares(self) -> tuple[float, float | None]:
        known = bool(self._matrix.counts.any())
        return self._equal / self._pixels, self._matrix.scores().miou if known else None


def rounded_rates(config: ModelConfig, output_stride: int) -> str:
    """What of a config's atrous rates is no whole number at an output stride; empty where all are."""
    rated = {"ASPP rates": config.aspp_rates, "multi-grid": config.multi_grid if config.multi_grid_absolute else ()}
    changed = config.with_output_stride(output_stride)
    after = {"ASPP rates": changed.aspp_rates, "multi-grid": changed.multi_grid}
    return "; ".join(
        f"{name} {', '.join(map(str, rates))} become {', '.join(map(str, after[name]))}, rounded"
        for name, rates in rated.items()
        if any(rate * config.output_stride % output_stride for rate in rates)
    )


def _at_stride(model: DeepLab, stride: int) -> DeepLab:
    if stride == model.config.output_stride:
        return model
    return checkpoints.with_config(model, model.config.with_output_stride(stride))


def _labels(model: DeepLab, image: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Labels [H, W] of an image, uint8 [H, W, 3] RGB."""
    size = (image.shape[0], image.shape[1])
    return upsample(reference_logits(model, image), size, model.config.align_corners).argmax(0)


def strides_table(rows: Sequence[StrideRow]) -> Table:
    """One row a stride; ``*`` marks the one that the weights were trained at, ``>`` the one that is exported."""
    table = Table()
    compared = any(row.agreement is not None for row in rows)
    known = any(row.miou is not None for row in rows)
    titles = ["stride", "ASPP\nrates", "GMAC", "MB\nmoved", "peak\nMB", "logits"]
    for title in [*titles, *["same\nlabel"] * compared, *["mIoU"] * known]:
        table.add_column(title, justify="right")
    for row in rows:
        cells = [
            f"{'>' if row.chosen else ''} {row.output_stride}{'*' if row.trained else ' '}",
            ",".join(map(str, row.aspp_rates)) or "-",
            f"{row.work.multiply_adds / 1e9:.2f}",
            f"{row.work.bytes_moved / 1e6:.0f}",
            f"{row.work.peak_bytes / 1e6:.0f}",
            "x".join(map(str, row.work.output[2:])),
        ]
        shares = [row.agreement] * compared + [row.miou] * known
        table.add_row(*cells, *("-" if share is None else f"{share:.2%}" for share in shares))
    return table
