# SPDX-License-Identifier: Apache-2.0
"""The layers of an engine as a table, from TensorRT's inspector or, without a GPU, from the network that was built."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from deeplab_infer.runtime.tensorrt_flavour import Flavour

_log = logging.getLogger(__name__)
# Names of types in network definitions and in the inspector's JSON, of TensorRT 10 and 11.
_TYPES = {
    "bf16": ("bf16", "bfloat16"),
    "half": ("half", "fp16", "float16"),
    "fp8": ("fp8", "fp8e4m3", "float8"),
    "uint8": ("uint8",),
    "int8": ("int8",),
    "float": ("float", "fp32", "float32"),
    "int32": ("int32",),
    "int64": ("int64",),
    "bool": ("bool",),
}


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name: as TensorRT calls it; the inspector joins the names of fused layers.
        kind: e.g. ``"CONVOLUTION"`` or ``"CaskConvolution"``.
        type: in which it computes: the narrowest of its floating or quantised inputs.
        inputs, outputs: types and shapes, e.g. ``"half 1x64x128x256"``.
        tactic: the kernel's name; empty in a network definition.
    """

    name: str
    kind: str
    type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tactic: str = ""


def types_of(layers: Sequence[Layer]) -> dict[str, int]:
    """Number of layers by type, most first."""
    return dict(Counter(layer.type for layer in layers).most_common())


def network_layers(trt: Any, network: Any) -> list[Layer]:
    """The layers of a network definition; strongly typed, so the engine computes in these types."""
    found = []
    restored: dict[str, str] = {}  # tensors behind a dequantisation, with the type before it
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        inputs = [layer.get_input(i) for i in range(layer.num_inputs)]
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        if layer.type in (trt.LayerType.CONSTANT, trt.LayerType.SHAPE):
            continue
        if layer.type == trt.LayerType.DEQUANTIZE:
            restored[outputs[0].name] = _type(inputs[0].dtype.name)
        types = [_type(t.dtype.name) for t in (*inputs, *outputs) if t is not None]
        types += [restored[t.name] for t in inputs if t is not None and t.name in restored]
        found.append(
            Layer(
                layer.name,
                layer.type.name,
                _compute_type(types),
                tuple(_tensor(t) for t in inputs if t is not None),
                tuple(_tensor(t) for t in outputs),
            )
        )
    return found


def engine_layers(flavour: Flavour, plan: bytes) -> list[Layer] | None:
    """The layers of a plan as its inspector tells; None where the plan cannot be opened here."""
    trt = flavour.trt
    engine = trt.Runtime(flavour.logger).deserialize_cuda_engine(plan)
    if engine is None:
        _log.warning("the engine cannot be opened on this machine: its layers are those of the network definition")
        return None
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return parse_inspector(text)


def parse_inspector(text: str) -> list[Layer]:
    """Layers in an inspector's JSON, as TensorRT 10, 11 and RTX write it."""
    found = []
    for entry in json.loads(text).get("Layers", []):
        if isinstance(entry, str):  # an engine built without detailed verbosity
            found.append(Layer(entry, "", "", (), ()))
            continue
        inputs, outputs = (tuple(_io(tensor) for tensor in entry.get(key, [])) for key in ("Inputs", "Outputs"))
        types = [text.partition(" ")[0] for text in (*inputs, *outputs)]
        tactic = str(entry.get("TacticName", ""))
        found.append(
            Layer(entry.get("Name", ""), str(entry.get("LayerType", "")), _compute_type(types), inputs, outputs, tactic)
        )
    return found


def layers_table(layers: Sequence[Layer], title: str) -> Table:
    """One row a layer."""
    table = Table(title=title, title_justify="left")
    for name in ("layer", "kind", "type", "input", "output"):
        table.add_column(name, overflow="fold")
    tactics = any(layer.tactic for layer in layers)
    if tactics:
        table.add_column("kernel", overflow="fold")
    for layer in layers:
        row = [layer.name, layer.kind, layer.type, "\n".join(layer.inputs[:1]), "\n".join(layer.outputs[:1])]
        table.add_row(*(cell.replace("[", "\\[") for cell in ([*row, layer.tactic] if tactics else row)))
    return table


def _compute_type(types: Sequence[str]) -> str:
    """The narrowest type that numbers pass through."""
    for name in ("fp8", "int8", "half", "bf16", "float", "uint8", "int32", "int64", "bool"):
        if name in types:
            return name
    return types[0] if types else ""


def _type(name: str) -> str:
    lowered = name.lower()
    return next((short for short, names in _TYPES.items() if lowered in names), lowered)


def _tensor(tensor: Any) -> str:
    return f"{_type(tensor.dtype.name)} {'x'.join('?' if side < 0 else str(side) for side in tensor.shape)}"


def _io(tensor: dict[str, Any]) -> str:
    """One tensor of the inspector: 11 has a data type of its own, 10 says it in the format's text."""
    words = str(tensor.get("Datatype") or tensor.get("DataType") or tensor.get("Format/Datatype") or "")
    lowered = words.lower().replace("-", " ").replace("/", " ").replace(",", " ").split()
    named = [short for short, names in _TYPES.items() for name in names if name in lowered]
    if not named:
        named = [
            short
            for short in ("fp8", "int8", "half", "bf16", "float")
            if any(n in words.lower() for n in _TYPES[short])
        ]
    shape = "x".join(map(str, tensor.get("Dimensions", [])))
    return f"{named[0] if named else words.strip()} {shape}".strip()
