# SPDX-License-Identifier: Apache-2.0
"""Exact rewrites of a trained network: the same output for less work."""

from .fold_batchnorm import fold_batchnorm

__all__ = ["fold_batchnorm"]
