# SPDX-License-Identifier: Apache-2.0
"""Processes that tests start and interrupt."""

import signal


def hear_ctrl_c():
    """For a new process to call: one started in the background may have been told to ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
