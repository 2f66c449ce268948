# SPDX-License-Identifier: Apache-2.0
"""OpenVINO's own files (IR: .xml and .bin), with eight bits from its own quantiser (NNCF)."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from deeplab_infer.errors import ExportError
from deeplab_infer.manifest import METADATA_KEY, Manifest

from .onnx_export import TracedNetwork, opset_of, write_onnx
from .precision import PRECISIONS, Precision
from .quantize import layers, require_layers

# Type of the ONNX graph that the IR is made of, by what is asked for. bfloat16 is chosen when the model is compiled.
_GRAPHS = {"fp32": "fp32", "bf16": "fp32", "fp16": "fp16", "int8": "fp32"}


def export_openvino(
    traced: TracedNetwork, path: str | os.PathLike[str], precision: Precision, keep: Collection[str] = ()
) -> Manifest:
    """Write an IR: ``path`` (.xml) and its weights beside it (.bin), each whole or not at all.

    Args:
        traced: the network.
        path: the .xml to write.
        precision: fp32, fp16 (weights and activations as in the ONNX file), bf16 (float32 in the file, bfloat16 where
            the CPU has it) or int8 (NNCF, calibrated on the images of ``traced``; symmetric for ReLU networks).
        keep: layers that stay in higher precision; not for bf16, which is chosen for a whole network.

    Returns:
        The manifest that is also in the file, in its runtime information.

    Raises:
        ExportError: another precision, layers to keep that are unknown or not possible, or NNCF is missing.
    """
    if precision.name not in _GRAPHS:
        raise ExportError(f"OpenVINO files are {', '.join(_GRAPHS)}; {precision.name} is for engines and ONNX files")
    target = Path(path)
    if target.suffix != ".xml":
        raise ExportError(f"an OpenVINO file ends in .xml, got {target.name}")
    require_layers(traced.graph, keep)
    if keep and precision.name == "bf16":
        raise ExportError("OpenVINO computes a whole network in bfloat16 or none of it: no layer can be kept; use fp16")
    try:
        import openvino
    except ImportError:
        raise ExportError("this needs OpenVINO; run: pip install 'deeplab-infer[openvino]'") from None
    from deeplab_infer.runtime.openvino_core import shared_core

    graph = traced.convert(PRECISIONS[_GRAPHS[precision.name]], keep if precision.name == "fp16" else ())
    manifest = traced.manifest(precision, keep, opset_of(graph))
    with tempfile.TemporaryDirectory(prefix=".deeplab-openvino-", dir=target.parent) as folder:
        source = Path(folder) / "model.onnx"
        write_onnx(graph, source, manifest)
        model = shared_core().read_model(source)
        if precision.name == "int8":
            model = _quantise(model, traced, keep)
        model.set_rt_info(manifest.to_json(), [METADATA_KEY])
        written = Path(folder) / target.name
        # Half of the weights' bytes only where the precision says so: compression is lossy.
        openvino.save_model(model, written, compress_to_fp16=False)
        del model
        # The .xml goes first and comes last: with it the pair is complete.
        target.unlink(missing_ok=True)
        for suffix in (".bin", ".xml"):
            os.replace(written.with_suffix(suffix), target.with_suffix(suffix))
    return manifest


def _fold_constants(model: Any) -> None:
    """Compute what does not depend on the input, in place.

    The ONNX reader leaves the weights of a depthwise convolution behind a reshape. NNCF then takes [C, 1, 1, 1, 3]
    for the scales of [C, 1, 1, 3, 3] weights, and OpenVINO, which has no such eight-bit convolution, computes the layer
    in float32 between two conversions.
    """
    from openvino.passes import ConstantFolding, Manager

    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)


def _quantise(model: Any, traced: TracedNetwork, keep: Collection[str]) -> Any:
    try:
        import nncf
        from nncf.quantization.advanced_parameters import OverflowFix
    except ImportError:
        raise ExportError(
            "int8 for OpenVINO needs its quantiser; run: pip install 'deeplab-infer[openvino-int8]'"
        ) from None
    logging.getLogger("nncf").setLevel(logging.WARNING)
    images = traced.calibration_inputs
    _fold_constants(model)
    names = [re.escape(node.name) for name, node in layers(traced.graph).items() if name in keep]
    scope = nncf.IgnoredScope(patterns=[f"^{name}(/.*)?$" for name in names], validate=True) if names else None
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(images, lambda image: {"image": image}),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=scope,
            # Sums of full-range weights saturate on CPUs without VNNI (agreement 98.7 % instead of 99.7 % on AVX2).
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=OverflowFix.ENABLE),
        )
