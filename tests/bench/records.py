# SPDX-License-Identifier: Apache-2.0
"""Records with MADE-UP figures: nothing here was measured, nothing here says how fast anything is."""

from __future__ import annotations

import random
from typing import Any

from deeplab_bench.records import Record, Result

from deeplab_infer.configs import reference_rows

MADE_UP = "MADE-UP"
HOSTILE = (
    "a|b <script>alert('x')</script> \"q\" & $\\frac{ `c` [l](javascript:1) *s* \x1b[31m \ud800 &lt; _u_\nnew line"
)
PATHS = {"reference": 1.0, "torch fp16": 3.1, "onnxruntime fp32": 1.4, "tensorrt fp16": 6.5, "tensorrt int8": 8.2}


def samples(median: float, seed: int = 0, count: int = 60, spread: float = 0.01) -> list[float]:
    """Made-up times around a median, ms."""
    rng = random.Random(seed)
    return [
        median * (1 + spread * (abs(rng.gauss(0, 3)) if rng.random() < 0.1 else rng.gauss(0, 1))) for _ in range(count)
    ]


def timing(median: float, seed: int = 0, **how: Any) -> dict[str, Any]:
    """A made-up timing, as `Timing.to_dict` gives one."""
    from deeplab_bench.measuring.timing import Timing

    return Timing(tuple(samples(median, seed, **how)), 3).to_dict()


def measurement(name: str, path: str, ms: float, seed: int = 0, device: str = "cuda", **more: Any) -> Result:
    """A made-up measurement of kinds run, table and peers."""
    precision = path.split()[-1] if " " in path else "fp32"
    result: Result = {
        "key": f"{name}|{path}|1x512x1024|whole", "name": name, "path": path, "backend": path.split()[0],
        "device": device, "precision": precision, "batch": 1, "height": 512, "width": 1024, "mode": "whole",
        "windows": 1,
        "steps": {
            "forward": timing(0.8 * ms, seed), "post": timing(0.9 * ms, seed + 1), "end_to_end": timing(ms, seed + 2)
        },
        "memory": {"host_peak_mib": 900.0, "host_model_mib": 300.0,
                   "device_peak_mib": 1200.0 if device == "cuda" else None, "weights_mib": 95.0, "activations_mib": None},
        "energy_j_per_image": None, "gmacs_per_image": 100.0, "agreement": 1.0 if "fp32" in precision else 0.9987,
        "floor_ms": 0.4, "clocks": None, "notes": [],
    }  # fmt: skip
    return {**result, **more}


def failed(name: str, path: str) -> Result:
    """A row that failed."""
    return {"key": f"{name}|{path}|1x512x1024|whole", "name": name, "path": path, "backend": path.split()[0],
            "error": "OutOfMemoryError: MADE-UP"}  # fmt: skip


def record(kind: str, results: list[Result], *, device: str = "cuda", **more: Any) -> Record:
    """A record of a made-up machine."""
    rates = {"fp32": 50.0, "tf32": 300.0, "fp16": 600.0, "bf16": 610.0} if device == "cuda" else {"fp32": 0.2}
    made: dict[str, Any] = {
        "started": "2001-01-01T00:00:00+00:00",
        "finished": "2001-01-01T01:00:00+00:00",
        "command": ["deeplab-bench", kind, "--json", f"{kind}.json"],
        "machine": {
            "cpu": f"{MADE_UP} CPU", "cpus": 8, "memory_gib": 64.0,
            "gpu": f"{MADE_UP} GPU, 1.2.3" if device == "cuda" else None, "system": "Linux", "python": "3.11.7",
            "deeplab-infer": "0.1.0", "commit": "0123456789ab", "versions": {"torch": "2.0", "numpy": "2.0"},
        },
        "ceilings": {"device": device, "copy_gb_s": 2000.0 if device == "cuda" else 20.0, "matmul_tflops": rates},
        "protocol": {"seconds": 3.0, "figures": MADE_UP},
    }  # fmt: skip
    return Record(kind, results, **{**made, **more})


def run_record(device: str = "cuda", **more: Any) -> Record:
    """Two files on three ways."""
    pairs = [
        ("model.onnx", "onnxruntime fp32", 20.0),
        ("model.onnx", "openvino fp32", 16.0),
        ("model_fp16.onnx", "onnxruntime fp16", 9.0),
    ]
    results = [measurement(name, path, ms, seed, device) for seed, (name, path, ms) in enumerate(pairs)]
    results.append(failed("broken.onnx", "onnxruntime fp32"))
    return record("run", results, device=device, **more)


def table_record(device: str = "cuda", **more: Any) -> Record:
    """All 37 rows on five paths, with a failure and a row that was left out."""
    results: list[Result] = []
    for index, row in enumerate(reference_rows()[:37]):
        printed = {"fps": row.fps, "miou": row.miou, "miou_ms_flip": row.miou_ms_flip, "memory_gb": row.memory_gb}
        height, width = row.network_input
        for path, faster in PATHS.items():
            if path == "tensorrt int8" and index % 9 == 4:
                results.append(failed(row.name, path))
                continue
            ms = row.gmacs / 10 / faster * (1 + 0.03 * (index % 5))
            steps = ("post",) if path == "reference" else ("forward", "post", "end_to_end")
            one = measurement(row.name, path, ms, index, device, height=height, width=width, published=printed)
            one["steps"] = {step: one["steps"][step] for step in steps}
            one |= {"gmacs_per_image": row.gmacs, "floor_ms": row.gmacs / 300 + 0.1}
            one["key"] = f"{row.name}|{path}|1x{height}x{width}|{row.test_mode}"
            results.append(one)
    left_out = [{"name": "tensorrt fp8, every row", "reason": "the budget was used up (MADE-UP)"}]
    return record("table", results, device=device, left_out=left_out, **more)


def peers_record(device: str = "cuda", **more: Any) -> Record:
    """One network of another project beside ours."""
    ways = {
        "mmsegmentation fp32 eager": 50.0,
        "mmsegmentation fp32 compile": 40.0,
        "ours torch fp32": 32.0,
        "ours tensorrt fp16": 8.0,
    }
    results = [measurement("r18", path, ms, seed, device) for seed, (path, ms) in enumerate(ways.items())]
    results[1]["notes"] = ["compiled for 40 s before the first run (MADE-UP)"]
    return record("peers", results, device=device, **more)


def kernels_record(device: str = "cuda", **more: Any) -> Record:
    """Three operators."""
    results: list[Result] = []
    for index, name in enumerate(("depthwise rate 12", "upsample_argmax 19", "preprocess")):
        one: Result = {"name": name, "operator": name.split()[0], "bytes": 30_000_000, "error_to_eager": 1e-7}
        for peer, slower in (("ours", 1.0), ("eager", 9.0), ("compile", 4.0), ("onnxruntime", 2.0)):
            one[peer] = timing(0.02 * slower, index)
        results.append(one)
    results[2]["compile"] = {"error": "BackendCompilerFailed: MADE-UP"}
    del results[2]["error_to_eager"]
    extra = {"job": {"device": device, "dtype": "float16", "suite": "full"}, "copy_gb_s": 2000.0}
    return record("kernels", results, device=device, ceilings=None, extra=extra, **more)


def layers_record(device: str = "cuda", **more: Any) -> Record:
    """Thirty layers of a network."""
    layers = []
    for index in range(30):
        gmacs = None if index % 7 == 3 else 0.5 + index % 5
        op = ("Conv", "Add", "Resize", "Concat")[index % 4]
        mb = 4.0 + 3 * (index % 6)
        layers.append({"name": f"layer.{index}", "op": op, "ms": 0.02 + 0.01 * (index % 8), "gmacs": gmacs, "mb": mb,
                       "floor_ms": 0.01 if gmacs else None, "share": 1 / 30})  # fmt: skip
    result = {"key": "layers", "name": "model.onnx", "path": "onnxruntime fp16", "backend": "onnxruntime", "device": device,
              "precision": "fp16", "batch": 1, "height": 512, "width": 1024, "layers": layers, "total_ms": 1.7, "notes": []}  # fmt: skip
    return record("layers", [result], device=device, **more)


def macs_record(**more: Any) -> Record:
    """Two counted networks."""
    stages = [{"name": name, "gmacs": gmacs, "mb_eager": 100.0, "mb_fused": 40.0, "weights_m": 1.5}
              for name, gmacs in (("stem", 1.0), ("layer4", 7.0), ("decoder", 2.0))]  # fmt: skip
    results = [
        {"key": name, "name": name, "height": 513, "width": 513, "windows": 1, "stages": stages, "dense_gmacs": 10.0,
         "space_to_batch_gmacs": 11.0, "profiler_gmacs": 11.1, "published_gmacs": printed,
         "deviation": None if printed is None else 11.1 - printed}
        for name, printed in (("net one", 11.1), ("net two", None))
    ]  # fmt: skip
    return record("macs", results, ceilings=None, **more)


def training_step(path: str, ms: float, saved: float, seed: int = 0, device: str = "cuda", **more: Any) -> Result:
    """A made-up training step of one network."""
    result: Result = {
        "key": f"r50|{path}|bf16|2x512x1024|bn train", "name": "r50", "path": path, "backend": "torch",
        "device": device, "precision": "bf16", "batch": 2, "height": 512, "width": 1024, "batchnorm": "train",
        "steps": {"train": {**timing(ms, seed), "round_medians_ms": [ms, 1.01 * ms]}}, "peak_mb": 1.4 * saved,
        "saved_mb": saved, "saved_parts_mb": {"stem": 0.25 * saved, "loss": 0.75 * saved}, "first_loss": 3.0,
        "rounds": 2, "notes": [],
    }  # fmt: skip
    return {**result, **more}


def train_record(device: str = "cuda", **more: Any) -> Record:
    """Plain torch and two of our ways; the last did not fit."""
    results = [
        training_step("plain", 200.0, 4000.0, 0, device),
        training_step("fused", 160.0, 3000.0, 1, device, notes=["the machine was busy before (MADE-UP)"]),
    ]
    full = training_step("plain+compiled", 1.0, 1.0)
    full = {name: full[name] for name in ("name", "path", "backend", "precision", "batch", "height", "width")}
    results.append({**full, "key": "r50|full", "error": "out of memory: MADE-UP", "out_of_memory": True})
    return record("train", results, device=device, ceilings=None, **more)


def counted_record(**more: Any) -> Record:
    """Bytes that were counted and not measured."""
    results = [training_step("plain", 1.0, 4000.0), training_step("fused", 1.0, 3000.0)]
    for one in results:
        for name in ("steps", "peak_mb", "first_loss", "rounds"):
            del one[name]
        one["device"] = "counted"
    return record("train", results, device="counted", ceilings=None, **more)


def all_records() -> dict[str, Record]:
    """One of every kind."""
    return {
        "run": run_record(), "run_cpu": run_record("cpu"), "table": table_record(), "table_cpu": table_record("cpu"),
        "peers": peers_record(), "kernels": kernels_record(), "layers": layers_record(), "macs": macs_record(),
        "train": train_record(), "train_cpu": train_record("cpu"), "counted": counted_record(),
    }  # fmt: skip
