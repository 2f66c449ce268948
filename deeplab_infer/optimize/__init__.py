# SPDX-License-Identifier: Apache-2.0
"""The same network for less work: exact rewrites, and fused kernels."""

from .drop_void_taps import drop_void_taps
from .fold_batchnorm import fold_batchnorm
from .fold_image_pooling import fold_image_pooling
from .fusion import FusedPart, FusionReport, fuse, unfuse
from .remove_training_parts import remove_training_parts
from .rewrites import REWRITES, AppliedRewrite, Rewrite, applied_names, optimise

__all__ = [
    "REWRITES",
    "AppliedRewrite",
    "FusedPart",
    "FusionReport",
    "Rewrite",
    "applied_names",
    "drop_void_taps",
    "fold_batchnorm",
    "fold_image_pooling",
    "fuse",
    "optimise",
    "remove_training_parts",
    "unfuse",
]
