# SPDX-License-Identifier: Apache-2.0
"""Exported files on a GPU: build the engine, run it, compare with labels that were made elsewhere, measure.

    python scripts/check_engine.py prepare FOLDER            make models and their labels here (needs the export extra)
    python scripts/check_engine.py run FOLDER OUT.json       build and run them on a machine with a GPU

Whether this TensorRT runs on this GPU at all is an answer too: it is written down, and the exit status is 1.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

PRECISIONS = ("fp32", "fp16", "int8")
CONFIG = "deeplabv3plus_mobilenetv2_streets"
SIZE = (512, 1024)


def prepare(folder: Path) -> None:
    """The bundled model in several precisions, and what ONNX Runtime makes of a scene."""
    from deeplab_export import export_onnx

    from deeplab_infer import Segmenter, checkpoints
    from deeplab_infer.configs import load_config
    from deeplab_infer.data.synthetic_streets import generate_street

    folder.mkdir(parents=True, exist_ok=True)
    model = checkpoints.load("auto", load_config(CONFIG))
    image = generate_street(1_000_000, *SIZE)[0]
    for precision in PRECISIONS:
        for kind in ("uint8", "float"):
            path = folder / f"{precision}_{kind}.onnx"
            rest = "fp16" if precision == "int8" else "fp32"
            export_onnx(
                model, path, input=kind, precision=precision, rest=rest, batch=(1, 1, 4), height=SIZE[0], width=SIZE[1]
            )
            with Segmenter(path, device="cpu") as segmenter:
                np.savez_compressed(path.with_suffix(".npz"), image=image, labels=segmenter.predict(image).labels)


def check(path: Path, folder: Path) -> dict[str, Any]:
    """One file: build, run, compare, time."""
    from deeplab_export.engine import build_engine

    from deeplab_infer import Segmenter

    known = np.load(path.with_suffix(".npz"))
    image, wanted = known["image"], known["labels"]
    started = perf_counter()
    engine = folder / f"{path.stem}.engine"
    built = build_engine(path, engine).manifest
    result: dict[str, Any] = {
        "file": path.name,
        "flavour": f"{built.flavour} {built.version}",
        "gpu": built.gpu,
        "build_s": perf_counter() - started,
        "layers": built.layers,
        "layers_from": built.layers_from,
    }
    started = perf_counter()
    with Segmenter(engine) as segmenter:
        found = segmenter.predict(image)
        result["first_answer_s"] = perf_counter() - started
        result["agreement"] = float(np.mean(found.labels == wanted))
        times = []
        for _ in range(200):
            begin = perf_counter()
            segmenter.predict(image)
            times.append((perf_counter() - begin) * 1e3)
        result["predict_ms"] = {name: float(np.percentile(times, q)) for name, q in (("p50", 50), ("p99", 99))}
        result["cuda_graphs"] = segmenter.describe()["cuda_graphs"]
        batch = segmenter.predict([image] * 4)
        result["batch_agrees"] = bool(all(np.array_equal(one.labels, found.labels) for one in batch))
    return result


def run(folder: Path, out: Path) -> int:
    """Every file in the folder; one that fails says why."""
    results = []
    with tempfile.TemporaryDirectory() as work:
        for path in sorted(folder.glob("*.onnx")):
            try:
                results.append(check(path, Path(work)))
            except Exception as error:  # noqa: BLE001  the reason is the result
                results.append({"file": path.name, "error": f"{type(error).__name__}: {error}"})
            print(json.dumps(results[-1]), flush=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    return 0 if results and all(result.get("agreement", 0) > 0.98 for result in results) else 1


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]))
    elif len(sys.argv) == 4 and sys.argv[1] == "run":
        sys.exit(run(Path(sys.argv[2]), Path(sys.argv[3])))
    else:
        sys.exit(__doc__)
