# SPDX-License-Identifier: Apache-2.0
"""The line for NVIDIA's own tool that builds the same engine."""

from __future__ import annotations

import shlex

from deeplab_infer.engine_manifest import Profile
from deeplab_infer.manifest import Manifest
from deeplab_infer.runtime.tensorrt_flavour import Flavour

from .engine import EngineOptions
from .precision import PRECISIONS

_LEVELS = {"ampere+": "ampere+", "same": "sameComputeCapability"}


def trtexec_command(
    manifest: Manifest, onnx_path: str, engine_path: str, options: EngineOptions, flavour: Flavour
) -> str:
    """``trtexec`` (or RTX's ``tensorrt_rtx``) with the options of `build_engine`, quoted for a shell."""
    words = [flavour.command(), f"--onnx={onnx_path}", f"--saveEngine={engine_path}"]
    if flavour.name == "tensorrt" and int(flavour.version.split(".")[0]) < 11:
        words.append("--stronglyTyped")
    for index, profile in enumerate(options.profiles):
        if len(options.profiles) > 1:
            words.append(f"--profile={index}")
        words += _shapes(manifest, profile)
    if options.workspace is not None:
        words.append(f"--memPoolSize=workspace:{round(options.workspace * 1024)}M")
    if options.optimisation_level is not None:
        words.append(f"--builderOptimizationLevel={options.optimisation_level}")
    if options.hardware_compatibility != "none":
        words.append(f"--hardwareCompatibilityLevel={_LEVELS[options.hardware_compatibility]}")
    flags = {
        "--versionCompatible": options.version_compatible,
        "--stripWeights": options.strip_weights,
        "--refit": options.refit and not options.strip_weights,
        "--noTF32": not PRECISIONS[manifest.precision].tf32,
    }
    words += [flag for flag, given in flags.items() if given]
    if options.compute_capabilities:
        words.append("--computeCapabilities=" + ",".join(options.compute_capabilities))
    words += [f"--dynamicPlugins={plugin}" for plugin in options.plugins]
    return shlex.join([*words, "--profilingVerbosity=detailed", "--skipInference"])


def _shapes(manifest: Manifest, profile: Profile) -> list[str]:
    if all(sides[0] == sides[2] for sides in (manifest.batch, manifest.height, manifest.width)):
        return []  # a static graph takes none
    shapes = profile.input_shapes(manifest.input_kind)
    return [
        f"--{name}Shapes=image:{'x'.join(map(str, shape))}"
        for name, shape in zip(("min", "opt", "max"), shapes, strict=True)
    ]
