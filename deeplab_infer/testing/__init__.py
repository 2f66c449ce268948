# SPDX-License-Identifier: Apache-2.0
"""What tests and benchmarks of the operators share: cases, float64 references, error bounds."""
