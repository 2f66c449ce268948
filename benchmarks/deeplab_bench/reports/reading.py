# SPDX-License-Identifier: Apache-2.0
"""Result files as ``compare`` and ``report`` read them: checked, and with the figures that follow from them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deeplab_infer.errors import DeepLabError

from ..records import STEPS, Record, Result, is_error, read_record

MEASUREMENTS = ("run", "table", "peers", "train")
NO_VALUE = "-"
_REFERENCE = "reference"
_EAGER = "fp32 eager"
_PLAIN = "plain"
_TIMING = ("median_ms", "p90_ms", "p99_ms", "spread")
_NUMBERS = {
    "run": ("batch", "height", "width"),
    "table": ("batch", "height", "width"),
    "peers": ("batch", "height", "width"),
    "kernels": ("bytes",),
    "layers": ("total_ms", "batch", "height", "width"),
    "macs": ("height", "width", "dense_gmacs"),
    "train": ("batch", "height", "width"),
}
_OPTIONAL = (
    "windows", "energy_j_per_image", "gmacs_per_image", "mb_per_image", "agreement", "floor_ms", "error_to_eager",
    "space_to_batch_gmacs", "profiler_gmacs", "published_gmacs", "deviation", "peak_mb", "saved_mb", "first_loss",
)  # fmt: skip
_ENTRY_OPTIONAL = ("gmacs", "mb", "floor_ms", "share", "mb_eager", "mb_fused", "weights_m")
_PARTS = ("memory", "published", "saved_parts_mb")
_LISTS = {"layers": ("layers", ("ms",)), "macs": ("stages", ("gmacs",))}
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Source:
    """A record and the file that it came from."""

    path: Path
    record: Record


def find_files(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Files as given, and every ``.json`` below a folder; each once.

    Raises:
        DeepLabError: a folder without any.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        if not files:
            raise DeepLabError(f"{path}: no .json file in this folder; deeplab-bench writes results with --json FILE")
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def read_source(path: str | os.PathLike[str]) -> Source:
    """Read a record and check that every figure that tables and plots need is there.

    Raises:
        DeepLabError: as `read_record`, or a result lacks a figure.
    """
    record = read_record(path)
    try:
        for result in record.results:
            _check_result(record.kind, result)
        _check_parts(record)
    except ValueError as error:
        raise DeepLabError(f"{path}: {error}; the file is damaged, measure again") from error
    return Source(Path(path), record)


def clean(text: object) -> str:
    """One printable line: control characters and halves of characters cannot stand in XML, Markdown or UTF-8."""
    lines = str(text).replace("\r\n", " ").replace("\n", " ").replace("\t", " ")
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", lines)


def on_gpu(result: Result) -> bool:
    """Whether a result was measured on a GPU."""
    return str(result.get("device", "")).lower().startswith(("cuda", "gpu"))


def record_on_gpu(record: Record) -> bool:
    """Whether any result of a record was measured on a GPU: only then do its absolute times mean anything."""
    job = record.extra.get("job")
    if record.kind == "kernels" and isinstance(job, dict):
        return on_gpu(job)
    return any(on_gpu(result) for result in record.results)


def steps_of(result: Result) -> list[str]:
    """Measured steps, the least complete first."""
    return [step for step in STEPS if step in result.get("steps", {})]


def common_step(results: Iterable[Result]) -> str | None:
    """The most complete step that all of the results have; None where they share none."""
    shared = [set(steps_of(result)) for result in results]
    return next((step for step in reversed(STEPS) if shared and all(step in steps for steps in shared)), None)


def images_per_second(result: Result, step: str) -> float:
    """Images a second of one step."""
    return float(result["batch"] * 1000 / result["steps"][step]["median_ms"])


def implementations(result: Result) -> dict[str, dict[str, Any]]:
    """Of a kernel's result: every implementation that was timed or failed, ``ours`` first."""
    found = {
        name: value
        for name, value in result.items()
        if isinstance(value, dict) and ("median_ms" in value or "error" in value)
    }
    return {name: found[name] for name in sorted(found, key=lambda name: name != "ours")}


def input_text(result: Result) -> str:
    """Batch and size of what went in, such as ``1 x 512 x 1024``; windows where the image was cut."""
    size = " x ".join(str(result.get(name, "?")) for name in ("batch", "height", "width"))
    windows = result.get("windows") or 1
    return f"{size}, {windows} windows" if windows > 1 else size


@dataclass(frozen=True)
class Speed:
    """A measurement beside what it is compared with.

    Attributes:
        result: the measurement, which did not fail.
        baseline: the reference of the same network, or None where there is none or it failed.
        step: what was compared: the most complete step that both have; of a table row the last of each, because ours
            includes what the reference's protocol does not time.
        baseline_step: of the baseline.
    """

    result: Result
    baseline: Result | None
    step: str
    baseline_step: str

    @property
    def fps(self) -> float:
        """Images a second."""
        return images_per_second(self.result, self.step)

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the baseline."""
        if self.baseline is None or self.baseline_step not in self.baseline["steps"]:
            return None
        return self.fps / images_per_second(self.baseline, self.baseline_step)

    @property
    def roofline(self) -> float | None:
        """Share of the fastest that this machine's memory and matrix units would allow."""
        floor = self.result.get("floor_ms")
        return None if floor is None else floor * self.fps / 1000

    @property
    def over_published(self) -> float | None:
        """How many times as fast as the printed figure."""
        printed = published(self.result, "fps")
        return None if printed is None else self.fps / printed


def published(result: Result, name: str) -> float | None:
    """A printed figure of a table row."""
    value = (result.get("published") or {}).get(name)
    return None if value is None else float(value)


def speeds(record: Record) -> list[Speed]:
    """Every measurement that was timed, with its baseline (`baseline_of`), in the record's order."""
    made = []
    for result in record.results:
        if not is_timed(result):
            continue
        baseline = baseline_of(record, result)
        last = steps_of(result)[-1]
        if record.kind == "table":
            made.append(Speed(result, baseline, last, steps_of(baseline)[-1] if baseline else last))
            continue
        step = (common_step([result, baseline]) if baseline else None) or last
        made.append(Speed(result, baseline, step, step))
    return made


def baseline_of(record: Record, result: Result) -> Result | None:
    """What a measurement's speed is told against.

    A table row: path ``reference`` of the same row. Peers: the first ``... fp32 eager`` of the same network and size.
    Training: plain torch of the same network, batch, size and precision. A run: the first measurement of the file.
    """
    usable = [one for one in record.results if is_timed(one)]
    if record.kind == "run":
        return usable[0] if usable else None
    if record.kind == "train":
        return next((one for one in usable if is_plain_training(one, result)), None)
    is_baseline = _is_reference if record.kind == "table" else _is_eager
    same = [one for one in usable if is_baseline(one) and _place(one) == _place(result)]
    return next((one for one in same if one["batch"] == result["batch"]), same[0] if same else None)


def is_timed(result: Result) -> bool:
    """Whether a measurement has times: it did not fail, and was not only counted."""
    return not is_error(result) and bool(steps_of(result))


def is_plain_training(one: Result, result: Result) -> bool:
    """Whether a training step is what another one is told against: plain torch under the same conditions."""
    alike = ("name", "precision", "batch", "height", "width", "batchnorm")
    return one.get("path") == _PLAIN and all(one.get(name) == result.get(name) for name in alike)


def geometric_mean(values: list[float]) -> float:
    """Of positive values; the mean for ratios."""
    return math.exp(sum(math.log(value) for value in values) / len(values))


def _is_reference(result: Result) -> bool:
    return result.get("path") == _REFERENCE


def _is_eager(result: Result) -> bool:
    return str(result.get("path", "")).endswith(_EAGER)


def _place(result: Result) -> tuple[Any, ...]:
    return tuple(result.get(name) for name in ("name", "height", "width"))


def _check_result(kind: str, result: Result) -> None:
    if is_error(result):
        return
    for name in _NUMBERS[kind]:
        _require_number(result, name, result["name"])
    for entry, names in ((result, _OPTIONAL), *((result.get(part), ()) for part in _PARTS)):
        _check_optional(entry, names, result["name"])
    if kind in MEASUREMENTS:
        steps = result.get("steps")
        if kind == "train" and "steps" not in result and "saved_mb" in result:
            return
        if not isinstance(steps, dict) or not steps_of(result):
            raise ValueError(f"result {clean(result['name'])!r} has no timed step")
        for step in steps_of(result):
            _check_timing(steps[step], f"{result['name']}, {step}")
    elif kind == "kernels":
        for name, timing in implementations(result).items():
            if "error" not in timing:
                _check_timing(timing, f"{result['name']}, {name}")
    else:
        _check_list(result, *_LISTS[kind])


def _check_optional(entry: Any, names: tuple[str, ...], where: str) -> None:
    """Figures that may be missing or null; ``names`` empty: every figure of the entry."""
    if entry is None:
        return
    if not isinstance(entry, dict):
        raise ValueError(f"{clean(where)}: {entry!r} is not an object")
    for name in names or entry:
        if entry.get(name) is not None:
            _require_number(entry, name, where)


def _check_list(result: Result, name: str, numbers: tuple[str, ...]) -> None:
    entries = result.get(name)
    if not isinstance(entries, list) or not all(isinstance(one, dict) and "name" in one for one in entries):
        raise ValueError(f"result {clean(result['name'])!r} has no list of named {name}")
    for entry in entries:
        for number in numbers:
            _require_number(entry, number, f"{result['name']}, {entry['name']}")
        _check_optional(entry, _ENTRY_OPTIONAL, f"{result['name']}, {entry['name']}")


def _check_timing(timing: Any, where: str) -> None:
    if not isinstance(timing, dict):
        raise ValueError(f"{clean(where)}: no timing")
    for name in _TIMING:
        _require_number(timing, name, where)
    samples = timing.get("samples_ms")
    if not isinstance(samples, list) or not samples or not all(_positive(sample) for sample in samples):
        raise ValueError(f"{clean(where)}: samples_ms is not a list of times")
    if not _positive(timing["median_ms"]):
        raise ValueError(f"{clean(where)}: median_ms is {timing['median_ms']}")


def _require_number(entry: dict[str, Any], name: str, where: str) -> None:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{clean(where)}: {name} is {value!r}, not a number")


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0


def _check_parts(record: Record) -> None:
    shapes: dict[str, tuple[Callable[[Any], bool], str]] = {
        "machine": (lambda value: isinstance(value, dict), "an object"),
        "protocol": (lambda value: isinstance(value, dict), "an object"),
        "command": (lambda value: isinstance(value, list), "a list"),
        "started": (lambda value: isinstance(value, str), "a text"),
        "finished": (lambda value: isinstance(value, str), "a text"),
        "ceilings": (lambda value: value is None or isinstance(value, dict), "an object or null"),
        "left_out": (
            lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
            "a list of objects",
        ),
    }
    for name, (fits, wanted) in shapes.items():
        if not fits(getattr(record, name)):
            raise ValueError(f"{name} is not {wanted}")
