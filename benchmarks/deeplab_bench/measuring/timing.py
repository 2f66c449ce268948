# SPDX-License-Identifier: Apache-2.0
"""How long something takes: warm-up and sample counts that follow the spread of the samples."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

MIN_SAMPLES = 5
MAX_SAMPLES = 2000
_STEADY = 0.1  # warm-up ends when three runs in a row lie within this share of each other
_PRECISE = 0.01  # sampling ends when the median is known to about this share
_UNSTEADY = 0.05  # a spread above this share is worth a note


@dataclass(frozen=True)
class Timing:
    """Samples of one measured step.

    Attributes:
        samples_ms: every timed run, milliseconds, in order.
        warmup: runs before them that do not count.
    """

    samples_ms: tuple[float, ...]
    warmup: int

    @property
    def median_ms(self) -> float:
        """The figure to quote."""
        return statistics.median(self.samples_ms)

    def percentile_ms(self, percent: float) -> float:
        """The sample below which ``percent`` of 100 lie (nearest rank)."""
        ordered = sorted(self.samples_ms)
        rank = max(1, -(-len(ordered) * percent // 100))
        return ordered[int(rank) - 1]

    @property
    def spread(self) -> float:
        """Median absolute deviation over the median."""
        middle = self.median_ms
        return statistics.median(abs(s - middle) for s in self.samples_ms) / middle if middle else 0.0

    @property
    def unsteady(self) -> bool:
        """Whether the machine was too restless to trust small differences."""
        return self.spread > _UNSTEADY

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, raw samples included."""
        return {
            "median_ms": self.median_ms,
            "mean_ms": statistics.fmean(self.samples_ms),
            "p90_ms": self.percentile_ms(90),
            "p99_ms": self.percentile_ms(99),
            "spread": self.spread,
            "unsteady": self.unsteady,
            "warmup": self.warmup,
            "samples_ms": list(self.samples_ms),
        }


def measure(run: Callable[[], object], seconds: float, clock: Callable[[], float] = perf_counter) -> Timing:
    """Time a function for about ``seconds``.

    A fifth of the time at most is warm-up, which ends early once runs are alike. Sampling ends early once the median
    is known to about 1 %, and never before `MIN_SAMPLES`.

    Args:
        run: what to time; it must have finished its work when it returns.
        seconds: budget.
        clock: seconds since any moment.
    """
    started = clock()
    warm: list[float] = []
    while len(warm) < 1 or (not _alike(warm) and clock() - started < seconds / 5):
        warm.append(_once(run, clock))
    samples: list[float] = []
    while len(samples) < MAX_SAMPLES:
        samples.append(_once(run, clock))
        if len(samples) >= MIN_SAMPLES and (clock() - started >= seconds or _known(samples)):
            break
    return Timing(tuple(samples), len(warm))


def measure_counted(
    run: Callable[[], object],
    warmup: int,
    samples: int,
    seconds: float,
    clock: Callable[[], float] = perf_counter,
) -> Timing:
    """Time a function a given number of times, for a protocol that fixes it.

    Where ``seconds`` are over first, warm-up is cut to one run and sampling ends, but never before `MIN_SAMPLES`.
    """
    started = clock()
    warm = 0
    while warm < 1 or (warm < warmup and clock() - started < seconds / 5):
        _once(run, clock)
        warm += 1
    taken: list[float] = []
    while len(taken) < samples and (len(taken) < MIN_SAMPLES or clock() - started < seconds):
        taken.append(_once(run, clock))
    return Timing(tuple(taken), warm)


def _once(run: Callable[[], object], clock: Callable[[], float]) -> float:
    started = clock()
    run()
    return (clock() - started) * 1e3


def _alike(runs: list[float]) -> bool:
    last = runs[-3:]
    return len(last) == 3 and max(last) <= (1 + _STEADY) * min(last)


def _known(samples: list[float]) -> bool:
    if len(samples) < 20:
        return False
    middle = statistics.median(samples)
    deviation = statistics.median(abs(s - middle) for s in samples)
    # 1.86 * MAD / sqrt(n) is the standard error of the median of normal samples.
    return 1.86 * deviation / len(samples) ** 0.5 < _PRECISE * middle
