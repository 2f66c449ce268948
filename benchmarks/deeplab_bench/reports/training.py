# SPDX-License-Identifier: Apache-2.0
"""Ways of training beside plain torch: time, peak and saved bytes, and where in the network those are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..records import Record, Result, is_error
from .markup import Table
from .reading import NO_VALUE, clean, input_text, is_plain_training, is_timed, record_on_gpu, speeds
from .wording import figure, mebibytes, ratio_text, share

_LEFT = ("network", "path", "precision", "input")
_MEMORY = {"peak": "peak_mb", "saved": "saved_mb"}


@dataclass(frozen=True)
class _Line:
    """A result beside plain torch under the same conditions, or None where that failed."""

    result: Result
    plain: Result | None
    speed: float | None

    def median(self, name: str) -> float | None:
        return self.result["steps"]["train"][name] if is_timed(self.result) else None

    def ratio(self, name: str) -> float | None:
        base = None if self.plain is None else self.plain.get(name)
        mine = self.result.get(name)
        return mine / base if base and mine is not None else None


def tables(record: Record) -> list[Table]:
    """A line a way of training, and the saved bytes of every network by part; on a CPU ratios alone."""
    lines = _lines(record)
    if not lines:
        return []
    columns = _columns(record_on_gpu(record))
    rows = [[cell(line) for cell in columns.values()] for line in lines]
    main = Table(list(columns), rows, _LEFT, "A training step; x plain: times plain torch's").without_empty_columns()
    return [main, *_part_tables(record)]


def explanation(record: Record) -> list[str]:
    """What a reader must know beside the tables."""
    said = [
        "x plain, speed: how many times as fast as plain torch in the same run; x plain of memory: below 1 is less. "
        "saved: what the forward pass leaves for the backward pass, counted. Both in MB, 1e6 bytes."
    ]
    timed = any(map(is_timed, record.results))
    if timed and record_on_gpu(record):
        said.append("peak: torch's allocator over a step, with the network, its gradients and the momentum.")
    elif timed:
        said.append(
            "peak: resident memory beyond that before the network, of a CPU's allocator. Times of a CPU are in the "
            "record; they compare with no other machine's."
        )
    return said


def headline(record: Record) -> str:
    """The best that training through our kernels did, over plain torch."""
    lines = [line for line in _lines(record) if not is_error(line.result)]
    names = len({line.result["name"] for line in lines})
    said = [f"{names} network{'s' if names > 1 else ''}"]
    ours = [line for line in lines if line.result["path"] == "fused"]
    told = {
        "speed": [line.speed for line in ours if line.speed],
        **{title: [r for line in ours if (r := line.ratio(name))] for title, name in _MEMORY.items()},
    }
    said += [f"fused: {_range(values)} plain torch's {title}" for title, values in told.items() if values]
    return "; ".join(said)


def _range(values: list[float]) -> str:
    low, high = ratio_text(min(values)), ratio_text(max(values))
    return low if low == high else f"{low} to {high}"


def _columns(gpu: bool) -> dict[str, Callable[[_Line], str]]:
    times: dict[str, Callable[[_Line], str]] = {
        "images/s": lambda line: figure(_images_per_second(line)),
        "step, ms": lambda line: figure(line.median("median_ms")),
        "p90, ms": lambda line: figure(line.median("p90_ms")),
    }
    return {
        "network": lambda line: clean(line.result["name"]),
        "path": lambda line: clean(line.result["path"]),
        "precision": lambda line: clean(line.result["precision"]),
        "input": lambda line: input_text(line.result),
        "speed, x plain": _speed,
        "peak, x plain": lambda line: ratio_text(line.ratio("peak_mb")),
        "saved, x plain": lambda line: ratio_text(line.ratio("saved_mb")),
        **(times if gpu else {}),
        "peak MB": lambda line: mebibytes(line.result.get("peak_mb")),
        "saved MB": lambda line: mebibytes(line.result.get("saved_mb")),
        "first loss": lambda line: _loss(line.result),
    }


def _speed(line: _Line) -> str:
    if is_error(line.result):
        return "out of memory" if line.result.get("out_of_memory") else "failed"
    return ratio_text(line.speed)


def _loss(result: Result) -> str:
    value = result.get("first_loss")
    return NO_VALUE if value is None else f"{value:.4f}"


def _images_per_second(line: _Line) -> float | None:
    time = line.median("median_ms")
    return None if time is None else line.result["batch"] * 1000 / time


def _lines(record: Record) -> list[_Line]:
    ratios = {id(speed.result): speed.ratio for speed in speeds(record)}
    good = [one for one in record.results if not is_error(one)]
    return [
        _Line(
            result,
            next((one for one in good if is_plain_training(one, result)), None),
            ratios.get(id(result)),
        )
        for result in record.results
    ]


def _part_tables(record: Record) -> list[Table]:
    """A table a network and precision, of the smallest batch: saved bytes grow in proportion to it."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in sorted(record.results, key=lambda one: int(one.get("batch", 0))):
        if "saved_parts_mb" in result:
            group = groups.setdefault((result["name"], result["precision"]), [])
            if not group or group[0]["batch"] == result["batch"]:
                group.append(result)
    return [_part_table(group) for group in groups.values()]


def _part_table(group: list[Result]) -> Table:
    parts = list(dict.fromkeys(part for result in group for part in result["saved_parts_mb"]))
    first = group[0]["saved_mb"]
    rows = []
    for part in parts:
        sizes = [result["saved_parts_mb"].get(part, 0.0) for result in group]
        of_first = share(sizes[0] / first, 1) if first else NO_VALUE
        rows.append([clean(part), *(f"{size:.1f}" for size in sizes), of_first])
    rows.append(["all", *(f"{result['saved_mb']:.1f}" for result in group), share(1.0, 1)])
    titles = ["part", *(clean(result["path"]) for result in group), f"of {clean(group[0]['path'])}"]
    how = f"{group[0]['name']}, {group[0]['precision']}, {input_text(group[0])}"
    return Table(titles, rows, ("part",), f"Saved MB by part of {clean(how)}")
