# SPDX-License-Identifier: Apache-2.0
"""Measured speed and memory of exported models and networks."""
