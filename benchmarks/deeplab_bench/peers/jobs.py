# SPDX-License-Identifier: Apache-2.0
"""What ``deeplab-bench peers`` measures: networks, the ways in which each side runs them, and one measurement."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from deeplab_infer.configs import list_configs, load_config, reference_rows
from deeplab_infer.configs.reference import reference_row
from deeplab_infer.errors import ConfigError, DeepLabError
from deeplab_infer.preprocess import network_size
from deeplab_infer.runtime import available_backends

from ..measuring.processes import KEEP_MEMORY, in_own_process
from .models import PEERS
from .own_worker import needs_file

_OWN_WORKER = "deeplab_bench.peers.own_worker"
_PEER_WORKER = "deeplab_bench.peers.worker"
_BY_HAND_WORKER = "deeplab_bench.peers.by_hand"
_CITYSCAPES = "deeplabv3plus_{}-d8_4xb2-80k_cityscapes-512x1024"
DEFAULTS: dict[str, dict[str, tuple[str, ...]]] = {
    "cpu": {
        "mmsegmentation": (_CITYSCAPES.format("r18"),),
        "smp": ("smp:DeepLabV3Plus:resnet18",),
        "torchvision": ("torchvision:deeplabv3_resnet50",),
    },
    "cuda": {
        "mmsegmentation": tuple(_CITYSCAPES.format(name) for name in ("r50", "r18", "r101")),
        "smp": ("smp:DeepLabV3Plus:resnet50",),
        "torchvision": ("torchvision:deeplabv3_resnet50", "torchvision:deeplabv3_resnet101"),
    },
}
INSTALL = (
    "`make parity` makes an environment with the peers (.venv-peers), scripts/install_peers.sh PYTHON installs them; "
    "then give its interpreter: --python .venv-peers/bin/python"
)
_CPU_SIZE = (256, 512)
_GPU_SIZE = (512, 1024)
_PHOTO = (1024, 2048)  # of Cityscapes, whose configs resize it for their windows
PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")
# --ours BACKEND -> backend of `Segmenter`, its options, and how results call it
OURS: dict[str, tuple[str, dict[str, bool], str]] = {
    "reference": ("torch", {"fused": False, "compiled": False}, "reference"),
    "torch": ("torch", {"fused": True, "compiled": False}, "torch"),
    "torch-compiled": ("torch", {"fused": True, "compiled": True}, "torch compiled"),
    "onnxruntime": ("onnxruntime", {}, "onnxruntime"),
    "openvino": ("openvino", {}, "openvino"),
    "tensorrt": ("tensorrt", {}, "tensorrt"),
}
_OURS_ON = {
    "cpu": (
        "reference:fp32", "torch:fp32", "torch-compiled:fp32", "onnxruntime:fp32", "openvino:fp32", "openvino:bf16",
        "openvino:int8",
    ),
    "cuda": (
        "reference:fp32", "torch:fp32", "torch:fp16", "torch-compiled:fp32", "torch-compiled:fp16", "onnxruntime:fp32",
        "tensorrt:fp32", "tensorrt:fp16",
    ),
}  # fmt: skip
# A peer's network exported by hand: runtime and precision; eight bits by NNCF.
_BY_HAND = (("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"))
_CALIBRATION = 8  # scenes that eight bits are calibrated with, on both sides
_TENSORRT = {"backend": "torch_tensorrt"}

PLAIN = "default allocator"

Job = dict[str, Any]
Result = dict[str, Any]
LeftOut = list[dict[str, str]]


@dataclass(frozen=True)
class Network:
    """One network that both sides run.

    Attributes:
        name: as results call it, e.g. a config's name or ``"smp:DeepLabV3Plus:resnet50"``.
        peer: one of `PEERS`.
        network: as the peer calls it.
        height, width: of the image, which is the network's input or is cut into windows.
        mode: ``"whole"`` or ``"slide"``.
    """

    name: str
    peer: str
    network: str
    height: int
    width: int
    mode: str = "whole"


@dataclass(frozen=True)
class Way:
    """How one side runs a network.

    Attributes:
        path: as results call it, e.g. ``"mmsegmentation fp32 eager"``.
        side: ``"peer"`` or ``"ours"``.
        backend: ``"torch"`` or another of `Segmenter`.
        precision: one of `PRECISIONS`.
        options: of the worker.
    """

    path: str
    side: str
    backend: str
    precision: str
    options: dict[str, Any] = field(default_factory=dict)


def find_network(name: str, device: str, size: tuple[int, int] | None) -> Network:
    """A network by its name.

    Args:
        name: ``smp:ARCHITECTURE:ENCODER``, ``torchvision:BUILDER``, or a config of mmsegmentation, old names too.
        device: ``"cpu"`` or ``"cuda"``, which choose the size where none is given.
        size: (height, width) or None.

    Raises:
        ConfigError: no such config.
        DeepLabError: not one of mmsegmentation's.
    """
    peer, _, rest = name.partition(":")
    if rest and peer in PEERS and peer != "mmsegmentation":
        height, width = size or (_CPU_SIZE if device == "cpu" else _GPU_SIZE)
        return Network(name, peer, rest, height, width)
    named = name.removeprefix("mmsegmentation:")
    with contextlib.suppress(ConfigError):  # not a published row: it may still be one of mmsegmentation's configs
        named = reference_row(named).name
    if named not in list_configs():
        raise ConfigError(
            f"no network {name!r}; give a config's name (deeplab-bench table prints the published ones), "
            "smp:ARCHITECTURE:ENCODER or torchvision:BUILDER"
        )
    config = load_config(named)
    row = next((row for row in reference_rows() if row.name == named), None)
    if size is None and device == "cuda":
        slides = config.test_mode == "slide" and config.dataset.name == "cityscapes"
        size = network_size(*_PHOTO, config.test_scale) if slides or row is None else row.network_input
    height, width = size or _CPU_SIZE
    return Network(named, "mmsegmentation", named, height, width, config.test_mode)


def peer_ways(peer: str, device: str, *, compiled: bool, torch_tensorrt: bool) -> tuple[list[Way], LeftOut]:
    """How a peer's users run it here, and what is left out."""

    def way(precision: str, how: str, compile_options: dict[str, Any] | None) -> Way:
        return Way(f"{peer} {precision} {how}", "peer", "torch", precision, {"compile": compile_options})

    ways = [way("fp32", "eager", None)]
    if device == "cpu":
        # As its users start it: glibc gives every large tensor back to the system.
        ways.append(
            Way(f"{peer} fp32 eager, {PLAIN}", "peer", "torch", "fp32", {"compile": None, "plain_memory": True})
        )
    if compiled:
        ways.append(way("fp32", "compiled", {}))
    if device == "cpu":
        return ways, []
    ways += [way("fp16", "eager", None), way("bf16", "eager", None)]
    if not compiled:
        return ways, []
    ways.append(way("fp16", "compiled", {"mode": "max-autotune"}))
    if torch_tensorrt:
        return [*ways, way("fp32", "torch-tensorrt", _TENSORRT), way("fp16", "torch-tensorrt", _TENSORRT)], []
    return ways, [{"name": f"{peer} torch-tensorrt", "reason": "torch_tensorrt is not installed beside the peer"}]


def by_hand_ways(peer: str, mode: str) -> tuple[list[Way], LeftOut]:
    """A peer's network as its users export it to a CPU's runtimes, and what is left out."""
    if mode == "slide":
        return [], [{"name": f"{peer} by hand", "reason": "windows are not in an exported network"}]
    ways, left_out = [], []
    for backend, precision in _BY_HAND:
        path = f"{peer} {precision} by hand, {backend}"
        reason = _unavailable(backend, "cpu") or _precision_unavailable(backend, precision)
        if reason:
            left_out.append({"name": path, "reason": reason})
        else:
            ways.append(Way(path, "peer", backend, precision, {"by_hand": True, "calibration": _CALIBRATION}))
    return ways, left_out


def own_ways(asked: Sequence[str], device: str, *, compiled: bool) -> tuple[list[Way], LeftOut]:
    """How ours is run: what was asked for, else everything that this machine has.

    Raises:
        DeepLabError: not BACKEND or BACKEND:PRECISION, or a backend that is not installed or has no such device.
    """
    ways, left_out = [], []
    for text in asked or _OURS_ON[device]:
        name, _, precision = text.partition(":")
        precision = precision or "fp32"
        if name not in OURS or precision not in PRECISIONS:
            raise DeepLabError(
                f"--ours {text!r} is not BACKEND or BACKEND:PRECISION; backends: {', '.join(OURS)}; precisions: "
                f"{', '.join(PRECISIONS)}"
            )
        backend, options, called = OURS[name]
        reason = _unavailable(backend, device) or _precision_unavailable(backend, precision)
        if asked and reason:
            raise DeepLabError(f"--ours {text}: {reason}")
        path = f"{called} {precision}" if called != "reference" or precision != "fp32" else called
        if reason or (not asked and options.get("compiled") and not compiled):
            left_out.append({"name": path, "reason": reason or "--no-compile"})
        else:
            ways.append(Way(path, "ours", backend, precision, {**options, "calibration": _CALIBRATION}))
    return ways, left_out


def _unavailable(backend: str, device: str) -> str | None:
    if backend not in available_backends():
        return f"{backend} is not installed; run: pip install 'deeplab-infer[{backend}]'"
    if backend == "tensorrt" and device == "cpu":
        return "TensorRT needs a GPU"
    if backend == "openvino" and device == "cuda":
        return "OpenVINO does not run on NVIDIA GPUs"
    if backend == "onnxruntime" and device == "cuda":
        import onnxruntime

        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            return "this onnxruntime has no CUDA provider; run: pip install 'deeplab-infer[onnxruntime-gpu]'"
    return None


def _precision_unavailable(backend: str, precision: str) -> str | None:
    if backend != "openvino":
        return None
    if precision == "int8" and importlib.util.find_spec("nncf") is None:
        return "nncf is not installed; run: pip install 'deeplab-infer[openvino-int8]'"
    if precision == "bf16":
        from deeplab_infer.runtime.openvino_core import shared_core

        if "BF16" not in shared_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            return "this CPU has no bfloat16 arithmetic"
    return None


def make_jobs(
    networks: Sequence[Network],
    ways: dict[str, list[Way]],
    rounds: int,
    *,
    device: str,
    threads: int,
    seconds: float,
    steps: Sequence[str] = ("forward", "end_to_end"),
    wait_quiet_s: float = 0.0,
) -> list[Job]:
    """One job a network, a round and a way, so that the ways of a network alternate; JSON-able.

    Args:
        networks: to run.
        ways: by the network's name.
        rounds, seconds: rounds, and seconds of a step in each.
        steps: that are timed.
        wait_quiet_s: seconds that each waits for other processes to end.
        device, threads: of both sides.
    """
    return [
        {
            "key": _key(network, way, device),
            "name": network.name,
            "peer": network.peer,
            "network": network.network,
            "height": network.height,
            "width": network.width,
            "mode": network.mode,
            "path": way.path,
            "side": way.side,
            "backend": way.backend,
            "precision": way.precision,
            "device": device,
            "threads": threads,
            "seconds": seconds,
            "steps": list(steps),
            "wait_quiet_s": wait_quiet_s,
            "exact": way.precision == "fp32",
            "round": index,
            **way.options,
        }
        for network in networks
        for index in range(rounds)
        for way in ways[network.name]
    ]


def _key(network: Network, way: Way, device: str) -> str:
    size = f"1x{network.height}x{network.width}"
    return "|".join((network.name, way.path, device, way.precision, size, network.mode))


class PeerBench:
    """Measures jobs; a network's weights, reference outputs and exported files are made at its first job.

    Use as a context manager: the files live in a temporary folder.
    """

    def __init__(self, python: str) -> None:
        """``python``: interpreter that has the peers."""
        self.python = python
        self._stack = contextlib.ExitStack()
        self._folder = Path()
        self._prepared: dict[str, dict[str, Any]] = {}
        self._exported: dict[tuple[str, str, str], dict[str, Any]] = {}
        self._traced: dict[str, dict[str, Any]] = {}
        self._posts: dict[str, dict[str, Any]] = {}
        self._failed: dict[str, Result] = {}

    def __enter__(self) -> PeerBench:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="deeplab-peers-")))
        # Only this package is put in the way of the peers' interpreter, which has another torch.
        (self._folder / "path").mkdir()
        package = Path(__file__).parents[1]
        (self._folder / "path" / package.name).symlink_to(package, target_is_directory=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def look(self, peers: Sequence[str]) -> dict[str, Any]:
        """Which of the peers are missing there, versions, and whether torch_tensorrt is there.

        Raises:
            DeepLabError: the interpreter cannot be run, or lacks torch.
        """
        answer = self._ask_peer({"what": "look", "peers": list(peers)})
        if "error" in answer:
            raise DeepLabError(f"{self.python} cannot run the peers: {answer['error']}; {INSTALL}")
        return answer

    def measure_one(self, job: Job, limit_s: float | None = None) -> Result:
        """One round of one way: outputs compared, then timed, each side in a process of its own.

        A way that failed once is not run again; its result says why.

        Args:
            job: from `make_jobs`.
            limit_s: seconds after which a process is ended.
        """
        if job["key"] in self._failed:
            return self._failed[job["key"]]
        result = {**_identity(job), **self._answer(job, limit_s)}
        if "error" in result:
            result.pop("steps", None)
            self._failed[job["key"]] = result
        return result

    def _answer(self, job: Job, limit_s: float | None) -> dict[str, Any]:
        prepared = self._prepare(job, limit_s)
        if "error" in prepared:
            return {"error": f"the peer's network: {prepared['error']}"}
        folder = self._folder_of(job)
        job = {**job, "what": "measure", "folder": str(folder), "view": prepared["view"]}
        if job.get("by_hand"):
            answer = self._by_hand(job, limit_s)
        elif job["side"] == "peer":
            answer = self._ask_peer(job, limit_s)
        else:
            exported = self._export(job, limit_s) if needs_file(job["backend"], job["precision"]) else {}
            answer = exported if "error" in exported else _ask_ours(job, limit_s)
        notes = [f"{prepared['classes_found']} classes in the reference labels", *answer.pop("post_notes", [])]
        windows = _windows(job, prepared["window"])
        return {**answer, "windows": windows, "view": prepared["view"], "notes": notes}

    def _prepare(self, job: Job, limit_s: float | None) -> dict[str, Any]:
        """The peer's checkpoint and its outputs on one generated street."""
        name = job["name"]
        if name not in self._prepared:
            from deeplab_infer.data.synthetic_streets import generate_street

            folder = self._folder_of(job)
            folder.mkdir()
            height, width = job["height"], job["width"]
            image, labels = (part[:height, :width] for part in generate_street(1, max(16, height), max(16, width)))
            np.save(folder / "image.npy", np.ascontiguousarray(image))
            np.save(folder / "scene.npy", np.ascontiguousarray(labels))
            wanted = {key: job[key] for key in ("peer", "network", "device", "threads")}
            self._prepared[name] = self._ask_peer({**wanted, "what": "prepare", "folder": str(folder)}, limit_s)
        return self._prepared[name]

    def _export(self, job: Job, limit_s: float | None) -> dict[str, Any]:
        key = (job["name"], job["precision"], job["backend"])
        if key not in self._exported:
            answer = _ask_ours({**job, "what": "export"}, limit_s)
            self._exported[key] = {"error": f"the export: {answer['error']}"} if "error" in answer else answer
        return self._exported[key]

    def _by_hand(self, job: Job, limit_s: float | None) -> dict[str, Any]:
        """Traced by the peer, exported and run by us; the first round finds where resize and argmax are faster."""
        name, key = job["name"], job["key"]
        if name not in self._traced:
            self._traced[name] = self._ask_peer({**job, "what": "trace"}, limit_s)
        if "error" in self._traced[name]:
            return {"error": f"tracing: {self._traced[name]['error']}"}
        job = {**job, **self._traced[name], **self._posts.get(key, {})}
        if key not in self._posts:
            converted = in_own_process(_BY_HAND_WORKER, {**job, "what": "convert"}, KEEP_MEMORY, limit_s=limit_s)
            if "error" in converted:
                return {"error": f"the export: {converted['error']}"}
        answer = in_own_process(_BY_HAND_WORKER, job, KEEP_MEMORY, limit_s=limit_s)
        if "post" in answer:
            self._posts[key] = {"post": answer["post"]}
        return answer

    def _folder_of(self, job: Job) -> Path:
        return self._folder / job["name"].replace(":", "_")

    def _ask_peer(self, job: Job, limit_s: float | None = None) -> dict[str, Any]:
        path = [str(self._folder / "path"), os.environ.get("PYTHONPATH", "")]
        environment = {
            **({} if job.get("plain_memory") else KEEP_MEMORY),
            "PYTHONPATH": os.pathsep.join(part for part in path if part),
        }
        try:
            return in_own_process(_PEER_WORKER, job, environment, python=self.python, limit_s=limit_s)
        except OSError as error:
            raise DeepLabError(f"--python {self.python}: {error.strerror}; give a Python interpreter") from error


def _ask_ours(job: Job, limit_s: float | None) -> dict[str, Any]:
    return in_own_process(_OWN_WORKER, job, KEEP_MEMORY, limit_s=limit_s)


def _identity(job: Job) -> Result:
    names = ("key", "name", "path", "backend", "device", "precision", "height", "width", "mode", "peer", "side")
    unknown = {"energy_j_per_image": None, "gmacs_per_image": None, "floor_ms": None, "clocks": None}
    return {**{name: job[name] for name in names}, "batch": 1, "windows": 1, **unknown, **_published(job["name"])}


def _published(name: str) -> Result:
    row = next((row for row in reference_rows() if row.name == name), None)
    if row is None:
        return {}
    figures = {"fps": row.fps, "miou": row.miou, "miou_ms_flip": row.miou_ms_flip, "memory_gb": row.memory_gb}
    return {"published": figures}


def _windows(job: Job, window: list[int] | None) -> int:
    if window is None:
        return 1
    from deeplab_infer.runtime.windows import place_windows

    config = load_config(job["network"])
    assert config.window is not None and config.window_stride is not None
    return len(place_windows(job["height"], job["width"], config.window, config.window_stride))
