# SPDX-License-Identifier: Apache-2.0
"""Options that the measuring commands share, and what they mean."""

from __future__ import annotations

import argparse

from deeplab_infer.errors import DeepLabError


def add_options(parser: argparse.ArgumentParser, seconds: float, of: str, budget: str | None = None) -> None:
    """Device, threads, time and output.

    Args:
        parser: of a subcommand.
        seconds: default of ``--seconds``.
        of: what they are spent on.
        budget: what ``--budget`` does; None where a command has none.
    """
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"{of} (default: {seconds:g})")
    if budget is not None:
        parser.add_argument("--budget", type=float, metavar="SECONDS", help=budget)
    parser.add_argument("--json", metavar="FILE", help="write everything, raw samples included")
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of a table")


def resolve_device(text: str) -> str:
    """``"cpu"`` or ``"cuda"``.

    Raises:
        DeepLabError: another device, torch is missing, or no GPU here.
    """
    if text not in ("auto", "cpu", "cuda"):
        raise DeepLabError(f"--device {text!r} is not auto, cpu or cuda")
    try:
        import torch
    except ImportError as error:
        raise DeepLabError(f"this needs torch ({error}); run: pip install 'deeplab-infer[bench]'") from error
    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if text == "cuda" and not torch.cuda.is_available():
        raise DeepLabError("this machine has no CUDA GPU that torch can use; use --device cpu")
    return text
