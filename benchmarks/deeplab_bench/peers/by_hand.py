# SPDX-License-Identifier: Apache-2.0
"""A peer's network as its users deploy it by hand: `torch.onnx.export`, a runtime, numpy and OpenCV around it.

Runs in our interpreter, which has the runtimes, on what the peer's interpreter traced; nothing of `deeplab_infer` is in
the measured path. A job as JSON on stdin, the answer as JSON on stdout; see `run_job`.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .measuring import measure_side, serve

OUTPUTS = ("logits", "labels")
POSTS = ("in the graph", "numpy")
_TRACED, _ONNX, _INT8 = "by_hand.pt", "by_hand.onnx", "by_hand_int8.xml"
_CHANNELS = 64  # OpenCV resizes images of up to 128
_FIRST_SCENE = 2_000_000  # scenes that our own eight-bit export is calibrated with too
_HINTS = {"fp32": "f32", "bf16": "bf16"}

Run = Callable[[NDArray[np.float32]], NDArray[Any]]


@dataclass(frozen=True)
class Normalisation:
    """What stands before the network.

    Attributes:
        mean, std: of the network's channels, 0..255 units.
        swap: whether red and blue of the pixels are swapped before.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    swap: bool

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 [1, 3, H, W] of uint8 [H, W, 3]; OpenCV's in-place arithmetic, as mmcv's ``imnormalize``."""
        x = pixels.astype(np.float32)
        if self.swap:
            cv2.cvtColor(x, cv2.COLOR_BGR2RGB, x)
        cv2.subtract(x, np.array([*self.mean, 0.0]), x)
        cv2.multiply(x, 1 / np.array([*self.std, 1.0]), x)
        return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


class ByHandSide:
    """A network of fixed size as `Side`: one compiled graph for logits, and one with resize and argmax behind them."""

    def __init__(self, runs: dict[str, Run], normalise: Normalisation, channel_order: str, post: str) -> None:
        self.channel_order = channel_order
        self.post = post
        self._runs = runs
        self._normalise = normalise

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Side`."""
        return np.asarray(self._runs["logits"](self._normalise(pixels))[0], np.float32)

    def labels(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """See `Side`; resize and argmax where ``post`` says."""
        if self.post == POSTS[0]:
            return np.asarray(self._runs["labels"](self._normalise(pixels))[0])
        maps = self.logits(pixels).transpose(1, 2, 0)
        size = pixels.shape[1::-1]
        parts = [
            cv2.resize(np.ascontiguousarray(maps[..., start : start + _CHANNELS]), size)
            for start in range(0, maps.shape[2], _CHANNELS)
        ]
        return np.asarray((parts[0] if len(parts) == 1 else np.concatenate(parts, 2)).argmax(2))


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Do what ``job["what"]`` says.

    ``convert``: write ONNX files of what the peer traced in ``folder``, and an eight-bit OpenVINO file where
    ``precision`` says so. ``measure``: time one way of running them.
    """
    return {"convert": _convert, "measure": _measure}[job["what"]](job)


# -- files


def _convert(job: dict[str, Any]) -> dict[str, Any]:
    folder = Path(job["folder"])
    if not (folder / _ONNX).exists():
        _export(folder, job["view"])
    if job["precision"] == "int8":
        _quantise(folder, job)
    return {"files": sorted(path.name for path in folder.glob("by_hand*"))}


def _export(folder: Path, view: list[int]) -> None:
    """One file with both outputs, and one for each."""
    import onnx.utils
    import torch

    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        # The exporter that torch has announced to drop: what deployments by hand still use.
        warnings.simplefilter("ignore", DeprecationWarning)
        network = torch.jit.load(str(folder / _TRACED)).eval()
        torch.onnx.export(
            network, (torch.zeros(1, 3, *view),), str(folder / _ONNX), input_names=["image"],
            output_names=list(OUTPUTS), opset_version=17, dynamo=False,
        )  # fmt: skip
    for name in OUTPUTS:
        onnx.utils.extract_model(str(folder / _ONNX), str(folder / f"by_hand_{name}.onnx"), ["image"], [name])


def _quantise(folder: Path, job: dict[str, Any]) -> None:
    """NNCF with its defaults on the plain graph, on the scenes that ours is calibrated with."""
    import nncf
    import openvino

    from deeplab_infer.data.synthetic_streets import generate_street

    logging.getLogger("nncf").setLevel(logging.WARNING)
    normalise = _normalisation(job)
    scenes = [generate_street(_FIRST_SCENE + index, *job["view"])[0] for index in range(job["calibration"])]
    if job["normalisation"]["channel_order"] == "bgr":
        scenes = [np.ascontiguousarray(scene[..., ::-1]) for scene in scenes]
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        made = nncf.quantize(
            _core().read_model(folder / _ONNX),
            nncf.Dataset([{"image": normalise(scene)} for scene in scenes]),
            subset_size=len(scenes),
        )
    openvino.save_model(made, folder / _INT8, compress_to_fp16=False)


# -- running


def _measure(job: dict[str, Any]) -> dict[str, Any]:
    open_graph = {"onnxruntime": _in_onnxruntime, "openvino": _in_openvino}[job["backend"]]
    folder = Path(job["folder"])
    runs = {name: open_graph(folder, name, job) for name in OUTPUTS}
    side = ByHandSide(runs, _normalisation(job), job["normalisation"]["channel_order"], job.get("post") or POSTS[0])
    notes = []
    if job.get("post") is None:
        shares = _try_posts(side, np.load(folder / "image.npy"))
        side.post = min(shares, key=lambda post: shares[post])
        notes = [f"resize and argmax {side.post}: the other way takes {max(shares.values()):.2f}x as long"]
    return {**measure_side(side, job), "post": side.post, "post_notes": notes}


def _try_posts(side: ByHandSide, pixels: NDArray[np.uint8]) -> dict[str, float]:
    """Best of three runs of each way, over that of the faster one."""
    best = {}
    for side.post in POSTS:
        side.labels(pixels)
        times = []
        for _ in range(3):
            started = perf_counter()
            side.labels(pixels)
            times.append(perf_counter() - started)
        best[side.post] = min(times)
    return {post: seconds / min(best.values()) for post, seconds in best.items()}


def _in_onnxruntime(folder: Path, output: str, job: dict[str, Any]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = job["threads"]
    session = onnxruntime.InferenceSession(
        folder / f"by_hand_{output}.onnx", options, providers=["CPUExecutionProvider"]
    )
    return lambda x: np.asarray(session.run(None, {"image": x})[0])


def _in_openvino(folder: Path, output: str, job: dict[str, Any]) -> Run:
    """Eight bits run with OpenVINO's own choice for the rest: bfloat16 where the CPU has it."""
    import openvino

    core = _core()
    if job["precision"] == "int8":
        both = core.read_model(folder / _INT8)
        model = openvino.Model([both.output(output)], both.get_parameters())
    else:
        model = core.read_model(folder / f"by_hand_{output}.onnx")
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": job["threads"]}
    if job["precision"] in _HINTS:
        settings["INFERENCE_PRECISION_HINT"] = _HINTS[job["precision"]]
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    return lambda x: np.array(request.infer({0: x}, share_inputs=True)[0])


@functools.cache
def _core() -> Any:
    """Never freed: see `deeplab_infer.runtime.openvino_core`."""
    import openvino

    return openvino.Core()


def _normalisation(job: dict[str, Any]) -> Normalisation:
    given = job["normalisation"]
    return Normalisation(tuple(given["mean"]), tuple(given["std"]), given["swap"])


if __name__ == "__main__":
    sys.exit(serve(run_job))
