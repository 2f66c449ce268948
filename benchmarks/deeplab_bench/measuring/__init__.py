# SPDX-License-Identifier: Apache-2.0
"""How anything is measured: processes, timing, budgets, the machine and what it reaches."""
