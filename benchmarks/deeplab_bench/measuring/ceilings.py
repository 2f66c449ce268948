# SPDX-License-Identifier: Apache-2.0
"""What this machine's memory and arithmetic reach, measured in a process of its own, and what a network needs then.

Reads ``{"device", "seconds", "threads"}`` as JSON from stdin and writes the ceilings as JSON to stdout.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from deeplab_infer.errors import BackendError

from .processes import KEEP_MEMORY, answer_job, in_own_process
from .timing import measure

if TYPE_CHECKING:
    from deeplab_infer.optimize.work import Count, Operation

_MODULE = "deeplab_bench.measuring.ceilings"
_SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices: enough for the full rate, a second at most on a CPU
_PROBE_SIDE = 256
# Precision, type of the matrices, whether the matrix units may round float32 to TensorFloat-32.
_PRECISIONS = {
    "fp32": ("float32", False),
    "tf32": ("float32", True),
    "fp16": ("float16", False),
    "bf16": ("bfloat16", False),
}
_OF_DEVICE = {"cpu": ("fp32", "bf16"), "cuda": tuple(_PRECISIONS)}
# Grouped convolutions run on the vector units, whose rate is float32's without TensorFloat-32.
_VECTOR = "fp32"


def measure_ceilings(device: str, seconds: float = 1.0, threads: int | None = None) -> dict[str, Any]:
    """Copy bandwidth and matrix rates.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        seconds: for each figure.
        threads: CPU threads; None for all.

    Returns:
        ``{"device", "copy_gb_s", "matmul_tflops": {precision: 1e12 operations a second}}``: bytes read plus bytes
        written; a multiply-add is two operations. bf16 is left out on a CPU where it is no faster than float32.

    Raises:
        BackendError: the device is not there, or measuring failed.
    """
    if device not in _SIDE:
        raise BackendError(f"ceilings are measured on cpu or cuda, not on {device!r}")
    threads = threads or len(os.sched_getaffinity(0))
    answer = in_own_process(_MODULE, {"device": device, "seconds": seconds, "threads": threads}, KEEP_MEMORY)
    if "error" in answer:
        raise BackendError(f"cannot measure what this machine reaches: {answer['error']}")
    return answer


def floor_ms(count: Count, ceilings: dict[str, Any], precision: str) -> float | None:
    """Time below which a network cannot run on a machine, operations fused but one after the other.

    The sum over the operations of the longer of computing at the matrix rate and moving ``bytes_fused`` at the copy
    rate. `deeplab_infer.optimize.work.count` must have been given the precision's element size.

    Args:
        count: of the pass.
        ceilings: from `measure_ceilings`.
        precision: of the convolutions.

    Returns:
        Milliseconds; None where the rate of that precision is not known.
    """
    times = [_floor(op, ceilings, precision) for op in count.operations]
    known = [time for time in times if time is not None]
    return sum(known) if len(known) == len(times) else None


def operation_floor_ms(
    macs: float, moved: float, ceilings: dict[str, Any], precision: str, grouped: bool = False
) -> float | None:
    """The longer of computing ``macs`` multiply-adds and moving ``moved`` bytes; None for a precision not measured.

    Args:
        macs: multiply-adds.
        moved: bytes.
        ceilings: from `measure_ceilings`.
        precision: of the arithmetic.
        grouped: a depthwise or other grouped convolution, which matrix units do not help.
    """
    traffic = moved / ceilings["copy_gb_s"] / 1e6
    if not macs:
        return traffic
    rate = ceilings["matmul_tflops"].get(_VECTOR if grouped else precision)
    return None if rate is None else max(traffic, 2 * macs / rate / 1e9)


def _floor(op: Operation, ceilings: dict[str, Any], precision: str) -> float | None:
    return operation_floor_ms(op.dense, op.bytes_fused, ceilings, precision, op.grouped)


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Measure, in this process."""
    import torch

    from ..kernels.worker import copy_bandwidth

    torch.set_num_threads(job["threads"])
    device, seconds = job["device"], job["seconds"]
    rates = {name: _matmul_tflops(device, name, seconds) for name in _precisions(device)}
    return {"device": device, "copy_gb_s": copy_bandwidth(device, seconds), "matmul_tflops": rates}


def _precisions(device: str) -> list[str]:
    """Those that are worth it: a CPU without instructions for bf16 takes many times as long."""
    names = list(_OF_DEVICE[device])
    if device == "cpu":
        rates = {name: _matmul_tflops(device, name, 0, _PROBE_SIDE) for name in names}
        names = [name for name in names if name == _VECTOR or rates[name] > rates[_VECTOR]]
    return names


def _matmul_tflops(device: str, precision: str, seconds: float, side: int = 0) -> float:
    """Best rate of a square product of random numbers: on zeros, a GPU that its power limits would be faster."""
    import torch

    from deeplab_infer.runtime.torch_precision import arithmetic

    side = side or _SIDE[device]
    dtype = getattr(torch, _PRECISIONS[precision][0])
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    product = torch.empty_like(left)

    def once() -> None:
        torch.mm(left, right, out=product)
        if device == "cuda":
            torch.cuda.synchronize()

    with arithmetic(tf32=_PRECISIONS[precision][1]):
        timing = measure(once, seconds)
    return 2 * side**3 / min(timing.samples_ms) / 1e9


def main() -> int:
    """Entry point of the process."""
    return answer_job(run_job)


if __name__ == "__main__":
    sys.exit(main())
