# SPDX-License-Identifier: Apache-2.0
"""Result files: one JSON record a run of ``deeplab-bench``; ``record.schema.json`` beside this is its JSON Schema."""

from __future__ import annotations

import datetime
import json
import os
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deeplab_infer.errors import DeepLabError
from deeplab_infer.files import atomic_write

from .measuring.machine import describe_machine

SCHEMA_VERSION = 2
KINDS = ("run", "table", "peers", "kernels", "layers", "macs", "train")
# Steps of a measurement, from the least complete to the most, and what a reader calls them.
STEPS = {"forward": "forward", "post": "forward + post", "end_to_end": "end to end", "train": "training step"}

Result = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """What one run measured, where, when and with what.

    Attributes:
        kind: one of `KINDS`; it says what a result holds.
        results: one entry a measurement; an entry with ``error`` failed and says why.
        left_out: ``{"name", "reason"}`` of what the budget or an interruption did not leave time for.
        started, finished: UTC, ISO 8601.
        complete: False after Ctrl-C.
        command: as it was run.
        machine: `describe_machine`.
        ceilings: what this machine's memory and matrix units were measured to reach, or None.
        protocol: how it was measured.
        extra: further keys at the top level, of a kind's own.
        schema_version: of the file.
    """

    kind: str
    results: list[Result]
    left_out: list[dict[str, str]] = field(default_factory=list)
    started: str = ""
    finished: str = ""
    complete: bool = True
    command: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    ceilings: dict[str, Any] | None = None
    protocol: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, ``extra`` at the top level."""
        content = asdict(self)
        return {**{key: content[key] for key in _ORDER}, **content["extra"]}


_ORDER = (
    "schema_version", "kind", "started", "finished", "complete", "command", "machine", "ceilings", "protocol",
    "results", "left_out",
)  # fmt: skip


def now() -> str:
    """UTC, seconds."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def make_record(kind: str, results: list[Result], started: str, **more: Any) -> Record:
    """A record of this process's command on this machine, finished now."""
    # Results are published: of a path on this machine only the name is anyone's business.
    command = ["deeplab-bench", *(Path(one).name if os.path.isabs(one) else one for one in sys.argv[1:])]
    machine = describe_machine()
    return Record(kind, results, started=started, finished=now(), command=command, machine=machine, **more)


def write_record(path: str | os.PathLike[str], record: Record) -> None:
    """Write a record, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_write(Path(path), "w") as stream:
        json.dump(record.to_dict(), stream, indent=1, allow_nan=False)
        stream.write("\n")


def read_record(path: str | os.PathLike[str]) -> Record:
    """Read a record.

    Raises:
        DeepLabError: no such file, not a record, or of a version that this deeplab-bench does not know.
    """
    content = _load(Path(path))
    version = content.get("schema_version")
    if version == 1:
        content = _from_version_1(content)
    elif version != SCHEMA_VERSION:
        advice = "it is from a newer deeplab-bench: update this one" if isinstance(version, int) else "give its --json"
        raise DeepLabError(f"{path}: schema version {version!r} is not {SCHEMA_VERSION}; {advice}")
    kind, results = content.get("kind"), content.get("results")
    if kind not in KINDS:
        raise DeepLabError(f"{path}: kind {kind!r} is not one of {', '.join(KINDS)}")
    if not isinstance(results, list) or not all(isinstance(one, dict) and "name" in one for one in results):
        raise DeepLabError(f"{path}: results is not a list of named entries; the file is damaged, measure again")
    known = {key: content[key] for key in _ORDER if key in content}
    extra = {key: value for key, value in content.items() if key not in _ORDER}
    return Record(**known, extra=extra)


def is_error(result: Result) -> bool:
    """Whether a measurement failed."""
    return "error" in result


def quoted(result: Result) -> dict[str, Any]:
    """Timing of the most complete step that was measured."""
    return next(result["steps"][step] for step in reversed(STEPS) if step in result["steps"])


def fps(result: Result) -> float:
    """Images a second of the most complete step."""
    return float(result["batch"] * 1000 / quoted(result)["median_ms"])


def label(result: Result) -> str:
    """How a result is called in tables and plots."""
    path = result.get("path", "")
    return f"{result['name']}, {path}" if path else str(result["name"])


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DeepLabError(f"{path}: no such file; deeplab-bench writes results with --json FILE")
    try:
        # Version 1 wrote NaN for what was not compared, which is not JSON.
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DeepLabError(f"{path}: not a result of deeplab-bench ({error}); measure again with --json") from error
    if not isinstance(content, dict):
        raise DeepLabError(f"{path}: not a result of deeplab-bench; give a file that --json wrote")
    return content


def _from_version_1(content: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had no kind for whole networks, and a result's identity only in its job."""
    content = {**content, "schema_version": SCHEMA_VERSION, "finished": content.get("started", "")}
    if "kind" not in content:
        content["kind"] = "run"
        content["results"] = [_result_from_version_1(result) for result in content.get("results", [])]
    return content


def _result_from_version_1(result: Result) -> Result:
    job = result["job"]
    made = {**job, **result, "name": job["model"], "path": job["backend"]}
    made["key"] = "|".join(str(job[name]) for name in ("model", "backend", "batch", "height", "width"))
    if "error" not in result:
        made["steps"] = {step: result[step] for step in STEPS if step in result}
        made["memory"] = {name: result.get(name) for name in ("host_peak_mib", "host_model_mib", "device_peak_mib")}
    return made
