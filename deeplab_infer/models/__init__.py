# SPDX-License-Identifier: Apache-2.0
"""The networks, in plain torch."""

from .build import build_model
from .deeplab import DeepLab, TrainingOutput

__all__ = ["DeepLab", "TrainingOutput", "build_model"]
