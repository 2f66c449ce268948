# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench layers``: the time of every layer, per backend."""
