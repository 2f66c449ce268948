# SPDX-License-Identifier: Apache-2.0
"""How good a segmentation is."""

from .confusion import ConfusionMatrix, Scores
from .evaluate import evaluate

__all__ = ["ConfusionMatrix", "Scores", "evaluate"]
