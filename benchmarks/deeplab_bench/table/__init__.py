# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench table``: the published table on this machine."""
