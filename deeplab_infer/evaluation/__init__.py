# SPDX-License-Identifier: Apache-2.0
"""How good a segmentation is."""

from .agreement import Comparison, ImageAgreement, ModelComparison, draw_agreement
from .boundary import Trimap, TrimapScores, edge_distance
from .confusion import ConfusionMatrix, Scores
from .evaluate import Evaluation, evaluate
from .label_store import LabelStore
from .plots import plot_confusion, plot_trimap
from .report import ModelResult, Report
from .subset import EvenlySpread

__all__ = [
    "Comparison",
    "ConfusionMatrix",
    "Evaluation",
    "EvenlySpread",
    "ImageAgreement",
    "LabelStore",
    "ModelComparison",
    "ModelResult",
    "Report",
    "Scores",
    "Trimap",
    "TrimapScores",
    "draw_agreement",
    "edge_distance",
    "evaluate",
    "plot_confusion",
    "plot_trimap",
]
