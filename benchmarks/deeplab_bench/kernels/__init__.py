# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench kernels``: the fused operators."""
