# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench macs``: multiply-adds and memory traffic, counted on the modules."""
