# SPDX-License-Identifier: Apache-2.0
"""Backends that run a network, and what is done around one run: windows, scales, flips."""

from .base import Runner
from .opening import BACKENDS, available_backends, open_runner

__all__ = ["BACKENDS", "Runner", "available_backends", "open_runner"]
