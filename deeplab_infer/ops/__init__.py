# SPDX-License-Identifier: Apache-2.0
"""Operators around and inside the networks: the native kernels and their numpy face."""

from .functional import upsample, upsample_argmax
from .resize_taps import bilinear_taps, compose_taps, taps_matrix

__all__ = ["bilinear_taps", "compose_taps", "taps_matrix", "upsample", "upsample_argmax"]
