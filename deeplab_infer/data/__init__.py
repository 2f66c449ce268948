# SPDX-License-Identifier: Apache-2.0
"""Images with labels, for training, tests and demonstrations."""
