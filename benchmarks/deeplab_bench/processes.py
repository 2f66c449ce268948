# SPDX-License-Identifier: Apache-2.0
"""Measuring processes and the file their results go to."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from deeplab_infer.files import atomic_write

from .machine import describe_machine
from .report import SCHEMA_VERSION

# Freed memory stays in the process: no implementation's result then costs thousands of page faults.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}


def in_own_process(module: str, job: dict[str, Any], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run ``python -m module`` with a job as JSON on stdin; its answer, or a row that says what went wrong."""
    worker = [sys.executable, "-m", module]
    done = subprocess.run(
        worker,
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode == 0 and done.stdout:
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    last = done.stderr.strip().splitlines()[-1:] or ["no output"]
    return {"error": f"the measuring process ended with code {done.returncode}: {last[0]}"}


def now() -> str:
    """UTC, seconds."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def write_results(path: str | Path, command: str, started: str, content: dict[str, Any]) -> None:
    """One JSON file with where, when, with what and how something was measured."""
    record = {
        "schema_version": SCHEMA_VERSION,
        "started": started,
        "command": [command, *sys.argv[1:]],
        "machine": describe_machine(),
        **content,
    }
    with atomic_write(path, "w") as stream:
        json.dump(record, stream, indent=1)
