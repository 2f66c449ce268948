# SPDX-License-Identifier: Apache-2.0
"""An exported file against the float32 network that it came from, on real runtimes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from rich.table import Table

from deeplab_infer.data.synthetic_streets import MIN_SIZE, generate_street
from deeplab_infer.engine_manifest import ENGINE_SUFFIXES
from deeplab_infer.errors import ExportError
from deeplab_infer.evaluation import ConfusionMatrix
from deeplab_infer.manifest import Manifest
from deeplab_infer.models import DeepLab
from deeplab_infer.ops.functional import upsample
from deeplab_infer.preprocess import normalise, resize_image
from deeplab_infer.runtime import Runner, open_runner, read_manifest

from .convert import emulate_half
from .precision import choose_precision

Size = tuple[int, int]
_RUNTIME = {".xml": ("openvino",)} | dict.fromkeys(ENGINE_SUFFIXES, ("tensorrt",))


@dataclass(frozen=True)
class Thresholds:
    """What passes.

    Attributes:
        logits: largest error over the range of the float32 logits.
        agreement: share of pixels with the float32 network's label.
        miou_drop: loss of mIoU, in points of 100, where ground truth is given.
    """

    logits: float
    agreement: float
    miou_drop: float = 0.5


# fp32 differs only by the order of sums; tf32 and fp16 have 11 significant bits and some fifty layers in a row, bf16
# has 8. Eight bits are judged by the labels: a few logits are far off where the labels are not.
THRESHOLDS = {
    "fp32": Thresholds(1e-4, 0.9999),
    "tf32": Thresholds(2e-2, 0.999),
    "fp16": Thresholds(2e-2, 0.999),
    "bf16": Thresholds(1e-1, 0.99),
    "int8": Thresholds(3e-1, 0.98),
    "fp8": Thresholds(3e-1, 0.97),
}


@dataclass(frozen=True)
class Case:
    """One image on one runtime.

    Attributes:
        runtime: backend and device.
        image: what was segmented.
        batch, height, width: of the input.
        logits_error: largest error over the range of the float32 logits; None for a model that gives labels.
        mean_error: mean error over that range.
        agreement: share of pixels with the float32 network's label.
        worst_pixel: (row, column) of the largest error of the logits, in input pixels.
        margin: where labels differ, the largest lead of the float32 winner over the label given, over the range.
        class_agreement: agreement on the pixels of each class that the float32 network sees.
        miou, miou_reference: of the file and of the float32 network, where ground truth is given.
    """

    runtime: str
    image: str
    batch: int
    height: int
    width: int
    logits_error: float | None
    mean_error: float | None
    agreement: float
    worst_pixel: tuple[int, int] | None
    margin: float
    class_agreement: dict[str, float]
    miou: float | None = None
    miou_reference: float | None = None


@dataclass(frozen=True)
class Quality:
    """mIoU over all images with known labels on one runtime.

    Attributes:
        runtime: backend and device.
        images: how many.
        miou, miou_reference: of the file and of the float32 network, 0..1.
    """

    runtime: str
    images: int
    miou: float
    miou_reference: float

    @property
    def drop(self) -> float:
        """Loss in points of 100."""
        return (self.miou_reference - self.miou) * 100


@dataclass(frozen=True)
class VerificationReport:
    """All cases and whether they pass.

    Attributes:
        file: the exported file.
        precision: of the file.
        thresholds: what passes.
        judged_labels: whether label agreement decides; random weights have near ties everywhere, so it does not
            for them.
        cases: one a runtime and image.
        quality: one a runtime, where labels are known; the loss of mIoU is judged over all images together.
        search: what the sensitivity search found, where one was made.
    """

    file: str
    precision: str
    thresholds: Thresholds
    judged_labels: bool
    cases: list[Case] = field(default_factory=list)
    quality: list[Quality] = field(default_factory=list)
    search: dict[str, Any] | None = None

    @property
    def passed(self) -> bool:
        """Every case, and the mIoU of every runtime, within the thresholds."""
        lost = any(found.drop > self.thresholds.miou_drop for found in self.quality)
        return bool(self.cases) and not lost and not any(self.reasons(case) for case in self.cases)

    def reasons(self, case: Case) -> list[str]:
        """Why a case fails; empty where it passes."""
        limits, reasons = self.thresholds, []
        if case.logits_error is not None and not case.logits_error <= limits.logits:
            reasons.append(f"logits error {case.logits_error:.2e} > {limits.logits:.0e}")
        if self.judged_labels and case.agreement < limits.agreement:
            reasons.append(f"agreement {case.agreement:.4%} < {limits.agreement:.2%}")
        return reasons

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        cases = [{**asdict(case), "failed": self.reasons(case)} for case in self.cases]
        return {
            "file": self.file,
            "precision": self.precision,
            "passed": self.passed,
            "judged_labels": self.judged_labels,
            "thresholds": asdict(self.thresholds),
            "cases": cases,
            "quality": [{**asdict(found), "drop": found.drop} for found in self.quality],
            "search": self.search,
        }

    def table(self) -> Table:
        """The cases as a rich table."""
        table = Table(title=f"{Path(self.file).name} against the float32 network", title_justify="left")
        with_miou = any(case.miou is not None for case in self.cases)
        for name in ("runtime", "image", "input"):
            table.add_column(name)
        for name in ("max error", "mean error", "label agreement", "worst class", "margin"):
            table.add_column(name, justify="right")
        if with_miou:
            table.add_column("mIoU (float32)", justify="right")
        table.add_column("")
        for case in self.cases:
            worst = min(case.class_agreement.items(), key=lambda item: item[1])
            row = [
                case.runtime,
                case.image,
                f"{case.batch} x {case.height} x {case.width}",
                "-" if case.logits_error is None else f"{case.logits_error:.1e}",
                "-" if case.mean_error is None else f"{case.mean_error:.1e}",
                f"{case.agreement:.4%}",
                f"{worst[0]} {worst[1]:.2%}",
                "-" if case.agreement == 1 else f"{case.margin:.1e}",
            ]
            if with_miou:
                shown = case.miou is not None and case.miou_reference is not None
                row.append(f"{case.miou:.2%} ({case.miou_reference:.2%})" if shown else "-")
            row.append("; ".join(self.reasons(case)) or "ok")
            table.add_row(*row, style=None if not self.reasons(case) else "red")
        for found in self.quality:
            verdict = "within" if found.drop <= self.thresholds.miou_drop else "ABOVE"
            text = (
                f"{found.runtime}: mIoU over {found.images} images {found.miou:.2%} (float32 "
                f"{found.miou_reference:.2%}), loss {found.drop:.2f} points, {verdict} the limit "
                f"of {self.thresholds.miou_drop}"
            )
            table.caption = f"{table.caption}\n{text}" if table.caption else text
        return table


@dataclass(frozen=True)
class Sample:
    """An image to verify with: uint8 [H, W, 3] RGB, and its true labels [H, W] where known."""

    name: str
    image: NDArray[np.uint8]
    labels: NDArray[Any] | None = None


def verify(
    model: DeepLab,
    path: str | os.PathLike[str],
    *,
    samples: Sequence[Sample] | None = None,
    runtimes: Iterable[str] = ("onnxruntime",),
    thresholds: Thresholds | None = None,
) -> VerificationReport:
    """Run an exported file and the network on the same images and compare.

    Logits are compared at the network's stride, labels at the input's size, both after the same bilinear resize.
    Errors are relative to the range (max - min) of the float32 logits of the image.

    Args:
        model: the float32 network.
        path: file written by `export_onnx`, `export_openvino` or `build_engine`.
        samples: images; by default street scenes of several sizes that the file accepts, and noise.
        runtimes: backends of `deeplab_infer.runtime`; engines and OpenVINO files have their own.
        thresholds: what passes; by default `THRESHOLDS` of the file's precision.

    Raises:
        ModelFileError, BackendError: the file or a runtime is unusable.
        ExportError: no image fits the sizes that the file accepts.
    """
    manifest, runtimes = read_manifest(path), _RUNTIME.get(Path(path).suffix, runtimes)
    samples = default_samples(manifest) if samples is None else fit_samples(samples, manifest)
    if not samples:
        raise ExportError("no image to verify with")
    report = VerificationReport(
        file=os.fspath(path),
        precision=manifest.precision,
        thresholds=thresholds or THRESHOLDS[manifest.precision],
        judged_labels=manifest.checkpoint_sha256 is not None or bool(model.checkpoint_source),
    )
    references = [reference_logits(model, sample.image) for sample in samples]
    for name in runtimes:
        runner = _open(path, name, manifest)
        try:
            run_samples(runner, samples, references, report)
        finally:
            runner.close()
    return report


def run_samples(
    runner: Runner,
    samples: Sequence[Sample],
    references: Sequence[NDArray[np.float32]],
    report: VerificationReport,
) -> None:
    """Compare all samples on a runner and add what comes out to a report."""
    config = runner.manifest.config
    matrices = [ConfusionMatrix(config.classes, config.dataset.ignore_index) for _ in range(2)]
    for sample, reference in zip(samples, references, strict=True):
        report.cases.append(compare(runner, sample, reference, matrices))
    known = sum(sample.labels is not None for sample in samples)
    if known:
        miou, miou_reference = (matrix.scores().miou for matrix in matrices)
        report.quality.append(Quality(report.cases[-1].runtime, known, miou, miou_reference))


def _open(path: str | os.PathLike[str], runtime: str, manifest: Manifest) -> Runner:
    half = choose_precision(manifest.precision, manifest.rest or "fp32").half
    if runtime == "onnxruntime" and half is not None:
        from deeplab_infer.runtime.onnxruntime_runner import open_bytes

        # On CPUs ONNX Runtime has no bfloat16 convolution and computes neighbouring fp16 layers in float32 without
        # rounding between them: its float32 layers, every result rounded, show what hardware does.
        runner = open_bytes(emulate_half(onnx.load(os.fspath(path)), half).SerializeToString(), manifest)
        runner.device = f"cpu, {'bfloat16' if manifest.precision == 'bf16' else 'float16'} emulated"
        return runner
    # Engines run where they were built for, everything else is checked on the CPU.
    return open_runner(path, backend=runtime, device="auto" if runtime.startswith("tensorrt") else "cpu")


def default_samples(manifest: Manifest) -> list[Sample]:
    """Street scenes at the typical, a smaller odd and a portrait size, as far as the file accepts them, and noise.

    Eight-bit files are not judged on noise.
    """
    typical = (min(manifest.height[1], 512), min(manifest.width[1], 1024))
    wanted = [typical, (typical[0] // 2 + 1, typical[1] // 2 + 1), (typical[1] // 3, typical[0] // 3)]
    sizes = list(dict.fromkeys(_clip(size, manifest) for size in wanted))
    samples = [Sample(f"street {seed}", *_street(1_000_000 + seed, size)) for seed, size in enumerate(sizes)]
    if manifest.precision in ("int8", "fp8"):
        return samples  # noise is unlike anything that scales were calibrated for
    noise = np.random.default_rng(0).integers(0, 256, (*sizes[-1], 3), dtype=np.uint8)
    return [*samples, Sample("noise", noise)]


def _street(seed: int, size: Size) -> tuple[NDArray[np.uint8], None]:
    image, _ = generate_street(seed, max(size[0], MIN_SIZE), max(size[1], MIN_SIZE))
    return image[: size[0], : size[1]], None


def _clip(size: Size, manifest: Manifest) -> Size:
    return (
        min(max(size[0], manifest.height[0]), manifest.height[2]),
        min(max(size[1], manifest.width[0]), manifest.width[2]),
    )


def fit_samples(samples: Sequence[Sample], manifest: Manifest) -> list[Sample]:
    """Given images at sizes that the file accepts."""
    return [_fit(sample, manifest) for sample in samples]


def _fit(sample: Sample, manifest: Manifest) -> Sample:
    """A given image at a size that the file accepts; labels follow by nearest neighbour."""
    shape = (sample.image.shape[0], sample.image.shape[1])
    size = _clip(shape, manifest)
    if size == shape:
        return sample
    labels = None
    if sample.labels is not None:
        rows = (np.arange(size[0]) * shape[0]) // size[0]
        columns = (np.arange(size[1]) * shape[1]) // size[1]
        labels = sample.labels[rows][:, columns]
    return Sample(sample.name, resize_image(sample.image, size), labels)


def reference_logits(model: DeepLab, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The float32 network's logits [C, h, w] of an image, uint8 [H, W, 3] RGB."""
    device = next(model.parameters()).device
    with torch.inference_mode():
        x = torch.from_numpy(normalise(image[None], model.config)).to(device)
        return model.eval()(x)[0].float().cpu().numpy()


def compare(
    runner: Runner, sample: Sample, reference: NDArray[np.float32], matrices: Sequence[ConfusionMatrix] = ()
) -> Case:
    """One sample on one runner against the float32 network's logits [C, h, w].

    Known labels are also counted in ``matrices``, of the file and of the float32 network.
    """
    manifest, config = runner.manifest, runner.manifest.config
    count = manifest.batch[0]
    batch = np.repeat(sample.image[None], count, axis=0)
    output = runner.run(normalise(batch, config) if manifest.input_kind == "float" else batch)[-1]
    size = (sample.image.shape[0], sample.image.shape[1])
    full = upsample(reference, size, config.align_corners)
    truth = full.argmax(0)
    span = max(float(reference.max() - reference.min()), 1e-12)
    logits_error = mean_error = worst = None
    if manifest.output_kind == "logits":
        error = np.abs(output.astype(np.float64) - reference)
        logits_error, mean_error = float(error.max() / span), float(error.mean() / span)
        if not np.isfinite(error).all():
            logits_error = mean_error = float("inf")
        row, column = np.unravel_index(int(np.nan_to_num(error, nan=np.inf).max(0).argmax()), error.shape[1:])
        worst = (int(row) * config.logits_stride, int(column) * config.logits_stride)
        labels = upsample(output.astype(np.float32), size, config.align_corners).argmax(0)
    else:
        labels = output.astype(np.int64)
    same = labels == truth
    lead = np.take_along_axis(full, truth[None], 0)[0] - np.take_along_axis(full, labels[None], 0)[0]
    miou = miou_reference = None
    if sample.labels is not None:
        miou, miou_reference = (_miou(found, sample.labels, config) for found in (labels, truth))
        for matrix, found in zip(matrices, (labels, truth), strict=False):
            matrix.add(found, sample.labels)
    return Case(
        runtime=f"{runner.name} {runner.device}",
        image=sample.name,
        batch=count,
        height=size[0],
        width=size[1],
        logits_error=logits_error,
        mean_error=mean_error,
        agreement=float(same.mean()),
        worst_pixel=worst,
        margin=float(lead.max() / span),
        class_agreement={
            config.classes[index]: float(same[truth == index].mean()) for index in np.unique(truth).tolist()
        },
        miou=miou,
        miou_reference=miou_reference,
    )


def _miou(labels: NDArray[Any], truth: NDArray[Any], config: Any) -> float:
    matrix = ConfusionMatrix(config.classes, config.dataset.ignore_index)
    matrix.add(labels, truth)
    return matrix.scores().miou
