# SPDX-License-Identifier: Apache-2.0
"""Measured speed of networks, runtimes and kernels."""
