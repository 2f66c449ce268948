# SPDX-License-Identifier: Apache-2.0
"""Measuring processes: a job goes in as JSON, an answer comes out, and one that dies is a row that says so."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from deeplab_infer.errors import DeepLabError, first_line

# Freed memory stays in the process: no implementation's result then costs thousands of page faults.
KEEP_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
    "MALLOC_TOP_PAD_": str(1 << 28),
}
_KILLED = "was killed; most likely the host's memory is full: use a smaller size, batch or network"


def in_own_process(
    module: str,
    job: dict[str, Any],
    environment: dict[str, str] | None = None,
    *,
    python: str = sys.executable,
    limit_s: float | None = None,
) -> dict[str, Any]:
    """Run ``python -m module`` with a job as JSON on stdin.

    Args:
        module: with a ``main`` that calls `answer_job`.
        job: JSON-able.
        environment: variables besides this process's.
        python: interpreter.
        limit_s: seconds after which the process is ended.

    Returns:
        Its answer, or ``{"error": ...}`` that says what went wrong.
    """
    try:
        done = subprocess.run(
            [python, "-m", module],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **(environment or {})},
            timeout=limit_s,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {limit_s:.0f} s and was ended"}
    if done.returncode == 0 and done.stdout:
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    if done.returncode == -signal.SIGKILL:
        return {"error": f"the measuring process {_KILLED}"}
    last = done.stderr.strip().splitlines()[-1:] or ["no output"]
    return {"error": f"the measuring process ended with code {done.returncode}: {last[0]}"}


def answer_job(run: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """The other end of `in_own_process`: read the job, run it, write what came of it; returns the exit code.

    A model that a backend refuses, and memory that is full, are answers: ``{"error": ...}``.
    """
    job = json.load(sys.stdin)
    output = os.fdopen(os.dup(1), "w")  # what a runtime prints must not end up in the JSON
    os.dup2(2, 1)
    try:
        answer = run(job)
    except (DeepLabError, MemoryError, RuntimeError, OSError) as error:
        answer = {"error": f"{type(error).__name__}: {first_line(error)}"}
    with contextlib.closing(output):
        json.dump(answer, output)
    return 0
