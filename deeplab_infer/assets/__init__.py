# SPDX-License-Identifier: Apache-2.0
"""Files that ship with the package: example weights and a sample image."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ..errors import DeepLabError


def asset_path(name: str) -> Path:
    """The path of a bundled file.

    Raises:
        DeepLabError: no such file; the bundled ones are listed.
    """
    folder = Path(str(files(__package__)))
    path = folder / name
    if path.parent != folder or not path.is_file():
        shipped = sorted(p.name for p in folder.iterdir() if p.suffix in (".png", ".safetensors"))
        raise DeepLabError(f"no bundled file {name!r}; there are: {', '.join(shipped) or 'none'}")
    return path
