# SPDX-License-Identifier: Apache-2.0
"""ONNX files from torch's maintained exporter, checked, with the manifest inside."""

from __future__ import annotations

import contextlib
import logging
import os
import platform
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from onnx import shape_inference

from deeplab_infer import __version__
from deeplab_infer.errors import ExportError
from deeplab_infer.files import atomic_write
from deeplab_infer.manifest import METADATA_KEY, Manifest
from deeplab_infer.models import DeepLab

from .graph import DeploymentGraph, Range, Signature

OPSETS = (18, 19, 20, 21)
_MAX_BYTES = 2_000_000_000  # protobuf's limit, with room for the graph
_log = logging.getLogger(__name__)


def export_onnx(
    model: DeepLab,
    path: str | os.PathLike[str],
    *,
    input: str = "uint8",
    output: str = "logits",
    precision: str = "fp32",
    batch: int | Range = (1, 1, 8),
    height: int | Range = (1, 512, 8192),
    width: int | Range = (1, 1024, 8192),
    opset: int = 18,
) -> Manifest:
    """Write a network as one ONNX file, whole or not at all.

    Args:
        model: network with weights.
        path: the file to write.
        input: ``"uint8"``: ``image`` uint8 [N, H, W, 3] RGB, 0..255, normalised inside the graph; ``"float"``:
            ``image`` float32 [N, 3, H, W], normalised, in the config's channel order.
        output: ``"logits"``: float32 [N, C, h, w] at the network's stride; ``"labels"``: uint8 [N, H, W], int32
            beyond 256 classes.
        precision: ``"fp32"``, or ``"fp16"`` with explicit float16 weights; inputs and outputs keep their types.
        batch, height, width: one size fixes the dimension, (min, typical, max) leaves it open.
        opset: ONNX operator set, 18 to 21.

    Returns:
        The manifest that is also in the file, under the metadata key ``deeplab_infer``.

    Raises:
        ExportError: an unknown option, or a graph that fails ONNX's own checks.
        OSError: the file cannot be written.
    """
    if opset not in OPSETS:
        raise ExportError(f"opset {opset} is not one of {', '.join(map(str, OPSETS))}")
    signature = Signature(input, output, precision, _range(batch), _range(height), _range(width))
    manifest = Manifest(
        config=model.config,
        input_kind=input,
        output_kind=output,
        precision=precision,
        opset=opset,
        batch=signature.batch,
        height=signature.height,
        width=signature.width,
        checkpoint_sha256=model.checkpoint_sha256,
        checkpoint_source=model.checkpoint_source or "random weights",
        tools=_tools(),
    )
    exported = to_onnx(DeploymentGraph(model, signature), opset)
    write_onnx(exported, path, manifest)
    return manifest


def to_onnx(graph: DeploymentGraph, opset: int) -> onnx.ModelProto:
    """Trace a deployment graph; its dimensions are open or fixed as its signature says."""
    axes = (0, 1, 2) if graph.signature.input == "uint8" else (0, 2, 3)
    names = ("batch", "height", "width")
    dynamic = {
        axis: torch.export.Dim(name) for axis, name in zip(axes, names, strict=True) if graph.signature.dynamic[name]
    }
    with _quiet():
        program = torch.onnx.export(
            graph.eval(),
            (graph.example(),),
            dynamo=True,
            dynamic_shapes=(dynamic,) if dynamic else None,
            input_names=["image"],
            output_names=[graph.signature.output],
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _tidy(model, graph)
    _check(model, graph, opset)
    return model


def write_onnx(model: onnx.ModelProto, path: str | os.PathLike[str], manifest: Manifest) -> None:
    """Write a graph with its manifest and a few flat entries that model viewers show."""
    config = manifest.config
    entries = {
        METADATA_KEY: manifest.to_json(),
        "names": ",".join(config.classes),
        "stride": str(config.logits_stride),
        "task": "semantic-segmentation",
        "precision": manifest.precision,
    }
    del model.metadata_props[:]
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=value)
    size = model.ByteSize()
    if size > _MAX_BYTES:
        raise ExportError(f"the graph is {size / 1e9:.1f} GB, more than one ONNX file can hold (2 GB)")
    with atomic_write(path) as stream:
        stream.write(model.SerializeToString())


def _tidy(model: onnx.ModelProto, graph: DeploymentGraph) -> None:
    """Names a reader understands, and no traces of this machine's source files."""
    model.producer_name = "deeplab-infer"
    model.producer_version = __version__
    model.graph.name = graph.config.name
    model.graph.doc_string = ""
    for initializer in model.graph.initializer:
        initializer.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        node.name = node.name.removeprefix("node_")
        del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]


def _check(model: onnx.ModelProto, graph: DeploymentGraph, opset: int) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
        shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph fails ONNX's checks: {error}") from error
    found = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if found != opset:
        raise ExportError(f"the exporter wrote opset {found} instead of {opset}; choose --opset {found}")
    dims = model.graph.input[0].type.tensor_type.shape.dim
    axes = (0, 1, 2) if graph.signature.input == "uint8" else (0, 2, 3)
    for axis, (name, is_open) in zip(axes, graph.signature.dynamic.items(), strict=True):
        if is_open != bool(dims[axis].dim_param):
            raise ExportError(f"{name} should be {'open' if is_open else 'fixed'} in the graph but is not")


def _range(value: int | Range) -> Range:
    return (value, value, value) if isinstance(value, int) else value


def _tools() -> dict[str, str]:
    return {
        "deeplab-infer": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "python": platform.python_version(),
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's chatter about packages and deprecations that are not the user's business."""
    chatter: Any = logging.getLogger("torch.onnx")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        chatter.setLevel(level)
