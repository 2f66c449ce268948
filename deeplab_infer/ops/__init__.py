# SPDX-License-Identifier: Apache-2.0
"""Operators around and inside the networks: the native kernels and their faces for arrays and tensors."""

from .functional import upsample, upsample_argmax, upsample_argmax_into
from .fused import (
    aspp_depthwise,
    depthwise_conv_bn_relu,
    merge_windows,
    preprocess,
    upsample_concat,
    upsample_concat_depthwise,
)
from .resize_taps import bilinear_taps, compose_taps, taps_matrix

__all__ = [
    "aspp_depthwise",
    "bilinear_taps",
    "compose_taps",
    "depthwise_conv_bn_relu",
    "merge_windows",
    "preprocess",
    "taps_matrix",
    "upsample",
    "upsample_argmax",
    "upsample_argmax_into",
    "upsample_concat",
    "upsample_concat_depthwise",
]
