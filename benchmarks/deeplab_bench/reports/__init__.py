# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench compare`` and ``report``: what is made of result files."""
