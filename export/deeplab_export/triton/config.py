# SPDX-License-Identifier: Apache-2.0
"""What a model's config.pbtxt says.

Field names and their meaning are those of Triton's ``model_config.proto`` (triton-inference-server/common); names of
parameters those of the backends' own documentation (triton-inference-server/onnxruntime_backend, openvino_backend).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deeplab_infer.engine_manifest import Profile
from deeplab_infer.errors import ExportError
from deeplab_infer.manifest import Manifest, Range

from .text import Symbol, map_entries, to_text

LABEL_FILE = "labels.txt"
_TYPES = {"uint8": Symbol("TYPE_UINT8"), "int32": Symbol("TYPE_INT32")}
# ONNX Runtime's TensorRT provider builds weakly typed engines: it must be told what the graph's types need.
_PRECISION_MODES = {"fp32": "FP32", "tf32": "FP32", "fp16": "FP16", "bf16": "BF16", "int8": "INT8"}


@dataclass(frozen=True)
class Backend:
    """One of Triton's backends.

    Attributes:
        file: name of the model file that it looks for.
        kinds: instance kind by the device that was asked for.
        accelerators: ``execution_accelerators`` that it knows, with the devices that they are for.
        threads: its parameter for the number of threads; None where it has none.
    """

    file: str
    kinds: dict[str, str]
    accelerators: dict[str, tuple[str, ...]]
    threads: str | None


BACKENDS = {
    "onnxruntime": Backend(
        "model.onnx",
        {"auto": "KIND_AUTO", "gpu": "KIND_GPU", "cpu": "KIND_CPU"},
        {"tensorrt": ("auto", "gpu"), "openvino": ("auto", "cpu")},
        "intra_op_thread_count",
    ),
    "openvino": Backend("model.xml", {"auto": "KIND_CPU", "cpu": "KIND_CPU"}, {}, "INFERENCE_NUM_THREADS"),
    "tensorrt": Backend("model.plan", {"auto": "KIND_GPU", "gpu": "KIND_GPU"}, {}, None),
}
DEVICES = ("auto", "gpu", "cpu")
ACCELERATORS = ("tensorrt", "openvino")


@dataclass(frozen=True)
class TritonOptions:
    """How a model is served.

    Attributes:
        backend: one of `BACKENDS`.
        version: of the model, from 1.
        device: ``"auto"``, ``"gpu"`` or ``"cpu"``.
        accelerator: of the onnxruntime backend: ``"tensorrt"``, ``"openvino"`` or None.
        engine_cache: folder on the server where the accelerator tensorrt keeps its engines; None keeps none.
        instances: copies of the model, on each GPU or on the CPU.
        max_batch: largest batch that the server makes; None: the largest that the model takes.
        queue_delay: microseconds that a request may wait for others.
        threads: of an instance on the CPU; None leaves it to the backend.
        cuda_graphs: record the network as CUDA graphs at the sizes of the warm-up (tensorrt).
    """

    backend: str = "onnxruntime"
    version: int = 1
    device: str = "auto"
    accelerator: str | None = None
    engine_cache: str | None = None
    instances: int = 1
    max_batch: int | None = None
    queue_delay: int = 0
    threads: int | None = None
    cuda_graphs: bool = False

    def __post_init__(self) -> None:
        """Refuse what the backend does not have.

        Raises:
            ExportError: which option, and what to do.
        """
        if self.backend not in BACKENDS:
            raise ExportError(f"Triton backend {self.backend!r} is not one of {', '.join(BACKENDS)}")
        for name, value in (("version", self.version), ("instances", self.instances), ("threads", self.threads),
                            ("largest batch", self.max_batch)):  # fmt: skip
            if value is not None and value < 1:
                raise ExportError(f"the {name} of a Triton model must be at least 1, got {value}")
        if self.queue_delay < 0:
            raise ExportError(f"the queue delay must be at least 0 microseconds, got {self.queue_delay}")
        backend = BACKENDS[self.backend]
        if self.device not in backend.kinds:
            raise ExportError(f"Triton's {self.backend} backend does not run on a {self.device}; take another backend")
        self._check_accelerator(backend)
        if self.threads is not None and backend.threads is None:
            raise ExportError(f"Triton's {self.backend} backend has no number of threads; leave --triton-threads away")
        if self.cuda_graphs and self.backend != "tensorrt":
            raise ExportError(f"CUDA graphs are an option of the tensorrt backend, not of {self.backend}")
        if self.backend == "openvino" and (self.max_batch or 1) > 1:
            raise ExportError(
                "Triton's openvino backend makes no batches of several requests: it refuses every batch that is not "
                "full; leave --max-batch away (requests of several images are served), or raise --instances"
            )

    def _check_accelerator(self, backend: Backend) -> None:
        if self.accelerator is not None:
            if self.accelerator not in backend.accelerators:
                raise ExportError(
                    f"accelerator {self.accelerator!r} is for the onnxruntime backend; Triton's {self.backend} "
                    "backend has none"
                )
            if self.device not in backend.accelerators[self.accelerator]:
                raise ExportError(f"accelerator {self.accelerator!r} does not run on a {self.device}")
        if self.engine_cache is not None and self.accelerator != "tensorrt":
            raise ExportError("an engine cache is for the accelerator tensorrt; add --triton-accelerator tensorrt")


def check_options(options: TritonOptions, manifest: Manifest) -> None:
    """Refuse a model that these options cannot serve.

    Raises:
        ExportError: logits or floats, which a client does not want; a precision without a mode.
    """
    if manifest.output_kind != "labels":
        raise ExportError("a Triton model answers with labels; leave --output away, or export with --format onnx")
    if manifest.input_kind != "uint8":
        raise ExportError("a Triton model takes uint8 pixels; leave --input away, or export with --format onnx")
    if options.accelerator == "tensorrt":
        if manifest.precision not in _PRECISION_MODES:
            raise ExportError(
                f"Triton's accelerator tensorrt has no mode for {manifest.precision}; it knows "
                f"{', '.join(_PRECISION_MODES)}"
            )
        if manifest.rest == "fp16":
            raise ExportError("Triton's accelerator tensorrt knows one precision a model; take --rest fp32")


def config_text(name: str, manifest: Manifest, options: TritonOptions, profiles: Sequence[Profile]) -> str:
    """The config.pbtxt.

    Args:
        name: of the model, and of its folder.
        manifest: of the model file; what is open in it is -1 in the config.
        options: see `TritonOptions`.
        profiles: sizes that are served fast, at least one; the first one's typical size is that of the warm-up.

    Raises:
        ExportError: options that do not fit the model.
    """
    check_options(options, manifest)
    limit = max_batch_size(manifest, options, profiles)
    fields: dict[str, Any] = {"name": name, "backend": options.backend, "max_batch_size": limit}
    dims = _dims(manifest, batched=limit > 0)
    fields["input"] = [{"name": "image", "data_type": _TYPES["uint8"], "dims": [*dims, 3]}]
    label_type = _TYPES[manifest.label_dtype]
    fields["output"] = [{"name": "labels", "data_type": label_type, "dims": dims, "label_filename": LABEL_FILE}]
    fields["instance_group"] = [_instances(options, profiles)]
    if limit > 1:
        fields["dynamic_batching"] = _batching(limit, options, profiles)
    if optimisation := _optimisation(manifest, limit, options, profiles):
        fields["optimization"] = optimisation
    parameters = {key: {"string_value": value} for key, value in _parameters(manifest, options).items()}
    fields["parameters"] = map_entries(parameters)
    fields["model_warmup"] = [_warm_up(count, manifest, limit, profiles[0]) for count in _warm_batches(limit)]
    return to_text(fields)


def label_text(manifest: Manifest) -> str:
    """The labels file: the name of class i in line i, from 0."""
    return "".join(f"{name}\n" for name in manifest.config.classes)


def max_batch_size(manifest: Manifest, options: TritonOptions, profiles: Sequence[Profile]) -> int:
    """Triton's ``max_batch_size``: 0 where the batch is part of the model's shape.

    Raises:
        ExportError: more was asked for than the model takes, or a delay where there are no batches.
    """
    if options.backend == "openvino" or not _is_open(manifest.batch):
        limit = 0
        if options.max_batch is not None and options.max_batch != manifest.batch[2]:
            raise ExportError(f"the model's batch is fixed at {manifest.batch[2]}; leave --max-batch or --batch away")
    else:
        most = max(profile.batch[2] for profile in profiles)
        limit = options.max_batch or most
        if limit > most:
            raise ExportError(
                f"batches of {limit} are more than the {most} that the model is made for; export it with --batch "
                f"1:{limit}:{limit}"
            )
    if options.queue_delay and limit <= 1:
        raise ExportError("no batches are made of this model, so there is nothing to wait for: leave the delay away")
    return limit


def _is_open(limits: Range) -> bool:
    return limits[0] < limits[2]


def _dims(manifest: Manifest, *, batched: bool) -> list[int]:
    """[N, H, W] as far as a config says them: -1 where open, no N where Triton adds it."""
    limits = (manifest.height, manifest.width) if batched else (manifest.batch, manifest.height, manifest.width)
    return [-1 if _is_open(one) else one[1] for one in limits]


def _instances(options: TritonOptions, profiles: Sequence[Profile]) -> dict[str, Any]:
    kind = BACKENDS[options.backend].kinds[options.device]
    group: dict[str, Any] = {"count": options.instances, "kind": Symbol(kind)}
    if options.backend == "tensorrt" and len(profiles) > 1:
        # Without their indices Triton uses the first one only.
        group["profile"] = [str(index) for index in range(len(profiles))]
    return group


def _batching(limit: int, options: TritonOptions, profiles: Sequence[Profile]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    preferred = sorted({profile.batch[1] for profile in profiles if 1 < profile.batch[1] <= limit})
    # Triton's guide: only for engines whose profiles favour some batch sizes.
    if options.backend == "tensorrt" and len(profiles) > 1 and preferred:
        fields["preferred_batch_size"] = preferred
    if options.queue_delay:
        fields["max_queue_delay_microseconds"] = options.queue_delay
    return fields


def _warm_batches(limit: int) -> list[int]:
    return sorted({1, max(limit, 1)})


def _warm_dims(manifest: Manifest, limit: int, profile: Profile) -> list[int]:
    """The image's shape of a warm-up request, without the batch where Triton adds it."""
    size = [profile.height[1], profile.width[1], 3]
    if limit > 0:
        return size
    return [1 if _is_open(manifest.batch) else manifest.batch[1], *size]


def _warm_up(count: int, manifest: Manifest, limit: int, profile: Profile) -> dict[str, Any]:
    image = {"data_type": _TYPES["uint8"], "dims": _warm_dims(manifest, limit, profile), "random_data": True}
    return {"name": f"batch_{count}", "batch_size": count, "inputs": map_entries({"image": image})}


def _optimisation(
    manifest: Manifest, limit: int, options: TritonOptions, profiles: Sequence[Profile]
) -> dict[str, Any]:
    if options.cuda_graphs:
        shape = {"image": {"dim": _warm_dims(manifest, limit, profiles[0])}}
        specs = [{"batch_size": count if limit else 0, "input": map_entries(shape)} for count in _warm_batches(limit)]
        return {"cuda": {"graphs": True, "graph_spec": specs}}
    if options.accelerator == "openvino":
        return {"execution_accelerators": {"cpu_execution_accelerator": [{"name": "openvino"}]}}
    if options.accelerator == "tensorrt":
        keys = {"precision_mode": _PRECISION_MODES[manifest.precision], **_engine_keys(manifest, options, profiles[0])}
        accelerator = {"name": "tensorrt", "parameters": map_entries(keys)}
        return {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}
    return {}


def _engine_keys(manifest: Manifest, options: TritonOptions, profile: Profile) -> dict[str, str]:
    """Where engines are kept, and the sizes they are built for: else each new size is another build."""
    keys: dict[str, str] = {}
    if options.engine_cache is not None:
        keys |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": options.engine_cache}
    if any(map(_is_open, (manifest.batch, manifest.height, manifest.width))):
        for which, shape in zip(("min", "opt", "max"), profile.input_shapes("uint8"), strict=True):
            keys[f"trt_profile_{which}_shapes"] = "image:" + "x".join(map(str, shape))
    return keys


def _parameters(manifest: Manifest, options: TritonOptions) -> dict[str, str]:
    """The backend's own settings, and what a client needs to show labels."""
    found = {}
    if options.threads is not None:
        found[str(BACKENDS[options.backend].threads)] = str(options.threads)
    if options.backend == "openvino":
        # Instances are requests on one compiled model: without a stream each they wait for each other.
        found["NUM_STREAMS"] = str(options.instances)
        if options.instances == 1:
            found["PERFORMANCE_HINT"] = "LATENCY"
        if manifest.precision == "bf16":
            found["HINT_BF16"] = "YES"
    found["classes"] = json.dumps(list(manifest.config.classes))
    found["palette"] = json.dumps([list(colour) for colour in manifest.config.palette])
    return found
