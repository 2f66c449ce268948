# SPDX-License-Identifier: Apache-2.0
"""What a job is: the model and the options that decide what comes out of it."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import DeepLabError
from ..files import sha256_file
from ..outputs import OutputOptions

FORMAT = 1
# Options of `Segmenter` that change answers, by what they are called on the command line. Where it runs, on how many
# threads and in how much memory changes none.
_ANSWERS = {
    "mode": "--mode",
    "window": "--window",
    "window_stride": "--window-stride",
    "windows": "--windows",
    "blend": "--blend",
    "scales": "--scales",
    "flip": "--flip",
    "precision": "--precision",
    "backend": "--backend",
}


def describe(model: str, segmenter: dict[str, Any], outputs: OutputOptions) -> dict[str, Any]:
    """A job's description, JSON-able.

    Args:
        model: path or name.
        segmenter: options of `Segmenter`.
        outputs: what is written.
    """
    return {
        "format": FORMAT,
        "model": fingerprint(model),
        "options": {name: _plain(segmenter.get(key)) for key, name in _ANSWERS.items()},
        "outputs": {name: _plain(value) for name, value in asdict(outputs).items()},
    }


def fingerprint(model: str) -> str:
    """SHA-256 of a model's file, and of the ``.bin`` of an ``.xml``; of what is no file its name."""
    path = Path(model)
    if not path.is_file():
        return os.fspath(model)
    parts = [path, path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path]
    return "sha256:" + "+".join(sha256_file(part) for part in parts if part.is_file())


def check_same(before: dict[str, Any], now: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with a job that is another.

    Raises:
        DeepLabError: what differs and what to do.
    """
    if before.get("format") != FORMAT:
        raise DeepLabError(
            f"the job in {str(folder)!r} was begun by another version of this program; give another folder with -o, "
            "or --restart to do all images again"
        )
    wrong = [] if before["model"] == now["model"] else ["another model"]
    for group, prefix in (("options", ""), ("outputs", "output option ")):
        for name, value in now[group].items():
            old = before[group].get(name)
            if old != value:
                wrong.append(f"{prefix}{name} {_shown(old)} instead of {_shown(value)}")
    if wrong:
        raise DeepLabError(
            f"the job in {str(folder)!r} was begun with {', '.join(wrong)}; its finished images would not fit the new "
            "ones. Run it as it was begun, give another folder with -o, or --restart to do all images again"
        )


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    return "off" if value is False else "on" if value is True else "unset" if value is None else str(value)
