# SPDX-License-Identifier: Apache-2.0
"""What an exported model promises: written by the export, checked by the runtime. Needs neither torch nor onnx."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from .configs import ModelConfig
from .errors import ConfigError, ModelFileError

SCHEMA_VERSION = 1
METADATA_KEY = "deeplab_infer"
_METADATA_FIELD, _KEY_FIELD, _VALUE_FIELD = 14, 1, 2  # ModelProto.metadata_props, StringStringEntryProto
_GRAPH_FIELD = 7
_MAX_METADATA_BYTES = 16 << 20

Range = tuple[int, int, int]


@dataclass(frozen=True)
class Manifest:
    """The contract of an exported file.

    Attributes:
        config: the model's config: classes, palette, test mode, normalisation.
        input_kind: ``"uint8"``: input ``image`` is uint8 [N, H, W, 3] RGB, normalised inside the graph;
            ``"float"``: float32 [N, 3, H, W], already normalised, channels in the config's order.
        output_kind: ``"logits"``: output ``logits`` is float32 [N, C, h, w] at the network's stride;
            ``"labels"``: output ``labels`` is uint8 (int32 beyond 256 classes) [N, H, W] at the input's size.
        precision: of the weights and activations: ``"fp32"``, ``"tf32"``, ``"fp16"``, ``"bf16"``, ``"int8"`` or
            ``"fp8"``.
        opset: ONNX operator set.
        batch, height, width: what the input accepts, as (min, typical, max); all equal where fixed.
        checkpoint_sha256: of the file that the weights came from; None for random weights.
        checkpoint_source: where that file was.
        tools: versions that made the file.
        report: summary of the verification, or None where it was not verified.
        rest: type of the layers that an eight-bit graph does not quantise; None for other precisions.
        kept_layers: layers in higher precision than ``precision`` says.
        calibration: images and method that eight-bit scales come from; None for other precisions.
        rewrites: exact rewrites of the network that were applied (docs/optimisations.md), in their order.
    """

    config: ModelConfig
    input_kind: str
    output_kind: str
    precision: str
    opset: int
    batch: Range
    height: Range
    width: Range
    checkpoint_sha256: str | None = None
    checkpoint_source: str = ""
    tools: dict[str, str] = field(default_factory=dict)
    report: dict[str, Any] | None = None
    rest: str | None = None
    kept_layers: tuple[str, ...] = ()
    calibration: dict[str, Any] | None = None
    rewrites: tuple[str, ...] = ()
    schema_version: int = SCHEMA_VERSION

    @property
    def label_dtype(self) -> str:
        """Type of label maps: uint8 up to 256 classes, else int32."""
        return "uint8" if self.config.num_classes <= 256 else "int32"

    def to_json(self) -> str:
        """One line of JSON; `from_json` reads it back equal."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return json.dumps({**values, "config": self.config.to_dict()}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest.

        Raises:
            ModelFileError: not a manifest, or one of a newer version of this toolkit.
        """
        try:
            values = json.loads(text)
            version = values["schema_version"]
            if version != SCHEMA_VERSION:
                raise ModelFileError(
                    f"the model's manifest has version {version}, this deeplab-infer reads version {SCHEMA_VERSION}; "
                    "use the deeplab-infer that exported it, or export again"
                )
            for name in ("batch", "height", "width"):
                values[name] = tuple(int(value) for value in values[name])
            for name in ("kept_layers", "rewrites"):
                values[name] = tuple(values.get(name, ()))
            values["config"] = ModelConfig.from_dict(values["config"])
            return cls(**values)
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            raise ModelFileError(f"the model's manifest cannot be read ({error}); export the model again") from error


def read_onnx_manifest(path: str | os.PathLike[str]) -> Manifest:
    """The manifest inside an ONNX file; weights are skipped, not read.

    Raises:
        ModelFileError: missing, truncated or not an ONNX file, or one that `deeplab-export` did not write.
    """
    try:
        with open(path, "rb") as stream:
            entries = dict(_metadata(stream, Path(path)))
    except FileNotFoundError:
        raise ModelFileError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ModelFileError(f"{path}: is a folder; give the .onnx file in it") from None
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from error
    if METADATA_KEY not in entries:
        raise ModelFileError(
            f"{path}: an ONNX file without our manifest; export it with deeplab-export, which writes classes, "
            "normalisation and test mode into the file"
        )
    try:
        return Manifest.from_json(entries[METADATA_KEY])
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from error


def _metadata(stream: BinaryIO, path: Path) -> Iterator[tuple[str, str]]:
    """Walk the top-level fields of a serialised ModelProto; truncated and foreign files are errors."""
    size = os.fstat(stream.fileno()).st_size
    has_graph = False
    while stream.tell() < size:
        tag = _varint(stream, path)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            _varint(stream, path)
            continue
        if wire != 2 or not 1 <= number <= 64:
            raise ModelFileError(f"{path}: not an ONNX file, or damaged")
        length = _varint(stream, path)
        if stream.tell() + length > size:
            raise ModelFileError(f"{path}: truncated or not an ONNX file; copy or export it again")
        has_graph |= number == _GRAPH_FIELD
        if number == _METADATA_FIELD and length <= _MAX_METADATA_BYTES:
            yield _entry(stream.read(length), path)
        else:
            stream.seek(length, os.SEEK_CUR)
    if not has_graph:
        raise ModelFileError(f"{path}: truncated or not an ONNX file (no graph in it); copy or export it again")


def _entry(data: bytes, path: Path) -> tuple[str, str]:
    texts = {_KEY_FIELD: "", _VALUE_FIELD: ""}
    position = 0
    while position < len(data):
        tag, position = _varint_at(data, position, path)
        length, position = _varint_at(data, position, path)
        texts[tag >> 3] = data[position : position + length].decode("utf-8", "replace")
        position += length
    return texts[_KEY_FIELD], texts[_VALUE_FIELD]


def _varint(stream: BinaryIO, path: Path) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            raise ModelFileError(f"{path}: truncated or not an ONNX file; copy or export it again")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ModelFileError(f"{path}: not an ONNX file, or damaged")


def _varint_at(data: bytes, position: int, path: Path) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ModelFileError(f"{path}: its metadata are damaged; export it again")
