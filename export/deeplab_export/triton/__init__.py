# SPDX-License-Identifier: Apache-2.0
"""Model repositories for Triton Inference Server."""

from .config import BACKENDS, TritonOptions, check_options, config_text, label_text
from .repository import ModelFolder, Stage, shared_files

__all__ = [
    "BACKENDS",
    "ModelFolder",
    "Stage",
    "TritonOptions",
    "check_options",
    "config_text",
    "label_text",
    "shared_files",
]
