# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench``: fps, latency, memory and multiply-adds of models, beside the published figures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from deeplab_infer.commands.cli import make_parser, run_command
from deeplab_infer.errors import DeepLabError

from .kernels import command as kernels
from .layers import command as layers
from .peers import command as peers
from .reports import command as report_command
from .reports import compare
from .running import command as run_models
from .table import command as table
from .training import command as train
from .work import command as macs

PROG = "deeplab-bench"
_COMMANDS = {
    "run": run_models,
    "table": table,
    "macs": macs,
    "layers": layers,
    "kernels": kernels,
    "peers": peers,
    "train": train,
    "compare": compare,
    "report": report_command,
}
_EPILOG = """\
examples:
  deeplab-bench run model.onnx model_fp16.engine --batch 1 --batch 8
  deeplab-bench run model.onnx --backend onnxruntime --backend openvino --json result.json
  deeplab-bench table --budget 600 --json table.json         the published table on this machine
  deeplab-bench table --published                            the published figures alone
  deeplab-bench macs --paper                                 multiply-adds against the papers' tables
  deeplab-bench layers model.onnx --size 512x1024            where the time goes
  deeplab-bench train --batch 2 --batch 16                   a training step beside plain torch
  deeplab-bench compare before.json after.json
  deeplab-bench report table.json result.json -o report.html

Each measurement runs in a process of its own. Figures from a shared or busy machine are ratios at best.
exit code: 0 done, 1 a measurement failed or a figure deviates, 2 wrong use or error, 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = make_parser(PROG, "Measure speed, memory and work of DeepLab models.", _EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in _COMMANDS.values():
        module.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(PROG, build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    if getattr(arguments, "seconds", 1.0) <= 0:
        raise DeepLabError(f"--seconds must be positive, got {arguments.seconds}")
    code: int = _COMMANDS[arguments.command].run(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main())
