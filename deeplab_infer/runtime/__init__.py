# SPDX-License-Identifier: Apache-2.0
"""Backends that run a network, and what is done around one run: windows, scales, flips."""

from .base import Runner
from .opening import BACKENDS, TORCH_PRECISIONS, available_backends, backends_for, open_runner, read_manifest

__all__ = [
    "BACKENDS",
    "TORCH_PRECISIONS",
    "Runner",
    "available_backends",
    "backends_for",
    "open_runner",
    "read_manifest",
]
