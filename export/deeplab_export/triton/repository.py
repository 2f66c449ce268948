# SPDX-License-Identifier: Apache-2.0
"""A model's folder in a Triton model repository: written whole or not at all, older versions kept.

::

    <repository>/<name>/config.pbtxt
                        labels.txt
                        <version>/model.onnx | model.xml, model.bin | model.plan, model.plan.json
                                  manifest.json
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deeplab_infer.errors import ExportError
from deeplab_infer.files import atomic_write, umask

from .config import BACKENDS, LABEL_FILE

CONFIG_FILE = "config.pbtxt"
MANIFEST_FILE = "manifest.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Stage:
    """A model repository of its own, with nothing in it but the version being written.

    Attributes:
        root: the repository.
        version: the version's folder in it.
    """

    root: Path
    version: Path


@dataclass(frozen=True)
class ModelFolder:
    """A model's place in a repository.

    Attributes:
        root: the model repository.
        name: of the model: letters, digits, ``_``, ``-`` and ``.``.
        version: from 1.
        backend: one of `deeplab_export.triton.BACKENDS`.
    """

    root: Path
    name: str
    version: int
    backend: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ExportError(
                f"{self.name!r} cannot be the name of a Triton model; give --name of letters, digits, '_', '-', '.'"
            )

    @property
    def path(self) -> Path:
        """The model's folder."""
        return self.root / self.name

    @property
    def model_file(self) -> Path:
        """The version's model file."""
        return self.path / str(self.version) / BACKENDS[self.backend].file

    def check(self, texts: dict[str, str], *, force: bool) -> None:
        """Refuse to replace what is there, before minutes are spent.

        Args:
            texts: content of the files that all versions share, by name.
            force: replace the version and the shared files.

        Raises:
            ExportError: the version exists, a shared file would change, or other versions are of another backend.
        """
        for other in self._other_versions():
            if not (other / BACKENDS[self.backend].file).is_file():
                raise ExportError(
                    f"{other} has no {BACKENDS[self.backend].file}: all versions of a Triton model run on one backend; "
                    "choose another --name, or --triton-backend"
                )
        if force:
            return
        if self.model_file.parent.exists():
            raise ExportError(
                f"{self.model_file.parent} exists; choose another --triton-version, --name or --output-dir, or replace "
                "it with --force"
            )
        for name, text in texts.items():
            path = self.path / name
            if path.exists() and path.read_text("utf-8") != text:
                raise ExportError(
                    f"{path} says something else, and all versions of a model share it; export with the same options, "
                    "choose another --name, or replace it with --force"
                )

    @contextlib.contextmanager
    def stage(self, texts: dict[str, str]) -> Iterator[Stage]:
        """A folder to write the version in, which disappears with an error or Ctrl-C.

        It lies in the model's folder, where a server that polls the repository does not take it for a model.
        """
        is_new = not self.path.exists()
        self.path.mkdir(exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(prefix=".deeplab-export-", dir=self.path) as work:
                version = Path(work) / self.name / str(self.version)
                version.mkdir(parents=True)
                for name, text in texts.items():
                    (version.parent / name).write_text(text, "utf-8")
                yield Stage(Path(work), version)
        finally:
            if is_new and not any(self.path.iterdir()):
                self.path.rmdir()

    def publish(self, stage: Stage, texts: dict[str, str]) -> None:
        """Move a written version to its place: the shared files first, so that a server finds them."""
        mode = 0o666 & ~umask()
        for path in stage.version.iterdir():
            os.chmod(path, mode)
        os.chmod(stage.version, 0o777 & ~umask())
        for name, text in texts.items():
            with atomic_write(self.path / name, "w") as stream:
                stream.write(text)
        target = self.path / str(self.version)
        if target.exists():
            os.replace(target, stage.root / "replaced")
        os.replace(stage.version, target)

    def _other_versions(self) -> list[Path]:
        """Folders of other versions: names of digits that do not begin with 0, as Triton takes them."""
        if not self.path.is_dir():
            return []
        found = [path for path in self.path.iterdir() if re.fullmatch(r"[1-9]\d*", path.name) and path.is_dir()]
        return sorted(path for path in found if path.name != str(self.version))


def shared_files(config: str, labels: str) -> dict[str, str]:
    """The files that all versions share, by name."""
    return {LABEL_FILE: labels, CONFIG_FILE: config}
