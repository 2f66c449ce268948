# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files as tensors and plain values, without running what is inside them."""

from __future__ import annotations

import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, first_line
from ..files import sha256_file

MAX_BYTES = 8 << 30
_STATE_KEYS = ("state_dict", "model_state_dict", "model", "net")
_MAX_HEADER = 100 << 20


class _Inert:
    """Stands in for a class that checkpoints mention and nobody here needs; holds whatever state it is given."""

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _inert(*arguments: Any) -> _Inert:
    return _Inert()


# Training logs that mmengine keeps beside the weights: read over, never built.
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Inert, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_inert, "numpy.core.multiarray._reconstruct"),
    (_inert, "numpy._core.multiarray._reconstruct"),
    (_inert, "numpy.core.multiarray.scalar"),
    (_inert, "numpy._core.multiarray.scalar"),
    (_Inert, "numpy.ndarray"),
    (_Inert, "numpy.dtype"),
    (_inert, "builtins.getattr"),
]


@dataclass
class Checkpoint:
    """What a file holds.

    Attributes:
        path: the file.
        sha256: of the whole file.
        state: tensors by name, without a leading ``module.``.
        meta: the other values, such as mmsegmentation's ``meta``.
        metadata: text entries of a safetensors file.
    """

    path: Path
    sha256: str
    state: dict[str, Tensor]
    meta: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)


def read_checkpoint(path: str | os.PathLike[str], trust: bool = False) -> Checkpoint:
    """Read a ``.safetensors`` file or a torch pickle (zip or legacy format).

    Args:
        path: the file.
        trust: load a pickle that needs more than tensors and plain values. **That can run any code in it.**

    Raises:
        CheckpointError: missing, empty, truncated, too large, not a checkpoint, or a pickle that is not trusted.
    """
    file = Path(path)
    head = _head(file)
    if len(head) >= 10 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] < _MAX_HEADER:
        state, metadata = _read_safetensors(file)
        return Checkpoint(file, sha256_file(file), state, {}, metadata)
    if head.lstrip()[:1] == b"<":
        raise CheckpointError(f"{file}: this is a web page, not a checkpoint; the download link may have moved")
    content = _read_pickle(file, head, trust)
    state, meta = _split(content, file)
    return Checkpoint(file, sha256_file(file), state, meta)


def _head(file: Path) -> bytes:
    try:
        size = file.stat().st_size
        if file.is_dir():
            raise CheckpointError(f"{file}: is a folder; give the checkpoint file in it")
        if size == 0:
            raise CheckpointError(f"{file}: the file is empty; download or copy it again")
        if size > MAX_BYTES:
            raise CheckpointError(f"{file}: {size / 2**30:.1f} GiB is larger than any DeepLab checkpoint (8 GiB)")
        with open(file, "rb") as stream:
            return stream.read(512)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: no such checkpoint file") from None
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}") from error


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as reader:
            return {key: reader.get_tensor(key) for key in reader.keys()}, dict(reader.metadata() or {})  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged or truncated safetensors file ({error})") from error


def _read_pickle(file: Path, head: bytes, trust: bool) -> Any:
    if head[:2] == b"PK":
        _check_zip(file)
    try:
        if trust:
            return torch.load(file, map_location="cpu", weights_only=False)
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            # torch warns of other pickle protocols, and then refuses what it cannot read.
            warnings.simplefilter("ignore", UserWarning)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _explain_pickle(file, error, trust) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, ImportError, IndexError) as error:
        # A damaged pickle can fail in any of these ways.
        raise CheckpointError(
            f"{file}: damaged, truncated or not a torch checkpoint ({first_line(error)[:200]}); download or copy it "
            "again"
        ) from error


def _explain_pickle(file: Path, error: Exception, trust: bool) -> CheckpointError:
    text = str(error)
    if not trust and ("Unsupported global" in text or "GLOBAL" in text or ("weights_only" in text and "class" in text)):
        wanted = text.partition("GLOBAL ")[2].split()[:1]
        what = f" ({wanted[0]})" if wanted else ""
        return CheckpointError(
            f"{file}: loading this pickle would run code{what}, so it was refused. If you made the file yourself, pass "
            "--trust-checkpoint (trust=True in Python), or save only its state_dict and load that"
        )
    return CheckpointError(f"{file}: damaged, truncated or not a torch checkpoint ({first_line(error)[:200]})")


def _check_zip(file: Path) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise CheckpointError(f"{file}: truncated checkpoint ({error}); download or copy it again") from error
    # torch stores entries as they are; a compressed one could unfold to any size.
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(f"{file}: a zip file with compressed entries is not a torch checkpoint")


def _split(content: Any, file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The dict of tensors, wherever it is, and what lies beside it."""
    if not isinstance(content, Mapping):
        kind = type(content).__name__
        if isinstance(content, torch.nn.Module):
            raise CheckpointError(f"{file}: holds a whole {kind} object; save model.state_dict() and load that")
        raise CheckpointError(f"{file}: holds a {kind}, not a dict of tensors")
    inner = next((content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    state = {str(key).removeprefix("module."): value for key, value in inner.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(
            f"{file}: no tensors found, neither at the top nor under {', '.join(map(repr, _STATE_KEYS))}"
        )
    meta = content.get("meta") if inner is not content else None
    return state, dict(meta) if isinstance(meta, Mapping) else {}
