# SPDX-License-Identifier: Apache-2.0
"""The training loop."""

from .loop import TrainOptions, train
from .predict import predict_labels

__all__ = ["TrainOptions", "predict_labels", "train"]
