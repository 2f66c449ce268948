# SPDX-License-Identifier: Apache-2.0
"""Measures one model on one backend, in a process of its own: runtimes in one process slow each other's threads.

Reads a `Job` as JSON from stdin and writes the result as JSON to stdout.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeplab_infer.errors import DeepLabError

from ..measuring.meters import CpuMeter, Meter, counted_energy, open_meter, unsteadiness
from ..measuring.processes import answer_job
from ..measuring.timing import Timing, measure, measure_counted
from ..networks.load import SCENE, load_model
from . import protocol

Step = Callable[[], object]
_ENERGY_SECONDS = 0.5  # the drivers' counters move in steps of up to a tenth of a second


@dataclass(frozen=True)
class Job:
    """What to measure.

    Attributes:
        model: an exported file, a checkpoint, a config's name, or ``random:NAME`` for random weights.
        backend, device, threads: as `Segmenter` takes them.
        height, width: of the image.
        batch: images at once.
        seconds: for each of the steps.
        fused, precision, compiled: of the torch backend.
        mode, window, window_stride, window_batch: as `Segmenter` takes them.
        half: float16, for the reference's protocol.
        steps: of `STEPS`, those to measure.
        image: an ``.npz`` with ``image`` and perhaps ``labels`` to compare with; None generates a street.
        labels_out: an ``.npz`` to write this model's labels to.
    """

    model: str
    backend: str = "auto"
    device: str = "auto"
    threads: int | None = None
    height: int = 512
    width: int = 1024
    batch: int = 1
    seconds: float = 3.0
    fused: bool = True
    precision: str | None = None
    compiled: bool = False
    mode: str | None = None
    window: tuple[int, int] | None = None
    window_stride: tuple[int, int] | None = None
    window_batch: int = 8
    half: bool = False
    steps: tuple[str, ...] = ("forward", "post", "end_to_end")
    image: str | None = None
    labels_out: str | None = None


# The backend of a job that runs the reference's own protocol in plain torch.
REFERENCE = "reference"


def run_job(job: Job) -> dict[str, Any]:
    """Measure a job; JSON-able, the keys of a measurement in ``record.schema.json``."""
    notes: list[str] = []
    meter = meter_for(job.device, notes)
    before_load = _Memory.now(meter)
    state = meter.state()
    result = _run_reference(job, meter) if job.backend == REFERENCE else _run_segmenter(job, meter)
    after = meter.state()
    notes += unsteadiness(state, after, len(os.sched_getaffinity(0)))
    result["memory"] = _memory_figures(before_load, result.pop("_loaded"), _Memory.now(meter), result)
    return {**result, "clocks": {"before": state, "after": after}, "notes": notes + result.get("notes", [])}


# -- the two ways of running


def _run_reference(job: Job, meter: Meter) -> dict[str, Any]:
    """``post`` is what the published table times; see `protocol`."""
    import torch

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    device = "cuda" if job.device == "auto" and torch.cuda.is_available() else job.device.replace("auto", "cpu")
    image, wanted = _image(job)
    started = perf_counter()
    model = _network(job.model)
    reference = protocol.ReferenceProtocol(model, image, device, job.half)
    reference.synchronise()
    loaded = _Memory.now(meter)
    labels = reference.run()
    ways: dict[str, Step] = {"forward": reference.forward, "post": reference.run}
    steps = {name: (step, _as_the_reference) for name, step in ways.items() if name in job.steps}
    timings, energy = _measure_steps(steps, job, meter)
    return {
        "backend": "torch",
        "device": device,
        "precision": "fp16" if job.half else "fp32",
        "mode": "whole" if len(reference.windows) == 1 else "slide",
        "windows": len(reference.windows),
        "load_s": loaded.at - started,
        "steps": timings,
        "energy_j_per_image": energy,
        "agreement": _agreement(job, labels, wanted),
        "weights_mib": sum(t.numel() * t.element_size() for t in model.state_dict().values()) / 2**20,
        "_loaded": loaded,
    }


def _as_the_reference(run: Step, seconds: float) -> Timing:
    return measure_counted(run, protocol.WARMUP, protocol.SAMPLES, seconds)


def _run_segmenter(job: Job, meter: Meter) -> dict[str, Any]:
    """``forward``: a batch in host memory to logits there. ``post``: to labels. ``end_to_end``: `Segmenter.predict`."""
    from deeplab_infer.segmenter import Segmenter

    image, wanted = _image(job)
    started = perf_counter()
    with Segmenter(
        load_model(job.model),
        backend=job.backend,
        device=job.device,
        threads=job.threads,
        fused=job.fused,
        precision=job.precision,
        compiled=job.compiled,
        mode=job.mode,
        window=job.window,
        window_stride=job.window_stride,
        window_batch=job.window_batch,
    ) as segmenter:
        loaded = _Memory.now(meter)
        images: Any = [image] * job.batch if job.batch > 1 else image
        first = segmenter.predict(images)
        one = first[0] if isinstance(first, list) else first
        steps = _segmenter_steps(segmenter, image, images, job)
        timings, energy = _measure_steps({name: (step, measure) for name, step in steps.items()}, job, meter)
        description = segmenter.describe()
        return {
            **description,
            "windows": one.metadata.get("windows", 1),
            "network_input": one.metadata.get("network_input"),
            "load_s": loaded.at - started,
            "steps": timings,
            "energy_j_per_image": energy,
            "agreement": _agreement(job, one.labels, wanted),
            "notes": [one.metadata["note"]] if "note" in one.metadata else [],
            "weights_mib": _weights_mib(segmenter._open(), job.model),
            "_loaded": loaded,
        }


def _segmenter_steps(segmenter: Any, image: NDArray[np.uint8], images: Any, job: Job) -> dict[str, Step]:
    """The steps that this model has: with windows or several scales only the whole of it means anything."""
    from deeplab_infer.ops.functional import upsample_argmax
    from deeplab_infer.preprocess import network_size, normalise, resize_image

    steps: dict[str, Step] = {"end_to_end": lambda: segmenter.predict(images)}
    runner, config = segmenter._open(), segmenter.config
    manifest = runner.manifest
    if segmenter.describe()["mode"] == "whole":
        size = network_size(job.height, job.width, config.test_scale)
        if manifest.height[0] == manifest.height[2] and manifest.width[0] == manifest.width[2]:
            size = (manifest.height[0], manifest.width[0])
        batch = np.ascontiguousarray(np.repeat(resize_image(image, size)[None], job.batch, axis=0))
        data = normalise(batch, config) if manifest.input_kind == "float" else batch

        def forward_and_post() -> None:
            if hasattr(runner, "segment"):  # resize and argmax where the logits are
                runner.segment(batch, size, size)
                return
            output = runner.run(data)
            if manifest.output_kind == "logits":
                upsample_argmax(output, size, align_corners=config.align_corners, threads=job.threads)

        steps |= {"forward": lambda: runner.run(data), "post": forward_and_post}
    return {name: step for name, step in steps.items() if name in job.steps}


def _measure_steps(
    steps: Mapping[str, tuple[Step, Callable[[Step, float], Timing]]], job: Job, meter: Meter
) -> tuple[dict[str, Any], float | None]:
    """Timings of all steps, and joules an image of the most complete one."""
    timings: dict[str, Any] = {}
    energy = None
    for name in sorted(steps, key=("forward", "post", "end_to_end").index):
        step, how = steps[name]
        started = perf_counter()
        with counted_energy(meter) as count:
            timing = how(step, job.seconds)
        images = job.batch * (len(timing.samples_ms) + timing.warmup)
        long_enough = perf_counter() - started >= _ENERGY_SECONDS
        energy = count.joules / images if count.joules is not None and long_enough else None
        timings[name] = timing.to_dict()
    return timings, energy


def _network(text: str) -> Any:
    """A `DeepLab` in eval mode."""
    from deeplab_infer import checkpoints
    from deeplab_infer.configs import list_configs, load_config

    loaded = load_model(text)
    if not isinstance(loaded, str):
        return loaded
    if loaded in list_configs():
        return checkpoints.load("auto", load_config(loaded)).eval()
    return checkpoints.load(loaded).eval()


# -- what it is measured on, and against


def _image(job: Job) -> tuple[NDArray[np.uint8], NDArray[Any] | None]:
    if job.image is not None:
        with np.load(job.image) as stored:
            return stored["image"], stored.get("labels")
    from deeplab_infer.data.synthetic_streets import generate_street

    image, _ = generate_street(SCENE, max(16, job.height), max(16, job.width))
    return np.ascontiguousarray(image[: job.height, : job.width]), None


def _agreement(job: Job, labels: NDArray[Any], wanted: NDArray[Any] | None) -> float | None:
    """Share of equal labels; also leaves the labels for others to be compared with."""
    if job.labels_out is not None:
        np.savez(job.labels_out, image=_image(job)[0], labels=labels)
    if wanted is None:
        return None
    if wanted.shape != labels.shape:
        raise DeepLabError(f"labels of {list(labels.shape)} cannot be compared with those of {list(wanted.shape)}")
    return float(np.mean(labels == wanted))


# -- memory


@dataclass(frozen=True)
class _Memory:
    """MiB at one moment: resident now and at its peak, and on the device in all."""

    at: float
    resident: float
    peak: float
    device: float | None

    @classmethod
    def now(cls, meter: Meter) -> _Memory:
        """Read them."""
        return cls(perf_counter(), status_mib("VmRSS"), status_mib("VmHWM"), meter.memory_mib())


def _memory_figures(before: _Memory, loaded: _Memory, after: _Memory, result: dict[str, Any]) -> dict[str, Any]:
    """As documented in benchmarks/README.md; on a device what the driver says is in use, contexts included."""
    on_device = before.device is not None and loaded.device is not None and after.device is not None
    device_peak = after.device - before.device if on_device else None  # type: ignore[operator]
    activations = after.device - loaded.device if on_device else after.peak - loaded.resident  # type: ignore[operator]
    return {
        "host_peak_mib": after.peak,
        "host_model_mib": after.peak - before.peak,
        "device_peak_mib": device_peak,
        "device_torch_peak_mib": _torch_peak_mib(),
        "weights_mib": result.pop("weights_mib"),
        "activations_mib": max(0.0, activations),
    }


def _weights_mib(runner: Any, model: str) -> float | None:
    """Of the network's parameters in torch, else of the files that hold them."""
    if hasattr(runner, "memory"):
        return float(runner.memory()["weights_mib"])
    path = Path(model)
    parts = [path, path.with_suffix(".bin"), Path(f"{model}.data")]
    sizes = [part.stat().st_size for part in parts if part.is_file()]
    return sum(sizes) / 2**20 if sizes else None


def status_mib(field: str) -> float:
    """``VmRSS`` or ``VmHWM`` of this process. getrusage's ru_maxrss would start at the parent's peak."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {field}")


def _torch_peak_mib() -> float | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return float(torch.cuda.max_memory_allocated() / 2**20)


def meter_for(device: str, notes: list[str]) -> Meter:
    """The device's meter; a note says what it cannot tell."""
    if device == "cpu":
        return CpuMeter()
    try:
        return open_meter("cuda" if device == "auto" else device)
    except OSError as error:
        if device != "auto":
            notes.append(f"no clocks, power or device memory: {error}")
        return CpuMeter()


def main() -> int:
    """Entry point of the process."""
    return answer_job(lambda content: run_job(Job(**content)))


if __name__ == "__main__":
    sys.exit(main())
