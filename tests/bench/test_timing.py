# SPDX-License-Identifier: Apache-2.0
"""The measuring protocol, on a clock that the test moves."""

import itertools

import pytest
from deeplab_bench.measuring.timing import MIN_SAMPLES, Timing, measure


class Machine:
    """A clock, and runs that take given times."""

    def __init__(self, durations):
        self.now = 0.0
        self.durations = iter(durations)

    def clock(self):
        return self.now

    def run(self):
        self.now += next(self.durations)


def test_steady_runs_need_little_warm_up_and_stop_early():
    machine = Machine(itertools.repeat(0.01))
    timing = measure(machine.run, 60.0, machine.clock)
    assert timing.warmup == 3
    assert len(timing.samples_ms) == 20
    assert timing.median_ms == pytest.approx(10)
    assert not timing.unsteady


def test_slow_first_runs_are_warm_up():
    machine = Machine(itertools.chain([1.0, 0.5, 0.02], itertools.repeat(0.01)))
    timing = measure(machine.run, 60.0, machine.clock)
    assert timing.warmup == 6
    assert max(timing.samples_ms) == pytest.approx(10)


def test_the_budget_ends_noisy_sampling():
    machine = Machine(itertools.cycle([0.01, 0.05, 0.02]))
    timing = measure(machine.run, 2.0, machine.clock)
    assert machine.now == pytest.approx(2.0, abs=0.1)
    assert timing.unsteady


def test_there_are_always_enough_samples():
    machine = Machine(itertools.repeat(10.0))
    timing = measure(machine.run, 1.0, machine.clock)
    assert len(timing.samples_ms) == MIN_SAMPLES
    assert timing.warmup == 1


def test_percentiles():
    timing = Timing(tuple(float(i) for i in range(1, 101)), 0)
    assert (timing.median_ms, timing.percentile_ms(90), timing.percentile_ms(99)) == (50.5, 90.0, 99.0)
    assert timing.to_dict()["p90_ms"] == 90.0
