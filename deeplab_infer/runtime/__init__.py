# SPDX-License-Identifier: Apache-2.0
"""Backends that run a network, and what is done around one run: windows, scales, flips."""

from .base import FASTEST, Runner
from .opening import (
    BACKENDS,
    RUN_PRECISIONS,
    TORCH_PRECISIONS,
    available_backends,
    backends_for,
    open_runner,
    read_manifest,
)

__all__ = [
    "BACKENDS",
    "FASTEST",
    "RUN_PRECISIONS",
    "TORCH_PRECISIONS",
    "Runner",
    "available_backends",
    "backends_for",
    "open_runner",
    "read_manifest",
]
