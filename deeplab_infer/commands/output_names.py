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
        self._count = Counter(as_path(name).stem for name in inputs)
        self._folder = None if folder is None else os.path.realpath(folder)
        self._real_folders: dict[str, str] = {}
        self._taken = set(reserved)
        self._known, self._since = inputs, list[Name]()
        self._beside: set[str] = set()  # names of the inputs that lie in the output folder
        for name in inputs:
            self._note(as_path(name))

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
        if path.stem not in self._count:
            self._since.append(name)
            self._note(path)
        self._refuse_to_overwrite(unique, suffixes)
        return unique

    def _note(self, path: Path) -> None:
        """Remember an input that lies in the output folder; one of a million elsewhere costs a look at its file."""
        if self._folder is None:
            return
        folder, name = os.path.split(os.fspath(path))
        if os.path.islink(path):
            folder, name = os.path.split(os.path.realpath(path))
        elif folder not in self._real_folders:
            self._real_folders[folder] = os.path.realpath(folder)
        if self._real_folders.get(folder, folder) == self._folder:
            self._beside.add(name)

    def _refuse_to_overwrite(self, stem: str, suffixes: Sequence[str]) -> None:
        """A mask of ``photos/a.png`` written into ``photos`` would replace the photo."""
        if self._folder is None:
            return
        for suffix in suffixes:
            if f"{stem}{suffix}" in self._beside or self._leads_to_input(f"{self._folder}/{stem}{suffix}"):
                raise DeepLabError(
                    f"the output {stem}{suffix} would overwrite an input image in {self._folder!r}; "
                    "choose another folder with -o"
                )

    def _leads_to_input(self, output: str) -> bool:
        """Whether an output is a link to an input, which is rare, so that nothing is kept for it."""
        if not os.path.islink(output):
            return False
        real = os.path.realpath(output)
        return any(os.path.realpath(as_path(name)) == real for name in (*self._known, *self._since))


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
