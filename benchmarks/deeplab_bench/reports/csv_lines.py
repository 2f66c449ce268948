# SPDX-License-Identifier: Apache-2.0
"""Records as flat lines for a spreadsheet, and merged into one JSON file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from ..records import SCHEMA_VERSION, STEPS, Record, Result, fps, is_error
from .reading import MEASUREMENTS, Source, clean, implementations, steps_of

_OF_RECORD = ("file", "kind", "started", "complete", "cpu", "gpu", "commit")
_OF_RESULT = (
    "key", "name", "path", "backend", "device", "precision", "batch", "height", "width", "mode", "windows",
    "batchnorm", "fps", "energy_j_per_image", "gmacs_per_image", "floor_ms", "agreement", "error",
)  # fmt: skip
_OF_STEP = ("median_ms", "p90_ms", "p99_ms", "spread", "unsteady", "warmup")
_MEMORY = ("host_peak_mib", "host_model_mib", "device_peak_mib", "weights_mib", "activations_mib")
_OF_TRAINING = ("peak_mb", "saved_mb", "first_loss")
_PUBLISHED = ("fps", "miou", "miou_ms_flip", "memory_gb")
_OF_PART = ("part", "op", "ms", "gmacs", "mb", "share")
_OF_KERNEL = ("implementation", "operator", "bytes", "copy_gb_s", *_OF_STEP, "samples", "error_to_eager")
_OF_MACS = (
    "dense_gmacs", "space_to_batch_gmacs", "profiler_gmacs", "published_gmacs", "deviation",
)  # fmt: skip


def render_csv(sources: list[Source]) -> str:
    """One line a measurement; of kernels one an implementation, of layers one a layer. Empty: does not apply."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _columns(), lineterminator="\n")
    writer.writeheader()
    for source in sources:
        of_record = _record_cells(source)
        for line in _lines(source.record):
            cells = {**of_record, **line}
            writer.writerow({name: clean(value) for name, value in cells.items() if value is not None})
    return stream.getvalue()


def render_json(sources: list[Source]) -> str:
    """All records in one file."""
    records = [source.record.to_dict() for source in sources]
    return json.dumps({"schema_version": SCHEMA_VERSION, "records": records}, indent=1) + "\n"


def _columns() -> list[str]:
    steps = [f"{step}_{name}" for step in STEPS for name in (*_OF_STEP, "samples")]
    published = [f"published_{name}" for name in _PUBLISHED]
    names = [*_OF_RECORD, *_OF_RESULT, *steps, *_MEMORY, *_OF_TRAINING, *published, *_OF_KERNEL, *_OF_PART, *_OF_MACS]
    return list(dict.fromkeys(names))


def _record_cells(source: Source) -> dict[str, Any]:
    record = source.record
    machine = {name: record.machine.get(name) for name in ("cpu", "gpu", "commit")}
    known = {"file": source.path, "kind": record.kind, "started": record.started, "complete": record.complete}
    return {**known, **machine}


def _lines(record: Record) -> Iterator[dict[str, Any]]:
    for result in record.results:
        common = {name: result.get(name) for name in _OF_RESULT}
        if is_error(result):
            yield common
        elif record.kind in MEASUREMENTS:
            yield {**common, **_measurement(result)}
        elif record.kind == "kernels":
            yield from _kernel_lines(result, record, common)
        elif record.kind == "layers":
            for layer in result["layers"]:
                yield {**common, **{name: layer.get(name) for name in (*_OF_PART, "floor_ms")}, "part": layer["name"]}
        else:
            yield {**common, **{name: result.get(name) for name in _OF_MACS}}


def _measurement(result: Result) -> dict[str, Any]:
    cells: dict[str, Any] = {"fps": fps(result) if steps_of(result) else None}
    for step in steps_of(result):
        timing = result["steps"][step]
        cells |= {f"{step}_{name}": timing.get(name) for name in _OF_STEP}
        cells[f"{step}_samples"] = len(timing["samples_ms"])
    cells |= {name: (result.get("memory") or {}).get(name) for name in _MEMORY}
    cells |= {name: result.get(name) for name in _OF_TRAINING}
    return cells | {f"published_{name}": (result.get("published") or {}).get(name) for name in _PUBLISHED}


def _kernel_lines(result: Result, record: Record, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
    job = record.extra.get("job") or {}
    shared = {
        **common, "device": job.get("device"), "precision": job.get("dtype"), "operator": result.get("operator"),
        "bytes": result["bytes"], "copy_gb_s": record.extra.get("copy_gb_s"),
    }  # fmt: skip
    for name, timing in implementations(result).items():
        measured = {column: timing.get(column) for column in _OF_STEP}
        samples = len(timing["samples_ms"]) if "samples_ms" in timing else None
        error = result.get("error_to_eager") if name == "ours" else None
        said = {"implementation": name, "samples": samples, "error_to_eager": error, "error": timing.get("error")}
        yield {**shared, **measured, **said}
