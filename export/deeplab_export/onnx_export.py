# SPDX-License-Identifier: Apache-2.0
"""ONNX files from torch's maintained exporter, checked, with the manifest inside."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import shape_inference

from deeplab_infer import __version__
from deeplab_infer.configs import ModelConfig
from deeplab_infer.errors import ExportError
from deeplab_infer.files import atomic_write
from deeplab_infer.manifest import METADATA_KEY, Manifest
from deeplab_infer.models import DeepLab
from deeplab_infer.optimize import applied_names
from deeplab_infer.preprocess import normalise

from .calibration import Calibration, calibrate, calibration_images, fit_images
from .convert import convert
from .graph import DeploymentGraph, Range, Signature
from .precision import Precision, choose_precision

OPSETS = (18, 19, 20, 21, 22)
_MAX_BYTES = 2_000_000_000  # protobuf's limit, with room for the graph
_log = logging.getLogger(__name__)


def export_onnx(
    model: DeepLab,
    path: str | os.PathLike[str],
    *,
    input: str = "uint8",
    output: str = "logits",
    precision: str = "fp32",
    rest: str = "fp32",
    keep: Collection[str] = (),
    calibration: Calibration | None = None,
    batch: int | Range = (1, 1, 8),
    height: int | Range = (1, 512, 8192),
    width: int | Range = (1, 1024, 8192),
    opset: int = 18,
    rewrites: bool = True,
) -> Manifest:
    """Write a network as one ONNX file, whole or not at all.

    Args:
        model: network with weights.
        path: the file to write.
        input: ``"uint8"``: ``image`` uint8 [N, H, W, 3] RGB, 0..255, normalised inside the graph; ``"float"``:
            ``image`` float32 [N, 3, H, W], normalised, in the config's channel order.
        output: ``"logits"``: float32 [N, C, h, w] at the network's stride; ``"labels"``: uint8 [N, H, W], int32
            beyond 256 classes.
        precision: one of `deeplab_export.precision.PRECISIONS`, explicit in the graph; inputs and outputs keep their
            types. ``"tf32"`` is the float32 graph and tells GPUs that they may round factors to 10 bits.
        rest: type of the layers that an eight-bit graph does not quantise: ``"fp32"`` or ``"fp16"``.
        keep: layers in higher precision (`deeplab_export.quantize.layers` names them).
        calibration: images and method for eight bits; by default 16 generated streets.
        batch, height, width: one size fixes the dimension, (min, typical, max) leaves it open.
        opset: ONNX operator set, 18 to 22; a precision may need a later one.
        rewrites: apply the exact rewrites of `deeplab_infer.optimize`; without them only batch normalisation is
            folded and what training needs removed.

    Returns:
        The manifest that is also in the file, under the metadata key ``deeplab_infer``.

    Raises:
        ExportError: an unknown option, or a graph that fails ONNX's own checks.
        OSError: the file cannot be written.
    """
    signature = Signature(input, output, _range(batch), _range(height), _range(width))
    traced = TracedNetwork(model, signature, opset, calibration, rewrites=rewrites)
    return traced.write(path, choose_precision(precision, rest), keep)


class TracedNetwork:
    """A network traced once, to be written in any precision.

    Attributes:
        model: the torch network.
        signature: inputs and outputs.
        graph: float32 ONNX graph without manifest.
        rewrites: what became of each exact rewrite of the network.
    """

    def __init__(
        self,
        model: DeepLab,
        signature: Signature,
        opset: int = 18,
        calibration: Calibration | None = None,
        *,
        custom_ops: bool = False,
        rewrites: bool = True,
    ) -> None:
        """Trace a network; ``custom_ops`` keeps our fused kernels as operators of their own.

        ``rewrites``: see `export_onnx`.

        Raises:
            ExportError: an unknown opset, or a graph that fails ONNX's own checks.
        """
        if opset not in OPSETS:
            raise ExportError(f"opset {opset} is not one of {', '.join(map(str, OPSETS))}")
        self.model = model
        self.signature = signature
        graph = DeploymentGraph(model, signature, rewrites=rewrites)
        self.rewrites = graph.rewrites
        if custom_ops:
            from .custom_ops import to_onnx_with_custom_ops

            self.graph = to_onnx_with_custom_ops(graph, opset)
        else:
            self.graph = to_onnx(graph, opset)
        self._calibration = calibration or Calibration()
        self._magnitudes: dict[str, float] | None = None

    def convert(self, precision: Precision, keep: Collection[str] = ()) -> onnx.ModelProto:
        """The graph in a precision, checked; calibrated at the first eight-bit one."""
        magnitudes = self.magnitudes() if precision.eight_bits is not None else None
        converted = convert(self.graph, precision, magnitudes=magnitudes, keep=keep)
        if converted.graph.node != self.graph.graph.node:
            _check(converted)
        return converted

    def magnitudes(self, progress: Callable[[int], None] | None = None) -> dict[str, float]:
        """Reach of the activations on the calibration images; measured once."""
        if self._magnitudes is None:
            self._magnitudes = calibrate(
                self.graph, self.calibration_inputs, self._calibration.method, self._calibration.percentile, progress
            )
        return self._magnitudes

    def manifest(self, precision: Precision, keep: Collection[str], opset: int) -> Manifest:
        """What a file of this network promises."""
        return replace(
            promised_manifest(self.model.config, self.signature, precision),
            kept_layers=tuple(keep),
            rewrites=applied_names(self.rewrites),
            calibration=self._calibration.to_dict() if precision.eight_bits is not None else None,
            opset=opset,
            checkpoint_sha256=self.model.checkpoint_sha256,
            checkpoint_source=self.model.checkpoint_source or "random weights",
        )

    def write(self, path: str | os.PathLike[str], precision: Precision, keep: Collection[str] = ()) -> Manifest:
        """Write the graph in a precision, with its manifest inside."""
        converted = self.convert(precision, keep)
        manifest = self.manifest(precision, keep, opset_of(converted))
        write_onnx(converted, path, manifest)
        return manifest

    @functools.cached_property
    def calibration_inputs(self) -> list[NDArray[Any]]:
        """Calibration images as inputs of the graph."""
        signature, config = self.signature, self.model.config
        typical = (signature.height[1], signature.width[1])
        images = fit_images(
            calibration_images(self._calibration.source, self._calibration.images, typical),
            config.test_scale,
            ((signature.height[0], signature.height[2]), (signature.width[0], signature.width[2])),
        )
        batches = [np.repeat(image[None], signature.batch[0], axis=0) for image in images]
        return [normalise(batch, config) for batch in batches] if signature.input == "float" else list(batches)


def promised_manifest(config: ModelConfig, signature: Signature, precision: Precision) -> Manifest:
    """The manifest of a file before there is one."""
    return Manifest(
        config=config,
        input_kind=signature.input,
        output_kind=signature.output,
        precision=precision.name,
        rest=precision.rest,
        opset=precision.opset,
        batch=signature.batch,
        height=signature.height,
        width=signature.width,
        tools=_tools(),
    )


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
    _check(model)
    _check_signature(model, graph, opset)
    return model


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that a graph uses."""
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


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


def _check(model: onnx.ModelProto) -> None:
    try:
        onnx.checker.check_model(model, full_check=True)
        shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph fails ONNX's checks: {error}") from error


def _check_signature(model: onnx.ModelProto, graph: DeploymentGraph, opset: int) -> None:
    if (found := opset_of(model)) != opset:
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
