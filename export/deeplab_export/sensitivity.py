# SPDX-License-Identifier: Apache-2.0
"""Which layers a low precision hurts most, and how many of them must stay in higher precision to pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.table import Table

from deeplab_infer.preprocess import normalise, resize_image
from deeplab_infer.runtime import Runner
from deeplab_infer.runtime.onnxruntime_runner import open_bytes

from .convert import emulate_half
from .onnx_export import TracedNetwork, opset_of
from .precision import Precision
from .quantize import layers, quantisable
from .verify import Sample, Thresholds, VerificationReport, reference_logits, run_samples

_RANKING_PIXELS = 256 * 512  # the ranking needs many runs, and an order is all it needs
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Sensitivity:
    """A layer and what the low precision does to the logits when it alone is in it.

    Attributes:
        layer: the convolution's module.
        damage: root mean square error of the logits over their range.
        share: of the network's multiply-adds, 0..1.
        kept: whether it stays in higher precision.
    """

    layer: str
    damage: float
    share: float
    kept: bool = False


@dataclass(frozen=True)
class SearchResult:
    """What the search found.

    Attributes:
        precision: that was asked for.
        layers: most sensitive first.
        passed: whether keeping the marked layers passes the thresholds.
        runs: graphs that were run.
    """

    precision: str
    layers: list[Sensitivity]
    passed: bool
    runs: int

    @property
    def kept(self) -> tuple[str, ...]:
        """Layers to keep in higher precision."""
        return tuple(layer.layer for layer in self.layers if layer.kept)

    @property
    def cost(self) -> float:
        """Share of the multiply-adds that stay in higher precision, beside those that always do."""
        return sum(layer.share for layer in self.layers if layer.kept)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**asdict(self), "kept": list(self.kept), "cost": self.cost}

    def table(self, rows: int = 12) -> Table:
        """The most sensitive layers."""
        table = Table(title=f"what {self.precision} does to single layers", title_justify="left")
        table.add_column("layer")
        for name in ("logits error", "multiply-adds"):
            table.add_column(name, justify="right")
        table.add_column("")
        for layer in self.layers[: max(rows, len(self.kept))]:
            table.add_row(layer.layer, f"{layer.damage:.1e}", f"{layer.share:.1%}", "kept" if layer.kept else "")
        return table


def search(
    traced: TracedNetwork,
    precision: Precision,
    samples: Sequence[Sample],
    thresholds: Thresholds,
    *,
    judged_labels: bool = True,
    progress: Progress | None = None,
) -> SearchResult:
    """Find the fewest layers, in the order of their sensitivity, whose higher precision makes the samples pass.

    Every layer is run alone in the low precision to order them; then the number to keep is bisected. That takes the
    number of layers plus its logarithm runs on ONNX Runtime, the former on one small image.

    Args:
        traced: the network.
        precision: a half or eight-bit precision.
        samples: what must pass, at sizes that the graph accepts.
        thresholds: what passes.
        judged_labels: see `VerificationReport`.
        progress: called with (runs done, runs planned).
    """
    judge = _Judge(traced, precision, samples, thresholds, judged_labels)
    planned = len(judge.names) + len(judge.names).bit_length() + 1
    judge.report = lambda done: progress(done, planned) if progress is not None else None
    ranked = sorted(((judge.damage(name), name) for name in judge.names), reverse=True)
    order = [name for _, name in ranked]
    low, high = 0, len(order)
    while low < high:  # fewer than `low` fail, `high` passes or has not been tried
        middle = (low + high) // 2
        if judge.passes(order[:middle]):
            high = middle
        else:
            low = middle + 1
    shares = multiply_add_shares(traced, samples[0].image.shape[:2])
    found = [Sensitivity(name, damage, shares[name], index < high) for index, (damage, name) in enumerate(ranked)]
    return SearchResult(precision.name, found, judge.passes(order[:high]), judge.runs)


def multiply_add_shares(traced: TracedNetwork, size: tuple[int, ...]) -> dict[str, float]:
    """Each convolution's share of all their multiply-adds at an input of (height, width)."""
    model = onnx.ModelProto()
    model.CopyFrom(traced.graph)
    axes = (1, 2) if traced.signature.input == "uint8" else (2, 3)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for axis, side in ((0, 1), *zip(axes, size, strict=True)):
        dims[axis].dim_value = side
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    positions = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim][-2:]
        for value in (*inferred.value_info, *inferred.output)
    }
    weights = {tensor.name: int(np.prod(tensor.dims)) for tensor in model.graph.initializer}
    counts = {
        name: weights[node.input[1]] * int(np.prod(positions[node.output[0]]))
        for name, node in layers(traced.graph).items()
    }
    total = sum(counts.values())
    return {name: count / total for name, count in counts.items()}


class _Judge:
    """Runs graphs with some layers in higher precision and compares them."""

    def __init__(
        self,
        traced: TracedNetwork,
        precision: Precision,
        samples: Sequence[Sample],
        thresholds: Thresholds,
        judged_labels: bool,
    ) -> None:
        graph = traced.graph
        self.names = quantisable(graph) if precision.eight_bits is not None else list(layers(graph))
        self.runs = 0
        self.report: Callable[[int], None] = lambda done: None
        self._traced, self._precision, self._samples = traced, precision, samples
        self._verdict = VerificationReport("", precision.name, thresholds, judged_labels)
        self._references = [reference_logits(traced.model, sample.image) for sample in samples]
        self._passed: dict[int, bool] = {}
        self._small = _small_input(samples, traced)
        self._exact = self._run(graph)

    def damage(self, name: str) -> float:
        """Error of the output with one layer in the low precision; of labels, the share that differs."""
        found = self._run(self._graph([other for other in self.names if other != name]))
        self._count()
        if self._traced.signature.output == "labels":
            return float(np.mean(found != self._exact))
        error = float(np.sqrt(np.mean(np.square(found - self._exact))) / (np.ptp(self._exact) or 1.0))
        return error if np.isfinite(error) else float("inf")  # NaN has no place in an order

    def passes(self, keep: Sequence[str]) -> bool:
        """Whether the samples pass with these layers in higher precision."""
        if len(keep) not in self._passed:
            runner = self._open(self._graph(keep))
            report = replace(self._verdict, cases=[], quality=[])
            run_samples(runner, self._samples, self._references, report)
            self._passed[len(keep)] = report.passed
            self._count()
        return self._passed[len(keep)]

    def _graph(self, keep: Sequence[str]) -> onnx.ModelProto:
        if len(keep) == len(self.names) and self._precision.eight_bits is not None:
            return self._traced.graph  # nothing is left to quantise
        graph = self._traced.convert(self._precision, keep)
        return graph if self._precision.half is None else emulate_half(graph, self._precision.half)

    def _run(self, graph: onnx.ModelProto) -> NDArray[np.float64]:
        return self._open(graph).run(self._small).astype(np.float64)

    def _open(self, graph: onnx.ModelProto) -> Runner:
        return open_bytes(graph.SerializeToString(), self._traced.manifest(self._precision, (), opset_of(graph)))

    def _count(self) -> None:
        self.runs += 1
        self.report(self.runs)


def _small_input(samples: Sequence[Sample], traced: TracedNetwork) -> NDArray[Any]:
    """The first sample, shrunk where the graph lets it, as an input of the graph."""
    signature, image = traced.signature, samples[0].image
    factor = min(1.0, float(np.sqrt(_RANKING_PIXELS / (image.shape[0] * image.shape[1]))))
    limits = ((signature.height[0], signature.height[2]), (signature.width[0], signature.width[2]))
    size = [
        min(max(round(side * factor), low), high) for side, (low, high) in zip(image.shape[:2], limits, strict=True)
    ]
    batch = np.repeat(resize_image(image, (size[0], size[1]))[None], signature.batch[0], axis=0)
    return normalise(batch, traced.model.config) if signature.input == "float" else batch
