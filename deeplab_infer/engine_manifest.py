# SPDX-License-Identifier: Apache-2.0
"""What lies beside a TensorRT engine, as ``<engine>.json``: the plan stays pure, so that NVIDIA's tools read it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .errors import ModelFileError
from .files import atomic_write, sha256_file
from .manifest import Manifest

SCHEMA_VERSION = 1
ENGINE_SUFFIXES = (".engine", ".plan", ".trt")

Range = tuple[int, int, int]


@dataclass(frozen=True)
class Profile:
    """Sizes that an engine is optimised for, each as (min, opt, max)."""

    batch: Range
    height: Range
    width: Range

    def accepts(self, batch: int, height: int, width: int) -> bool:
        """Whether an input of these sizes runs with this profile."""
        pairs = ((batch, self.batch), (height, self.height), (width, self.width))
        return all(limits[0] <= size <= limits[2] for size, limits in pairs)

    def input_shapes(self, input_kind: str) -> tuple[tuple[int, ...], ...]:
        """Shapes of the input at (min, opt, max): [N, H, W, 3] of a uint8 input, [N, 3, H, W] of a float one."""
        axes = [self.batch, self.height, self.width]
        axes.insert(3 if input_kind == "uint8" else 1, (3, 3, 3))
        return tuple(zip(*axes, strict=True))

    def __str__(self) -> str:
        sides = (self.batch, self.height, self.width)
        return " x ".join(str(s[0]) if s[0] == s[2] else f"{s[0]}:{s[1]}:{s[2]}" for s in sides)


@dataclass(frozen=True)
class EngineManifest:
    """The contract of an engine.

    Attributes:
        manifest: of the ONNX file that it was built from; sizes are those of all profiles together.
        plan_sha256: of the engine file, which binds the two.
        flavour: ``"tensorrt"`` or ``"tensorrt_rtx"``.
        version: of that package.
        profiles: in the engine's order.
        gpu: name of the GPU that it was built on; None where it was built without one.
        compute_capabilities: that it was built for, e.g. ``("9.0",)``; empty: those of the flavour's default.
        hardware_compatibility: ``"none"``, ``"ampere+"`` or ``"same"`` (compute capability).
        version_compatible: whether later TensorRT versions may run it.
        weights: ``"inside"``, or ``"stripped"``: read from ``onnx`` when it is opened.
        refittable: whether its weights can be replaced.
        tf32: whether float32 products may round their factors to 10 bits.
        onnx, onnx_sha256: the file that it was built from.
        layers: number of layers by the type that they compute in.
        layers_from: ``"engine inspector"`` or ``"network definition"``, where there was no GPU to read the engine with.
        plugins: file names of the plugin libraries that it needs.
        command: that makes it again.
    """

    manifest: Manifest
    plan_sha256: str
    flavour: str
    version: str
    profiles: tuple[Profile, ...]
    gpu: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    weights: str = "inside"
    refittable: bool = False
    tf32: bool = False
    onnx: str = ""
    onnx_sha256: str = ""
    layers: dict[str, int] = field(default_factory=dict)
    layers_from: str = ""
    plugins: tuple[str, ...] = ()
    command: str = ""
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """Indented JSON; `from_json` reads it back equal."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        values["profiles"] = [asdict(profile) for profile in self.profiles]
        return json.dumps({**values, "manifest": json.loads(self.manifest.to_json())}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EngineManifest:
        """Read one.

        Raises:
            ModelFileError: not an engine's manifest, or one of a newer version of this toolkit.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            if values["schema_version"] != SCHEMA_VERSION:
                raise ModelFileError(
                    f"the engine's manifest has version {values['schema_version']}, this deeplab-infer reads version "
                    f"{SCHEMA_VERSION}; use the deeplab-infer that built it, or build it again"
                )
            values["manifest"] = Manifest.from_json(json.dumps(values["manifest"]))
            values["profiles"] = tuple(
                Profile(*(_range(profile[name]) for name in ("batch", "height", "width")))
                for profile in values["profiles"]
            )
            for name in ("compute_capabilities", "plugins"):
                values[name] = tuple(values[name])
            for name in (*values["plugins"], values["onnx"]):
                if Path(name).name != name:
                    raise ModelFileError(f"the engine's manifest names {name!r}, which is not a file beside it")
            return cls(**values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelFileError(f"the engine's manifest cannot be read ({error}); build the engine again") from error


def _range(sides: list[Any]) -> Range:
    low, typical, high = (int(side) for side in sides)
    return low, typical, high


def manifest_path(engine: str | os.PathLike[str]) -> Path:
    """Where an engine's manifest lies."""
    return Path(f"{os.fspath(engine)}.json")


def write_engine_manifest(engine: str | os.PathLike[str], manifest: EngineManifest) -> None:
    """Write ``<engine>.json``, whole or not at all."""
    with atomic_write(manifest_path(engine), "w") as stream:
        stream.write(manifest.to_json())


def read_engine_manifest(engine: str | os.PathLike[str], *, check_plan: bool = True) -> EngineManifest:
    """The manifest beside an engine.

    Args:
        engine: the plan file.
        check_plan: compare the plan with the checksum in the manifest.

    Raises:
        ModelFileError: either file is missing or unreadable, or the two do not belong together.
    """
    path, beside = Path(engine), manifest_path(engine)
    if not path.is_file():
        raise ModelFileError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    try:
        text = beside.read_text("utf-8")
    except FileNotFoundError:
        raise ModelFileError(
            f"{path}: its manifest {beside.name} is missing; copy both files together, or build the engine again with "
            "deeplab-export"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{beside}: cannot be read: {error}") from error
    try:
        manifest = EngineManifest.from_json(text)
    except ModelFileError as error:
        raise ModelFileError(f"{beside}: {error}") from error
    if check_plan and sha256_file(path) != manifest.plan_sha256:
        raise ModelFileError(
            f"{path}: is not the engine that {beside.name} describes (truncated, or replaced); build it again"
            + (f": {manifest.command}" if manifest.command else "")
        )
    return manifest
