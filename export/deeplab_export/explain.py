# SPDX-License-Identifier: Apache-2.0
"""``deeplab-export --explain``: what each exact rewrite and each output stride does to the work of a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from deeplab_infer.configs import ModelConfig, reference_rows
from deeplab_infer.models import DeepLab
from deeplab_infer.optimize import REWRITES, AppliedRewrite
from deeplab_infer.optimize.work import Work, on_meta, work_of

from .graph import ALWAYS_REWRITTEN, Signature
from .output_strides import STRIDES, StrideRow, compare_labels, has_weights, rounded_rates, strides_table
from .verify import Sample

Size = tuple[int, int]
ELEMENT_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}
# Title of a column, the figure of a `Work`, its unit, decimals.
_FIGURES = (
    ("GMAC", "multiply_adds", 1e9, 2),
    ("MB moved", "bytes_moved", 1e6, 0),
    ("M weights", "parameters", 1e6, 2),
)
_COUNTED = (
    "GMAC: 1e9 multiply-adds, for one image. MB moved: every operator reads its inputs and weights and writes its "
    "output once, at {bytes} bytes a number ({precision}); a runtime that computes several operators in one moves less."
)
_STRIDES = (
    "--output-stride, with these rewrites: > is the one that is exported, * the one that the weights were trained at"
)


@dataclass(frozen=True)
class Step:
    """One rewrite, and the work of the network before and after it; equal where it was not applied."""

    rewrite: AppliedRewrite
    before: Work
    after: Work


@dataclass(frozen=True)
class Explanation:
    """What an export would do to the work of a network.

    Attributes:
        config: of the network that would be exported.
        checkpoint: where its weights came from; empty for random weights.
        size: (height, width) that everything is counted at, for one image.
        size_from: where that size comes from.
        precision: of the numbers that are moved.
        steps: one a rewrite, in their order.
        strides: one an output stride; see `output_strides`.
        images: what labels were compared on; empty where they were not.
        why_not_compared: why they were not.
    """

    config: ModelConfig
    checkpoint: str
    size: Size
    size_from: str
    precision: str
    steps: tuple[Step, ...]
    strides: tuple[StrideRow, ...]
    images: str
    why_not_compared: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; figures in single multiply-adds, bytes and weights, shares in 0..1."""
        return {
            "config": self.config.name,
            "checkpoint": self.checkpoint or "random weights",
            "size": list(self.size),
            "size_from": self.size_from,
            "precision": self.precision,
            "element_bytes": ELEMENT_BYTES[self.precision],
            "rewrites": [
                {**asdict(step.rewrite), "before": asdict(step.before), "after": asdict(step.after)}
                for step in self.steps
            ],
            "before": asdict(self.steps[0].before),
            "after": asdict(self.steps[-1].after),
            "output_strides": [row.to_dict() for row in self.strides],
            "images": self.images,
            "why_not_compared": self.why_not_compared,
        }

    def print(self, console: Console) -> None:
        """Both tables with what they need to be understood."""

        def say(text: str) -> None:
            console.print(text, markup=False, highlight=False)

        height, width = self.size
        say(f"{self.config.name}, output stride {self.config.output_stride}, {height}x{width}: {self.size_from}")
        say(_COUNTED.format(bytes=ELEMENT_BYTES[self.precision], precision=self.precision))
        say("\nexact rewrites, in their order; a row says what is left after it")
        console.print(rewrites_table(self.steps))
        say(f"together: {difference(self.steps[0].before, self.steps[-1].after)}")
        say(f"\n{_STRIDES}")
        console.print(strides_table(self.strides))
        for row in self.strides:
            if row.note:
                say(f"at output stride {row.output_stride}: {row.note}")
        say(f"same label: as at the config's stride, over {self.images}" if self.images else self.why_not_compared)


def explain(
    model: DeepLab,
    signature: Signature,
    *,
    output_stride: int | None = None,
    trained_stride: int | None = None,
    precision: str = "fp32",
    rewrites: bool = True,
    samples: Sequence[Sample] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Explanation:
    """Count what an export with these options would make of a network; nothing is written.

    Args:
        model: with weights, under its own config.
        signature: sizes of the exported file; a size is fixed for the rewrites only where it is fixed there.
        output_stride: that the export is for; by default the config's.
        trained_stride: that the weights were trained at; by default the config's.
        precision: of the exported file.
        rewrites: False for ``--no-rewrites``.
        samples: images to compare labels on; by default generated streets, for a network that knows their classes.
        progress: called with a phase, what is done and what there is to do.

    Raises:
        DeepLabError: an image that is too small, or labels that do not fit.
    """
    config = model.config
    size, size_from = counted_size(config, signature)
    configs = {stride: config.with_output_stride(stride) for stride in STRIDES}
    steps = {}
    for stride, changed in configs.items():
        steps[stride] = rewrite_steps(changed, size, signature.fixed_size, ELEMENT_BYTES[precision], rewrites)
        if progress is not None:
            progress("counting", len(steps), len(configs))
    labels = compare_labels(model, signature, size, samples, progress)
    chosen = config.output_stride if output_stride is None else output_stride
    trained = config.output_stride if trained_stride is None else trained_stride
    trained = trained if has_weights(model) else 0
    rows = []
    for stride, changed in configs.items():
        agreement, miou = labels.shares.get(stride, (None, None))
        note, work = rounded_rates(config, stride), steps[stride][-1].after
        row = StrideRow(stride, changed.aspp_rates, stride == trained, stride == chosen, work, agreement, miou, note)
        rows.append(row)
    return Explanation(
        config=configs[chosen],
        checkpoint=model.checkpoint_source,
        size=size,
        size_from=size_from,
        precision=precision,
        steps=steps[chosen],
        strides=tuple(rows),
        images=labels.images,
        why_not_compared=labels.why_not,
    )


def rewrite_steps(
    config: ModelConfig, size: Size, fixed_size: Size | None, element_bytes: int, rewrites: bool = True
) -> tuple[Step, ...]:
    """What each rewrite does to a config's network, one after the other, without any weights.

    Args:
        config: of the network.
        size: (height, width) to count at.
        fixed_size: (height, width) of the file's input where it is fixed, which some rewrites need.
        element_bytes: size of activations and weights.
        rewrites: False applies only what every export needs.
    """
    model = on_meta(config)
    assert isinstance(model, DeepLab)
    before, steps = work_of(model, size, element_bytes), []
    for rewrite in REWRITES:
        off = not rewrites and rewrite.name not in ALWAYS_REWRITTEN
        reason = "switched off by --no-rewrites" if off else rewrite.why_not(model, fixed_size)
        after = before
        if not reason:
            model = rewrite.apply(model, fixed_size)
            after = work_of(model, size, element_bytes)
        applied = AppliedRewrite(rewrite.name, rewrite.summary, not reason, reason)
        steps.append(Step(applied, before, after))
        before = after
    return tuple(steps)


def counted_size(config: ModelConfig, signature: Signature) -> tuple[Size, str]:
    """(height, width) to count a network at, and where it comes from."""
    typical = (signature.height[1], signature.width[1])
    if signature.fixed_size is not None:
        return typical, "fixed by --height and --width"
    if (signature.height, signature.width) != (Signature().height, Signature().width):
        return typical, "the typical size of --height and --width"
    published = next((row for row in reference_rows() if row.name == config.name), None)
    if published is not None:
        return published.network_input, "the input that the config's dataset gives at test time"
    if config.window is not None:
        return config.window, "the window of the config's slide mode"
    if config.test_scale is not None:
        return (min(config.test_scale), max(config.test_scale)), "the largest that the config's test_scale gives"
    return typical, "the typical size of an exported file"


def difference(before: Work, after: Work) -> str:
    """Such as ``1409.26 -> 1331.95 GMAC (-5.5%), ...``."""
    parts = []
    for title, name, unit, decimals in _FIGURES:
        old, new = getattr(before, name), getattr(after, name)
        parts.append(f"{old / unit:.{decimals}f} -> {new / unit:.{decimals}f} {title} ({change(old, new)})")
    return ", ".join(parts)


def rewrites_table(steps: Sequence[Step]) -> Table:
    """One row a rewrite; below each figure what it changed."""
    table = Table(show_lines=True)
    table.add_column("rewrite")
    for title, *_ in _FIGURES:
        table.add_column(title, justify="right")
    table.add_row("as loaded", *_figures(steps[0].before))
    for step in steps:
        told, cells = f"not applied: {step.rewrite.reason}", ["-"] * len(_FIGURES)
        if step.rewrite.applied:
            told, cells = step.rewrite.summary, _figures(step.after, step.before)
        table.add_row(f"{step.rewrite.name}\n{told}", *cells)
    return table


def _figures(work: Work, before: Work | None = None) -> list[str]:
    """Cells of a row; below each figure how it differs from ``before``."""
    cells = []
    for _, name, unit, decimals in _FIGURES:
        value = getattr(work, name)
        cell = f"{value / unit:.{decimals}f}"
        cells.append(cell if before is None else f"{cell}\n{change(getattr(before, name), value)}")
    return cells


def change(before: float, after: float) -> str:
    """Such as ``-5.5%``."""
    return "same" if before == after else f"{after / before - 1:+.1%}"
