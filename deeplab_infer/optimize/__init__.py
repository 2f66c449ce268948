# SPDX-License-Identifier: Apache-2.0
"""The same network for less work: exact rewrites, and fused kernels."""

from .fold_batchnorm import fold_batchnorm
from .fusion import FusedPart, FusionReport, fuse, unfuse

__all__ = ["FusedPart", "FusionReport", "fold_batchnorm", "fuse", "unfuse"]
