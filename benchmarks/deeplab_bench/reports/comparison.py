# SPDX-License-Identifier: Apache-2.0
"""Two records beside each other: which rows belong together, and which differences are more than noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deeplab_infer.errors import DeepLabError

from ..records import Record, Result, is_error, label
from .reading import MEASUREMENTS, Source, common_step, steps_of

FASTER, SLOWER, SAME = "faster", "slower", "same within noise"
_RESAMPLES = 2000
_SEED = 0
_CONFIDENCE = 0.95
_PRECISE = 0.01  # `timing.measure` stops when it knows a median to about this share: less is never a difference
_CEILING_CHANGE = 0.1
_MEASURED = ("ceilings.", "memory_gib")
_MEMORY = ("device_peak_mib", "host_peak_mib")
_OF_TRAINING = ("peak_mb", "saved_mb")
_CONDITIONS = ("name", "path", "precision", "device", "batch", "height", "width", "mode", "batchnorm")


@dataclass(frozen=True)
class Interval:
    """How many times as fast the second is, and where that figure lies with 95 % confidence."""

    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """`FASTER` or `SLOWER` where the whole interval is beyond 1 and the ratio by more than 1 %, else `SAME`."""
        if self.low > 1 and self.ratio > 1 + _PRECISE:
            return FASTER
        if self.high < 1 and self.ratio < 1 - _PRECISE:
            return SLOWER
        return SAME


@dataclass(frozen=True)
class Row:
    """One measurement in both records.

    Attributes:
        label: as readers see it.
        step: what was timed.
        speed: of the second against the first.
        before_ms, after_ms: medians of an image, ms.
        memory: name of the figure, which ends with its unit, to before and after, where both have it.
        agreement: share of pixels labelled like float32, before and after, or None.
        unsteady: either of the two was measured on a restless machine.
    """

    label: str
    step: str
    speed: Interval
    before_ms: float
    after_ms: float
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)
    agreement: tuple[float, float] | None = None
    unsteady: bool = False


@dataclass(frozen=True)
class Difference:
    """Something other than the code that differs between two records."""

    what: str
    before: str
    after: str


@dataclass(frozen=True)
class Comparison:
    """What `compare_records` found; labels of rows where it holds rows.

    Attributes:
        rows: in both, timed in both.
        only_before, only_after: in one record only.
        errors_appeared, errors_gone: failed in the second or the first only, with what was said.
        failed_in_both: rows without a figure.
        no_common_step: rows that were timed in both, but not the same step.
        differences: conditions that were not the same.
    """

    rows: list[Row]
    only_before: list[str]
    only_after: list[str]
    errors_appeared: dict[str, str]
    errors_gone: dict[str, str]
    failed_in_both: list[str]
    no_common_step: list[str]
    differences: list[Difference]

    def too_slow(self, ratio: float) -> list[Row]:
        """Rows whose whole interval lies below a ratio."""
        return [row for row in self.rows if row.speed.high < ratio]


def compare_records(before: Source, after: Source, step: str | None = None) -> Comparison:
    """Match the rows of two records and compare them.

    Args:
        before, after: of kinds run, table and peers in any combination, or both of kind kernels.
        step: the step to compare; None: the most complete one that both rows have. Kernels have one step.

    Raises:
        DeepLabError: kinds that cannot be compared, or no row in common.
    """
    kind = _common_kind(before, after)
    first, second = _rows_of(before.record, kind), _rows_of(after.record, kind)
    pairs = match(first, second)
    if not pairs:
        raise DeepLabError(
            f"{before.path} and {after.path} have no measurement in common; compare records of the same models, "
            "paths, precisions and sizes"
        )
    found = Comparison([], [], [], {}, {}, [], [], conditions(before.record, after.record))
    for i, j in pairs:
        _compare_pair(first[i], second[j], step, kind, found)
    found.only_before.extend(_named(first, {i for i, _ in pairs}))
    found.only_after.extend(_named(second, {j for _, j in pairs}))
    return found


def speed_interval(before: list[float], after: list[float]) -> Interval:
    """Ratio of the medians of two lists of times, above 1 where ``after`` takes less, with its 95 % interval.

    The interval is a percentile bootstrap with a fixed seed. It draws runs of neighbouring samples: times of one
    process depend on each other, and samples drawn one by one would make a drifting machine look certain.
    """
    rng = np.random.default_rng(_SEED)
    ratio = float(np.median(before) / np.median(after))
    ratios = _resampled_medians(before, rng) / _resampled_medians(after, rng)
    low, high = np.quantile(ratios, [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
    return Interval(ratio, min(float(low), ratio), max(float(high), ratio))


def match(before: list[Result], after: list[Result]) -> list[tuple[int, int]]:
    """Indices of rows that belong together: by key, and by name, path, precision and size where keys differ.

    Rows that come several times are matched in order.
    """
    pairs: list[tuple[int, int]] = []
    for identity in (_key, _conditions):
        left = [i for i in range(len(before)) if i not in {i for i, _ in pairs}]
        free: dict[Any, list[int]] = {}
        taken = {j for _, j in pairs}
        for j, result in enumerate(after):
            if j not in taken:
                free.setdefault(identity(result), []).append(j)
        for i in left:
            waiting = free.get(identity(before[i]), [])
            if waiting and identity(before[i]) is not None:
                pairs.append((i, waiting.pop(0)))
    return sorted(pairs)


def conditions(before: Record, after: Record) -> list[Difference]:
    """Machine, GPU, driver, versions, commit, protocol and ceilings that are not the same."""
    first, second = _flat_conditions(before), _flat_conditions(after)
    names = [*first, *(name for name in second if name not in first)]
    return [
        Difference(name, _said(first.get(name)), _said(second.get(name)))
        for name in names
        if not _alike(name, first.get(name), second.get(name))
    ]


def _common_kind(before: Source, after: Source) -> str:
    for source in (before, after):
        if source.record.kind not in (*MEASUREMENTS, "kernels"):
            raise DeepLabError(
                f"{source.path}: kind {source.record.kind!r} has no samples to compare; "
                f"give records of {', '.join(MEASUREMENTS)} or kernels"
            )
    kinds = {"kernels" if source.record.kind == "kernels" else "measurements" for source in (before, after)}
    if len(kinds) > 1:
        raise DeepLabError(f"{before.path} and {after.path}: only one of them is of kind 'kernels'")
    return kinds.pop()


def _rows_of(record: Record, kind: str) -> list[Result]:
    """Rows as measurements. A kernel's is the time of our implementation, in a step of its own."""
    if kind != "kernels":
        return record.results
    return [_kernel_row(result, record) for result in record.results]


def _kernel_row(result: Result, record: Record) -> Result:
    job = record.extra.get("job") or {}
    ours = result.get("ours", {"error": result.get("error", "not measured")})
    row = {"name": result["name"], "path": "", "precision": job.get("dtype"), "device": job.get("device"), "batch": 1}
    row["key"] = result.get("key") or "|".join(str(row[name]) for name in ("name", "precision", "device"))
    return {**row, "error": ours["error"]} if "error" in ours else {**row, "steps": {"ours": ours}}


def _compare_pair(before: Result, after: Result, step: str | None, kind: str, found: Comparison) -> None:
    name = label(after)
    if is_error(before) and is_error(after):
        found.failed_in_both.append(name)
    elif is_error(after):
        found.errors_appeared[name] = str(after["error"])
    elif is_error(before):
        found.errors_gone[name] = str(before["error"])
    else:
        chosen = "ours" if kind == "kernels" else _chosen_step(before, after, step)
        if chosen is None:
            found.no_common_step.append(name)
        else:
            found.rows.append(_row(name, before, after, chosen))


def _chosen_step(before: Result, after: Result, step: str | None) -> str | None:
    if step is None:
        return common_step([before, after])
    return step if step in steps_of(before) and step in steps_of(after) else None


def _row(name: str, before: Result, after: Result, step: str) -> Row:
    timings = before["steps"][step], after["steps"][step]
    times = [[ms / one["batch"] for ms in t["samples_ms"]] for one, t in zip((before, after), timings, strict=True)]
    memories = [_memory_of(one) for one in (before, after)]
    both = [key for key in memories[0] if key in memories[1]]
    agreements = [one["agreement"] for one in (before, after) if one.get("agreement") is not None]
    return Row(
        label=name,
        step=step,
        speed=speed_interval(*times),
        before_ms=float(np.median(times[0])),
        after_ms=float(np.median(times[1])),
        memory={key: (memories[0][key], memories[1][key]) for key in both},
        agreement=(agreements[0], agreements[1]) if len(agreements) == 2 else None,
        unsteady=any(bool(timing.get("unsteady")) for timing in timings),
    )


def _memory_of(result: Result) -> dict[str, float]:
    known = {name: (result.get("memory") or {}).get(name) for name in _MEMORY}
    known |= {name: result.get(name) for name in _OF_TRAINING}
    return {name: value for name, value in known.items() if value is not None}


def _resampled_medians(samples: list[float], rng: np.random.Generator) -> np.ndarray:
    """Medians of `_RESAMPLES` draws of neighbouring samples, the last followed by the first."""
    values = np.asarray(samples)
    length = max(1, round(len(values) ** (1 / 3)))
    starts = rng.integers(0, len(values), (_RESAMPLES, math.ceil(len(values) / length), 1))
    indices = (starts + np.arange(length)).reshape(_RESAMPLES, -1)[:, : len(values)] % len(values)
    return np.median(values[indices], axis=1)


def _named(results: list[Result], matched: set[int]) -> list[str]:
    return [label(result) for index, result in enumerate(results) if index not in matched]


def _key(result: Result) -> Any:
    return result.get("key")


def _conditions(result: Result) -> Any:
    return tuple(str(result.get(name)) for name in _CONDITIONS)


def _flat_conditions(record: Record) -> dict[str, Any]:
    ceilings = {f"ceilings.{name}": value for name, value in _flatten(record.ceilings or {}).items()}
    if isinstance(record.extra.get("copy_gb_s"), float):
        ceilings["ceilings.copy_gb_s"] = record.extra["copy_gb_s"]
    how = {**_flatten(record.protocol), **_flatten(record.extra.get("job") or {})}
    return {
        "kind": record.kind,
        **_flatten(record.machine),
        **{f"protocol.{name}": value for name, value in how.items()},
        **ceilings,
        "complete": record.complete,
    }


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, one in value.items():
        flat.update(_flatten(one, f"{prefix}{name}.") if isinstance(one, dict) else {f"{prefix}{name}": one})
    return flat


def _alike(name: str, before: Any, after: Any) -> bool:
    """Equal; what is measured anew each time within 10 %."""
    if name.startswith(_MEASURED) and isinstance(before, float) and isinstance(after, float):
        return abs(before - after) <= _CEILING_CHANGE * max(abs(before), abs(after))
    return bool(before == after)


def _said(value: Any) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
