# SPDX-License-Identifier: Apache-2.0
"""Names of what is written of each image, video and camera: no two alike, and none that of an input."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import DeepLabError
from ..streaming.names import Name
from ..streaming.pyav import is_url


class OutputNames:
    """Gives each input a stem for its outputs: its own, or more of its path where stems meet twice.

    Args:
        inputs: all of them, where they are known before; of others, the second of a stem gets a number.
        reserved: names that no output may have.
        folder: where outputs go, checked against the inputs; None for no check.
    """

    def __init__(
        self, inputs: Sequence[Name] = (), reserved: Iterable[str] = (), folder: str | Path | None = None
    ) -> None:
        paths = [as_path(name) for name in inputs]
        self._count = Counter(path.stem for path in paths)
        self._inputs = {path.resolve() for path in paths}
        self._folder = None if folder is None else Path(folder).resolve()
        self._taken = set(reserved)

    def stem(self, name: Name, suffixes: Sequence[str]) -> str:
        """The stem of an input; no two get an output of one name.

        Args:
            name: the input.
            suffixes: what is appended to the stem.

        Raises:
            DeepLabError: an output would replace an input.
        """
        path = as_path(name)
        alone = self._count[path.stem] <= 1
        stem = path.stem if alone else "_".join([*path.parent.parts[-2:], path.name.replace(".", "_")])
        stem = _shortened(stem.replace("/", "_").replace("..", "_"), suffixes)
        unique, number = stem, 2
        while not self._taken.isdisjoint(unique + suffix for suffix in suffixes):
            unique, number = f"{stem}_{number}", number + 1
        self._taken.update(unique + suffix for suffix in suffixes)
        self._inputs.add(path.resolve())
        self._refuse_to_overwrite(unique, suffixes)
        return unique

    def _refuse_to_overwrite(self, stem: str, suffixes: Sequence[str]) -> None:
        """A mask of ``photos/a.png`` written into ``photos`` would replace the photo."""
        if self._folder is None:
            return
        for suffix in suffixes:
            if (self._folder / f"{stem}{suffix}").resolve() in self._inputs:
                raise DeepLabError(
                    f"the output {stem}{suffix} would overwrite an input image in {str(self._folder)!r}; "
                    "choose another folder with -o"
                )


def output_stems(
    images: Sequence[Name], suffixes: Sequence[str] = (".png",), reserved: Sequence[str] = ()
) -> list[str]:
    """`OutputNames.stem` of each."""
    names = OutputNames(images, reserved)
    return [names.stem(image, suffixes) for image in images]


def _shortened(stem: str, suffixes: Sequence[str]) -> str:
    """A stem that leaves room for its suffixes, and a number, in the 255 bytes of a file name."""
    room = 255 - max((len(suffix) for suffix in suffixes), default=0) - len("_1234567")
    name = os.fsencode(stem)
    return stem if len(name) <= room else name[:room].decode(errors="ignore")


def as_path(name: Name) -> Path:
    """A path whose stem names the input: of an address its host and path, without name and password."""
    if not is_url(str(name)):
        return Path(name)
    parts = urlsplit(str(name))
    return Path(re.sub(r"\W+", "_", parts.netloc.rpartition("@")[2] + parts.path).strip("_") or "camera")
