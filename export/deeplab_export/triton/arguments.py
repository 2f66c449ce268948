# SPDX-License-Identifier: Apache-2.0
"""From the options of ``deeplab-export`` to those of a Triton model."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from deeplab_infer.engine_manifest import Profile
from deeplab_infer.errors import BackendError, ExportError
from deeplab_infer.manifest import Manifest

from .config import TritonOptions

if TYPE_CHECKING:
    from ..engine import EngineOptions

# Option of the command -> field of `TritonOptions`.
_FIELDS = {
    "triton_backend": "backend",
    "triton_version": "version",
    "triton_device": "device",
    "triton_accelerator": "accelerator",
    "triton_engine_cache": "engine_cache",
    "triton_threads": "threads",
    "instances": "instances",
    "max_batch": "max_batch",
    "queue_delay_us": "queue_delay",
    "cuda_graphs": "cuda_graphs",
}


def triton_options(arguments: argparse.Namespace) -> TritonOptions | None:
    """How Triton serves the model; None for other formats.

    ``--max-batch`` without ``--batch`` also opens the model's batch up to it.

    Raises:
        ExportError: options that contradict each other, or that are for Triton and the format is another.
    """
    given = [name for name in (*_FIELDS, "check_server") if getattr(arguments, name) is not None]
    if arguments.format != "triton":
        if given:
            raise ExportError(f"--{given[0].replace('_', '-')} is for Triton: add --format triton")
        return None
    options = TritonOptions(**{_FIELDS[name]: getattr(arguments, name) for name in given if name in _FIELDS})
    if options.accelerator == "tensorrt" and len(arguments.profile) > 1:
        raise ExportError("the accelerator tensorrt has one profile; give one --profile, or --height and --width")
    if arguments.custom_ops:
        raise ExportError("--custom-ops is not for Triton, which would need the plugin library; leave it away")
    if arguments.check_server and arguments.no_verify:
        raise ExportError("--check-server compares labels and --no-verify does not; leave one of them away")
    if options.max_batch is not None and arguments.batch is None and not arguments.profile:
        # Full batches are what a busy server runs.
        arguments.batch = (1, options.max_batch, options.max_batch)
    return options


def triton_engine_options(options: EngineOptions) -> EngineOptions:
    """How an engine is built that Triton's tensorrt backend loads.

    Raises:
        BackendError: there is no full TensorRT here.
        ExportError: the weights should be left out.
    """
    from deeplab_infer.runtime.tensorrt_flavour import installed_flavours

    if options.flavour == "tensorrt_rtx" or "tensorrt" not in installed_flavours():
        raise BackendError(
            "Triton's tensorrt backend loads engines of the full tensorrt package, not of tensorrt_rtx. On a machine "
            "with the server's GPU run: pip install 'deeplab-infer[tensorrt]' (in the server's version of TensorRT), "
            "or take --triton-backend onnxruntime --triton-accelerator tensorrt, which builds on the server"
        )
    if options.strip_weights:
        raise ExportError("Triton takes engines with their weights inside; leave --strip-weights away")
    return replace(options, flavour="tensorrt")


def serving_profiles(arguments: argparse.Namespace, manifest: Manifest) -> tuple[Profile, ...]:
    """The sizes that a Triton model is warmed up at and, with TensorRT, built for."""
    from ..engine import default_profile

    if arguments.profile:
        return tuple(arguments.profile)
    sizes = {name: getattr(arguments, name) for name in ("height", "width") if getattr(arguments, name)}
    # An engine for the batch that was asked for; other models for every batch that they take.
    if arguments.batch or arguments.triton_backend != "tensorrt":
        sizes["batch"] = manifest.batch
    return (replace(default_profile(manifest), **sizes),)
