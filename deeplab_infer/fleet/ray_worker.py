# SPDX-License-Identifier: Apache-2.0
"""A `Worker` as Ray Data runs it: an actor that is made anew where it dies, with the same name."""

from __future__ import annotations

import json
import platform
from typing import Any

from ..errors import DeepLabError
from .job import Outcome, Task
from .segmenting import ImageFile
from .worker import Worker

COLUMN = "line"  # rows are JSON in ASCII: names of files need not be text


class RayWorker:
    """Images in, outcomes out; what ends the job comes as a row, not as an exception that Ray would wrap or retry.

    Args:
        task: what is to be done.
    """

    def __init__(self, task: Task) -> None:
        import ray

        self._worker: Worker | None = None
        self._trouble = ""
        try:
            self._worker = Worker(task, f"ray_{ray.get_runtime_context().get_actor_id()}")
        except (DeepLabError, OSError) as error:
            self._trouble = stopping(error)

    def __call__(self, table: Any) -> dict[str, list[str]]:
        """A batch of rows of `as_row`; gives rows of `Outcome` and, where the job cannot go on, one of `stopping`."""
        if self._worker is None:
            return {COLUMN: [self._trouble]}
        rows: list[str] = []
        files = [ImageFile(*json.loads(line)) for line in table[COLUMN].to_pylist()]
        try:
            self._worker.work(files, lambda outcome: rows.append(json.dumps(outcome)))
        except (DeepLabError, OSError) as error:
            rows.append(stopping(error))
        return {COLUMN: rows}


def as_row(file: ImageFile) -> dict[str, str]:
    """An image as a row."""
    return {COLUMN: json.dumps(file)}


def stopping(error: DeepLabError | OSError) -> str:
    """A row that ends the job."""
    number = error.errno if isinstance(error, OSError) else None
    where = f"{platform.node()}: "
    if isinstance(error, OSError) and number is not None:
        return json.dumps({"errno": number, "error": error.strerror, "file": f"{where}{error.filename or ''}"})
    return json.dumps({"errno": None, "error": f"{where}{error}"})


def outcome_of(row: str) -> Outcome:
    """What a row says.

    Raises:
        DeepLabError, OSError: that the job cannot go on, as it was on the worker.
    """
    said = json.loads(row)
    if isinstance(said, list):
        return Outcome(*said)
    if said["errno"] is None:
        raise DeepLabError(said["error"])
    raise OSError(said["errno"], said["error"], said["file"])
