# SPDX-License-Identifier: Apache-2.0
"""Times of the operators that a torch network calls, each with the module that calls it."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from deeplab_infer.optimize.work import KINDS, first_output, module_paths, moved_bytes, multiply_adds, operator_name
from deeplab_infer.runtime import open_runner
from deeplab_infer.runtime.torch_precision import PRECISIONS, arithmetic

from ..measuring.timing import measure
from ..networks.load import load_model
from .times import LayerTime, Profile, median_of_runs

_MIN_RUNS = 5
# Cycles that the GPU sleeps before a pass, about 50 ms: time for Python to enqueue the pass. Otherwise a layer's time
# would be that of its launch.
_SLEEP = 100_000_000


def profile(job: dict[str, Any]) -> Profile:
    """Run a network for ``job["seconds"]`` without and with timers around its operators.

    Raises:
        DeepLabError: what `open_runner` refuses.
    """
    runner: Any = open_runner(
        load_model(job["model"]),
        backend="torch",
        device=job["device"],
        threads=job["threads"],
        fused=job["fused"],
        precision=job["precision"],
        cuda_graphs=False,
    )
    network, precision, device = runner._model, PRECISIONS[runner.manifest.precision], runner.device
    on_gpu = device != "cpu"
    layout = torch.channels_last if on_gpu and precision.channels_last else torch.contiguous_format
    torch.manual_seed(0)
    x = torch.randn(job["batch"], 3, job["height"], job["width"])
    x = x.to(device, precision.dtype).to(memory_format=layout)

    def once() -> None:
        network(x)
        if on_gpu:
            torch.cuda.synchronize()

    with torch.no_grad(), arithmetic(tf32=precision.tf32, benchmark=on_gpu):
        total = measure(once, job["seconds"])
        runs: list[list[LayerTime]] = []
        started = perf_counter()
        while len(runs) < _MIN_RUNS or perf_counter() - started < job["seconds"]:
            runs.append(_timed_on_gpu(network, x) if on_gpu else _timed(network, x))
    size = (job["height"], job["width"])
    notes = ["normalisation is folded into the convolutions; the forward pass alone, without labels"]
    if on_gpu:
        notes.append("unprofiled: launched from Python, without a CUDA graph")
    return Profile(median_of_runs(runs), list(total.samples_ms), precision.name, device, size, notes)


def _timed(network: torch.nn.Module, x: torch.Tensor) -> list[LayerTime]:
    def clock(call: Callable[[], Any]) -> tuple[Any, float]:
        started = perf_counter()
        output = call()
        return output, (perf_counter() - started) * 1e3

    timer = _Timer(clock)
    with module_paths(network) as timer.path, timer:
        network(x)
    return [layer(elapsed) for layer, elapsed in timer.entries]


def _timed_on_gpu(network: torch.nn.Module, x: torch.Tensor) -> list[LayerTime]:
    def clock(call: Callable[[], Any]) -> tuple[Any, tuple[Any, Any]]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        output = call()
        end.record()
        return output, (begin, end)

    timer = _Timer(clock)
    torch.cuda._sleep(_SLEEP)
    with module_paths(network) as timer.path, timer:
        network(x)
    torch.cuda.synchronize()
    return [layer(begin.elapsed_time(end)) for layer, (begin, end) in timer.entries]


class _Timer(TorchDispatchMode):
    """Times every operator that moves or computes something."""

    def __init__(self, clock: Callable[[Callable[[], Any]], tuple[Any, Any]]) -> None:
        super().__init__()
        self.entries: list[tuple[Callable[[float], LayerTime], Any]] = []
        self.path: list[str] = []
        self._clock = clock

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator_name(func)
        if name is None:
            return func(*args, **(kwargs or {}))
        output, elapsed = self._clock(lambda: func(*args, **(kwargs or {})))
        layer = describe_call(name, self.path[-1] if self.path else "", args, first_output(output))
        self.entries.append((layer, elapsed))
        return output


def describe_call(name: str, path: str, args: Any, output: Any) -> Callable[[float], LayerTime]:
    """A call of an operator as a layer, but for its time."""
    kind = KINDS.get(name, name.partition("::")[2])
    op = _describe_convolution(args) if kind == "convolution" else kind
    macs, moved = multiply_adds(name, args, output), moved_bytes(kind, args, output)
    grouped = args[8] > 1 if kind == "convolution" else macs > 0

    def layer(ms: float) -> LayerTime:
        return LayerTime(path, op, ms, macs, moved, grouped)

    return layer


def _describe_convolution(args: Any) -> str:
    weight, stride, rate, groups = args[1], args[3][0], args[5][0], args[8]
    kind = "depthwise" if groups > 1 else "conv"
    height, width = weight.shape[2:]
    return f"{kind} {height}x{width}" + f" rate {rate}" * (rate > 1) + f" stride {stride}" * (stride > 1)
