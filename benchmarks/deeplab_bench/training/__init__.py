# SPDX-License-Identifier: Apache-2.0
"""A training step of our networks: time, memory, and the bytes that it keeps for the gradient."""
