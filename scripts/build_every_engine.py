# SPDX-License-Identifier: Apache-2.0
"""Export and build an engine of every named config, with random weights, on this machine (RTX needs no GPU for it).

    python scripts/build_every_engine.py OUT.json [PRECISION]

Small images: the graph is what is tried, and it does not depend on them. Exit status 1 if one fails.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import torch
from deeplab_export.engine import build_engine
from deeplab_export.graph import Signature
from deeplab_export.onnx_export import TracedNetwork
from deeplab_export.precision import choose_precision

from deeplab_infer import build_model
from deeplab_infer.configs import list_configs, load_config
from deeplab_infer.errors import DeepLabError

SIZES = Signature(batch=(1, 1, 1), height=(64, 64, 64), width=(96, 96, 96))


def main(out: Path, precision: str) -> int:
    """One row a config; networks that differ in nothing that the graph shows are built once."""
    rows: list[dict[str, object]] = []
    seen: dict[tuple[object, ...], str] = {}
    for name in list_configs():
        config = load_config(name)
        values = config.to_dict()
        key = tuple(sorted((k, json.dumps(v)) for k, v in values.items() if k not in NOT_IN_THE_GRAPH))
        row: dict[str, object] = {"config": name}
        if key in seen:
            row["same_as"] = seen[key]
        else:
            seen[key] = name
            row |= build(name, precision)
        rows.append(row)
        print(json.dumps(row), flush=True)
        out.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if any("error" in row for row in rows) else 0


NOT_IN_THE_GRAPH = {
    "name", "dataset", "checkpoint", "checkpoint_sha256", "crop_size", "test_mode", "window", "window_stride",
    "test_scale", "dropout", "auxiliary", "auxiliary_channels", "bn_momentum", "resize_logits_twice",
}  # fmt: skip


def build(name: str, precision: str) -> dict[str, object]:
    """Export and build one config."""
    torch.manual_seed(0)
    started = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        try:
            traced = TracedNetwork(build_model(load_config(name)).eval(), SIZES)
            traced.write(path, choose_precision(precision))
            built = build_engine(path, path.with_suffix(".engine")).manifest
        except DeepLabError as error:
            return {"error": str(error)}
        size = path.with_suffix(".engine").stat().st_size
    return {
        "seconds": round(perf_counter() - started, 1),
        "engine_mb": round(size / 1e6, 1),
        "flavour": f"{built.flavour} {built.version}",
        "layers": built.layers,
    }


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) == 3 else "fp16"))
