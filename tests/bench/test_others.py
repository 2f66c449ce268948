# SPDX-License-Identifier: Apache-2.0
"""What other processes take of the processors."""

import os
import time

import pytest
from deeplab_bench.measuring import others


def write(path, user, idle):
    path.write_text(f"cpu  {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 1\n", encoding="ascii")


def test_the_share_of_others_is_what_is_busy_without_this_process(tmp_path, monkeypatch):
    tick, own = os.sysconf("SC_CLK_TCK"), iter([0.0, 2.0])
    monkeypatch.setattr(time, "process_time", lambda: next(own))
    stat = tmp_path / "stat"
    write(stat, 0, 0)
    watch = others.OthersCpu(stat)
    write(stat, 5 * tick, 5 * tick)  # 5 of 10 seconds busy, 2 of them ours
    assert watch.share() == pytest.approx(0.3)


def test_a_system_that_does_not_say(tmp_path):
    assert others.OthersCpu(tmp_path / "none").share() is None


@pytest.mark.parametrize(("shares", "sleeps"), [([0.01], 1), ([0.9, 0.5, 0.1], 3), ([None], 1)])
def test_waiting_ends_when_others_are_quiet(shares, sleeps):
    left, slept = iter(shares), []

    class Watch:
        def share(self):
            return next(left)

    others.wait_for_quiet(60, slept.append, Watch)
    assert len(slept) == sleeps


def test_no_time_is_no_waiting():
    others.wait_for_quiet(0, lambda _: pytest.fail("slept"))
