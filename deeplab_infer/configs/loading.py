# SPDX-License-Identifier: Apache-2.0
"""Configs from names, YAML files and mmsegmentation files, with ``key=value`` overrides."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError
from ..files import atomic_write
from .named import named_config
from .schema import FIELD_NAMES, ModelConfig, coerce
from .suggest import suggest

_MAX_YAML_BYTES = 1 << 20


def load_config(source: str | os.PathLike[str], overrides: Iterable[str] = ()) -> ModelConfig:
    """A config from a name, a ``.yaml`` file or the user's own mmsegmentation ``.py`` config.

    Args:
        source: a name of `list_configs` (or mmsegmentation's legacy name), or a path. A ``.py`` path that
            exists is parsed, never executed.
        overrides: ``"key=value"`` strings; see `apply_overrides`.

    Raises:
        ConfigError: unknown name (near misses are suggested), unreadable file, or contradicting settings.
    """
    text = os.fspath(source)
    path = Path(text)
    if path.suffix in (".yaml", ".yml"):
        config = _read_yaml(path)
    elif path.suffix == ".py" and (path.exists() or len(path.parts) > 1):
        from .mmseg_import import parse_mmseg_config

        config = parse_mmseg_config(path)
    else:
        config = named_config(text)
    return apply_overrides(config, overrides)


def apply_overrides(config: ModelConfig, overrides: Iterable[str]) -> ModelConfig:
    """Change fields by ``"key=value"`` strings, the values in YAML notation.

    ``output_stride=16`` moves the ASPP rates along (as `ModelConfig.with_output_stride`) unless
    ``aspp_rates`` is given too; ``num_classes=8`` brings generic class names unless ``dataset`` is given.

    >>> apply_overrides(config, ["num_classes=8", "window=[769, 769]", "dataset=cityscapes"])

    Raises:
        ConfigError: not ``key=value``, unknown key, wrong type, or a contradicting result.
    """
    changes: dict[str, Any] = {}
    for text in overrides:
        key, separator, value = text.partition("=")
        key = key.strip()
        if not separator:
            raise ConfigError(f"override {text!r} is not of the form key=value, e.g. num_classes=8")
        if key not in FIELD_NAMES:
            raise ConfigError(f"override {text!r}: unknown config field {key!r}{suggest(key, FIELD_NAMES)}")
        changes[key] = coerce(key, _parse_yaml(value, f"override {text!r}"))
    if "output_stride" in changes and "aspp_rates" not in changes:
        config = config.with_output_stride(changes.pop("output_stride"))
    return config.replace(**changes) if changes else config


def save_yaml(config: ModelConfig, path: str | os.PathLike[str]) -> None:
    """Write a config as YAML, whole or not at all; `load_config` reads it back equal."""
    with atomic_write(path, "w") as stream:
        yaml.safe_dump(config.to_dict(), stream, sort_keys=False, default_flow_style=None, width=110)


def _read_yaml(path: Path) -> ModelConfig:
    """YAML: either all fields, or ``base: NAME`` and the fields that differ from it."""
    try:
        if path.stat().st_size > _MAX_YAML_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_YAML_BYTES} bytes, this is not a model config")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a text file ({error})") from error
    values = _parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `field: value` lines, got {type(values).__name__}")
    base = values.pop("base", None)
    try:
        if base is None:
            return ModelConfig.from_dict({"name": path.stem, **values})
        unknown = [key for key in values if key not in FIELD_NAMES]
        if unknown:
            raise ConfigError(f"unknown config field {unknown[0]!r}{suggest(str(unknown[0]), FIELD_NAMES)}")
        parent = named_config(base) if not str(base).endswith((".yaml", ".yml")) else _read_yaml(path.parent / base)
        changes = {key: coerce(key, value) for key, value in values.items()}
        return parent.replace(**{"name": path.stem, **changes})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from error
