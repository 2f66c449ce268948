# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench run``: any model, and the reference's own way of running one."""
