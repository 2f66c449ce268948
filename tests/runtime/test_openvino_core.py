# SPDX-License-Identifier: Apache-2.0
"""One Core a process: closing segmenters in any order and thread leaves signals working."""

import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

pytest.importorskip("openvino")
from deeplab_infer.runtime.openvino_core import shared_core

ROOT = Path(__file__).parents[2]


def test_one_core_a_process():
    found = []
    thread = threading.Thread(target=lambda: found.append(shared_core()))
    thread.start()
    thread.join()
    assert found == [shared_core()]


def test_a_forked_child_makes_its_own():
    shared_core()
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put((os.getpid(), id(shared_core()) != id(parent))))
    parent = shared_core()
    child.start()
    assert answers.get() == (child.pid, True)
    child.join()


@pytest.mark.parametrize("order", ["first, second", "second, first", "another thread"])
def test_signals_after_closing(model_file, order):
    program = f"""
        import signal, threading
        import numpy as np
        from deeplab_infer import Segmenter

        signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
        image = np.zeros((32, 32, 3), np.uint8)
        opened = [Segmenter({str(model_file)!r}, backend="openvino", threads=1) for _ in range(2)]
        for one in opened:
            one.predict(image)
        def close():
            for one in opened[:: -1 if {order == "second, first"} else 1]:
                one.close()
        if {order == "another thread"}:
            thread = threading.Thread(target=close)
            thread.start()
            thread.join()
        else:
            close()
        del opened, one
        signal.raise_signal(signal.SIGUSR1)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
