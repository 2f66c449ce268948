# SPDX-License-Identifier: Apache-2.0
"""Weights: read safely, recognised by their names, fitted to a config."""

from .load import load, with_config
from .ours import save_checkpoint as save
from .reading import Checkpoint, read_checkpoint

__all__ = ["Checkpoint", "load", "read_checkpoint", "save", "with_config"]
