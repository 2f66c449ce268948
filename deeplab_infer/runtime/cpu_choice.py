# SPDX-License-Identifier: Apache-2.0
"""Which backend runs a model on a CPU where none was asked for: tables, and the first entry that holds."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from .base import FASTEST

# For .onnx files of every precision. OpenVINO computes eight bits and float16 files at the speed of the CPU, ONNX
# Runtime rounds after each layer as the file says.
ONNX_ORDER = ("onnxruntime", "openvino")
# What OpenVINO does not compute in, and torch does.
_TORCH_PRECISIONS = ("tf32", "fp16")


@dataclass(frozen=True)
class Choice:
    """A backend, and why it was chosen."""

    backend: str
    why: str


@dataclass(frozen=True)
class Wanted:
    """What a call asks of a network's backend, as `open_runner` takes it."""

    precision: str | None = None
    compiled: bool = False
    fused: bool = True


# (why torch, whether that holds), first come first served.
_TORCH_RULES: tuple[tuple[str, Callable[[Wanted, Collection[str]], bool]], ...] = (
    ("torch.compile is torch's own", lambda wanted, installed: wanted.compiled),
    ("plain torch was asked for instead of the fused kernels", lambda wanted, installed: not wanted.fused),
    ("only torch computes in that precision", lambda wanted, installed: wanted.precision in _TORCH_PRECISIONS),
    (
        "OpenVINO is not installed (pip install 'deeplab-infer[openvino]'), which is faster",
        lambda wanted, installed: "openvino" not in installed,
    ),
)


def choose_for_network(wanted: Wanted, installed: Collection[str]) -> Choice:
    """The backend of a network, checkpoint or config on the CPU."""
    for why, holds in _TORCH_RULES:
        if holds(wanted, installed):
            return Choice("torch", why)
    return Choice("openvino", "the fastest backend for networks on a CPU")


def choose_for_onnx(file_precision: str, precision: str | None, installed: Collection[str]) -> Choice | None:
    """The backend of an .onnx file on the CPU.

    Args:
        file_precision: that the file holds.
        precision: that was asked for.
        installed: backends.

    Returns:
        None where no runtime for it is installed.
    """
    if precision in ("bf16", FASTEST) and file_precision == "fp32" and "openvino" in installed:
        return Choice("openvino", "it computes float32 files in bfloat16")
    able = [name for name in ONNX_ORDER if name in installed]
    if not able:
        return None
    why = f"the faster one for {file_precision} files" if len(able) > 1 else "the only runtime for them installed"
    return Choice(able[0], why)
