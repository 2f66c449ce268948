# SPDX-License-Identifier: Apache-2.0
"""Restartable runs over many image files, in one process or on a Ray cluster (docs/fleet.md)."""
