# SPDX-License-Identifier: Apache-2.0
"""Values from JSON, YAML or a command line to a field's declared type, and back to plain values."""

from __future__ import annotations

import types
import typing
from typing import Any, Literal

from ..errors import ConfigError


def coerce_to(hint: Any, key: str, value: Any) -> Any:
    """``value`` as the type ``hint``; `ConfigError` naming ``key`` where it does not fit."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return coerce_to(next(a for a in arguments if a is not type(None)), key, value)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{key}: expected a list, got {value!r}")
        return tuple(coerce_to(arguments[0], key, item) for item in value)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{key}: {value!r} is not one of {', '.join(map(repr, arguments))}")
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{key}: expected {hint.__name__}, got {value!r}")
    return value


def to_plain(value: Any) -> Any:
    """Tuples to lists, recursively: what JSON and YAML write and read back unchanged."""
    if isinstance(value, dict):
        return {key: to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value
