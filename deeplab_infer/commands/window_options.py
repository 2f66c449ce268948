# SPDX-License-Identifier: Apache-2.0
"""Options of slide mode, the same in every command that segments images."""

from __future__ import annotations

import argparse
import re
from typing import Any

from ..errors import DataError
from ..runtime.blending import BLENDS
from ..runtime.windows import PLACEMENTS
from ..sliding import MEMORY
from .cli import parse_size

_UNITS = {"": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def add_window_options(group: argparse._ArgumentGroup) -> None:
    """Add ``--mode`` and what belongs to slide mode."""
    group.add_argument("--mode", choices=("whole", "slide"), help="default: the model's own")
    group.add_argument("--window", metavar="HxW", help="window of slide mode")
    group.add_argument("--window-stride", metavar="HxW", help="step between windows")
    group.add_argument(
        "--windows",
        choices=PLACEMENTS,
        default="reference",
        help="where they lie: as the reference places them (default), or as few as needed, evenly spread, overlapping "
        "by an eighth unless --window-stride says otherwise",
    )
    group.add_argument(
        "--blend", choices=BLENDS, default="mean", help="how they are merged: weights within a window (default: mean)"
    )
    group.add_argument(
        "--memory",
        metavar="BYTES",
        default=str(MEMORY),
        help="for a map of float logits, e.g. 512MiB; larger images are done in bands (default: 2GiB)",
    )


def window_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those options as `Segmenter` takes them.

    Raises:
        DataError: a size or an amount of memory that is none.
    """
    return {
        "mode": arguments.mode,
        "window": parse_size(arguments.window) if arguments.window else None,
        "window_stride": parse_size(arguments.window_stride) if arguments.window_stride else None,
        "windows": arguments.windows,
        "blend": arguments.blend,
        "memory": parse_bytes(arguments.memory),
    }


def parse_bytes(text: str) -> int:
    """``"512MiB"``, ``"1.5 GiB"`` or ``"1000000"`` as bytes.

    Raises:
        DataError: not a positive number with KiB, MiB, GiB or no unit.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", text.strip().lower())
    if found is None or found[2] not in _UNITS or float(found[1]) == 0:
        raise DataError(f"{text!r} is not an amount of memory like 512MiB, 4GiB or a number of bytes")
    return int(float(found[1]) * _UNITS[found[2]])
