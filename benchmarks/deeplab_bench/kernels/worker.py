# SPDX-License-Identifier: Apache-2.0
"""Measures implementations of one operator in a process of its own; a job as JSON on stdin, the result on stdout."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch

from ..measuring.processes import answer_job
from ..measuring.timing import Timing, measure
from .cases import SUITES, KernelCase, Problem

_COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}
_GRAPH_RUNS = 10


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Times of the job's implementations, in alternating rounds; JSON-able."""
    torch.set_num_threads(job["threads"])
    if job["case"] is None:
        return {"copy_gb_s": copy_bandwidth(job["device"], job["seconds"])}
    case = next(case for case in SUITES[job["suite"]] if case.name == job["case"])
    problem = Problem(case, job["device"], job["dtype"], job["threads"])
    answer: dict[str, Any] = {}
    runs: dict[str, Callable[[], Any]] = {}
    for name in job["implementations"]:
        prepared = _prepare(problem, name)
        if isinstance(prepared, str):
            answer[name] = {"error": prepared}
        else:
            runs[name] = prepared
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(job["rounds"]):
        for name, run in runs.items():
            samples[name] += _time(run, job["device"], job["seconds"] / job["rounds"]).samples_ms
    answer |= {name: Timing(tuple(values), 0).to_dict() for name, values in samples.items()}
    if "ours" in runs and job["check"]:
        answer["error_to_eager"] = problem.error()
    return answer


def copy_bandwidth(device: str, seconds: float) -> float:
    """GB/s of a large copy, bytes read plus bytes written."""
    source = torch.ones(_COPY_BYTES[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    timing = _time(lambda: target.copy_(source), device, seconds)
    return 2 * _COPY_BYTES[device] / min(timing.samples_ms) / 1e6


def _prepare(problem: Problem, name: str) -> Callable[[], Any] | str:
    """What is timed, run once; or the error: another project's failure is a cell of the table."""
    try:
        return _captured(getattr(problem, name)(), problem.case, problem.device)
    except Exception as error:  # noqa: BLE001  compilers and runtimes raise whatever they like
        return f"{type(error).__name__}: {error}".splitlines()[0]


def _captured(run: Callable[[], Any], case: KernelCase, device: str) -> Callable[[], Any]:
    """On a GPU a graph of several runs: launches from Python would hide the kernels. Gradients run as they are."""
    run()
    if device == "cpu" or case.operator == "depthwise_backward":
        return run
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_GRAPH_RUNS):
            run()
    graph.replay()
    replay: Callable[[], Any] = _Replay(graph)
    return replay


class _Replay:
    """A captured graph of `_GRAPH_RUNS` runs."""

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self.graph = graph

    def __call__(self) -> None:
        self.graph.replay()


def _time(run: Callable[[], Any], device: str, seconds: float) -> Timing:
    if device == "cpu":
        return measure(run, seconds)
    runs = _GRAPH_RUNS if isinstance(run, _Replay) else 1
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    elapsed: list[float] = []

    def once() -> None:
        begin.record()
        run()
        end.record()
        end.synchronize()
        elapsed.append(begin.elapsed_time(end) / runs)

    warm_and_timed = measure(once, seconds)
    return Timing(tuple(elapsed[warm_and_timed.warmup :]), warm_and_timed.warmup)


def main() -> int:
    """Entry point of the process."""
    return answer_job(run_job)


def best_of(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The result of several processes: the round with the lowest median, or the error of the last."""
    good = [r for r in rounds if "error" not in r]
    if not good:
        return rounds[-1]
    best = min(good, key=lambda r: float(r["median_ms"]))
    return {**best, "round_medians_ms": [r["median_ms"] for r in good], "spread_of_rounds": _spread(good)}


def _spread(rounds: list[dict[str, Any]]) -> float:
    medians = [r["median_ms"] for r in rounds]
    return (max(medians) - min(medians)) / statistics.median(medians)


if __name__ == "__main__":
    sys.exit(main())
