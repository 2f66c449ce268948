# SPDX-License-Identifier: Apache-2.0
"""Alternating rounds of the same measurement, made one result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Result = dict[str, Any]


def combine_rounds(results: Sequence[Result], largest: Sequence[str] = ()) -> list[Result]:
    """One result a way from its rounds: of every step the round with the lowest median, and all medians beside it.

    Args:
        results: those with one ``key`` are rounds of one measurement.
        largest: names of figures of which the largest round's is taken; of all others the first round's.
    """
    rounds: dict[str, list[Result]] = {}
    for result in results:
        rounds.setdefault(result["key"], []).append(result)
    return [_combined(group, largest) for group in rounds.values()]


def spread_of_rounds(result: Result) -> float:
    """(highest - lowest) / lowest of the rounds' medians, of the last step."""
    medians = list(result["steps"].values())[-1]["round_medians_ms"]
    return float((max(medians) - min(medians)) / min(medians))


def _combined(group: list[Result], largest: Sequence[str]) -> Result:
    good = [result for result in group if "error" not in result]
    if not good:
        return group[-1]
    steps = {}
    for step in good[0]["steps"]:
        timings = [result["steps"][step] for result in good]
        best = min(timings, key=lambda timing: float(timing["median_ms"]))
        steps[step] = {**best, "round_medians_ms": [timing["median_ms"] for timing in timings]}
    peaks = {name: max(result[name] for result in good) for name in largest}
    result = {**good[0], **peaks, "steps": steps, "rounds": len(good)}
    if len(good) < len(group):
        result["notes"] = [*result["notes"], f"a round failed: {group[-1]['error']}"]
    return result
