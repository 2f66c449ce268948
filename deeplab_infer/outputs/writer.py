# SPDX-License-Identifier: Apache-2.0
"""`Outputs`: writes what was asked for of each image, and at the end the files of the whole run."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..files import append_whole, atomic_path
from ..runtime.streamed import Band
from ..segmentation import Palette, Segmentation
from .assembly import Record, assemble, dump, read_lines, run_files
from .cvat import check_name
from .files import IMAGE_FILES, Place, no_georeference
from .geotiff import require_rasterio, write_geotiff
from .options import OutputOptions

_log = logging.getLogger(__name__)


class Outputs:
    """The outputs of a run into one folder. A context manager; may be shared between threads.

    >>> with Outputs("out", OutputOptions(coco="rle"), segmenter.classes, segmenter.palette) as outputs:
    ...     for path in paths:
    ...         outputs.write(segmenter.predict(path, scores=outputs.needs_scores), path.stem)

    Whatever ends the run, files are whole or absent: an image whose files could not all be written has none. Files of
    the whole run are made of the finished images also where an error or Ctrl-C ends it. Where even that fails, for
    instance on a full disk, the journal stays and a warning names it (`assemble`).

    Attributes:
        folder: where files go.
        options: what is written.
        suffixes: what is appended to a stem, for each file of an image.
        names: names of the files of the whole run.
        needs_scores: whether `write` takes results with scores.
        finished: images written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        options: OutputOptions,
        classes: tuple[str, ...],
        palette: Palette,
        *,
        root: str | os.PathLike[str] | None = None,
        whole_run: bool = True,
    ) -> None:
        """Check that they fit together; nothing is written yet.

        Args:
            folder: must exist.
            options: what to write.
            classes, palette: of the model.
            root: folder to which image names in coco.json and cvat.xml are relative; images elsewhere, and with None
                all, have the name without folders.
            whole_run: keep a journal and make the files of the whole run; False in a process that does a part of a run
                and hands its records on, to be given to `assemble`.

        Raises:
            DeepLabError: options that do not fit the model, or a package that is missing.
        """
        options.check_classes(classes)
        if options.geotiff:
            require_rasterio()
        self.folder, self.options, self.finished = Path(folder), options, 0
        self.suffixes, self.names, self.needs_scores = suffixes(options), run_names(options), options.needs_scores
        self._classes, self._palette = tuple(classes), palette
        self._root = None if root is None else os.path.abspath(root)
        self._files = [file for file in IMAGE_FILES if file.wanted(options)]
        self._run_files = run_files(options)
        self._journal = _Journal(self.folder) if whole_run and self._run_files else None
        self._lock = threading.Lock()
        self._said: set[str] = set()

    @property
    def banded(self) -> bool:
        """Whether `write_bands` can write all that is asked for: GeoTIFFs and results.jsonl only."""
        return self.options.geotiff and self.suffixes == [".tif"] and self.names in ([], ["results.jsonl"])

    def write(self, result: Segmentation, stem: str) -> Record:
        """Write the files of one image.

        Args:
            result: with scores where `needs_scores`.
            stem: name of its files, without suffix.

        Returns:
            Its record: `Segmentation.to_dict` and what `assemble` needs; JSON-able, one line of a journal (`dump`).

        Raises:
            ImageError: its name does not go into XML, or its orientation into a GeoTIFF; none of its files is written.
            OSError: the disk is full, or a file cannot be written.
        """
        record = self._record(result.path, stem)
        if self.options.cvat:
            check_name(record["file_name"])
        chosen = self.options.choose(result)
        record |= chosen.to_dict()
        for run_file in self._run_files:
            if run_file.part is not None and run_file.collect is not None:
                record[run_file.part] = run_file.collect(chosen, self.options)
        with self._all_or_none(stem) as places:
            for file, place in zip(self._files, places, strict=True):
                self._say(file.suffix, file.write(chosen, place, self.options))
            self._keep(record)
        return record

    def write_bands(self, bands: Iterable[Band], size: tuple[int, int], path: str, stem: str) -> Record:
        """Write one image of which only some rows are in memory at a time (`Segmenter.predict_bands`).

        Args:
            bands: from the top down, with scores where `needs_scores`.
            size: (height, width) of the image.
            path: of the image.
            stem: name of its files.

        Returns:
            Its record, without timings.

        Raises:
            ImageError, OSError: as `write`.
        """
        assert self.banded
        counts = np.zeros(len(self._classes), np.int64)
        with self._all_or_none(stem) as (place,):
            rows = self._chosen_rows(bands, counts)
            if not write_geotiff(place.temporary, rows, size, path, self._classes, self._palette):
                self._say(".tif", no_georeference(path))
            areas = {self._classes[i]: int(counts[i]) / (size[0] * size[1]) for i in np.argsort(-counts) if counts[i]}
            record = {"path": path, "height": int(size[0]), "width": int(size[1])}
            record |= {"areas": {name: round(share, 6) for name, share in areas.items()}}
            record = self._record(path, stem) | record
            self._keep(record)
        return record

    def close(self) -> None:
        """Make the files of the whole run.

        Raises:
            OSError: one cannot be written; the journal stays, and a warning names it.
        """
        journal, self._journal = self._journal, None
        if journal is None:
            return
        journal.close()
        try:
            assemble(self.folder, self.options, self._classes, self._palette, journal.records)
        except BaseException:
            if journal.path is not None:
                _log.warning("the records of %d finished images stay in %s", self.finished, journal.path)
            raise
        journal.remove()

    def __enter__(self) -> Outputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        if self.finished:
            _log.warning("ended early; %d images were finished, their files are in %s", self.finished, self.folder)
            with contextlib.suppress(OSError):  # what ended the run is raised; `close` has said what stays
                self.close()

    # -- how

    def _record(self, path: str | None, stem: str) -> Record:
        return {"stem": stem, "file_name": self._name(path, stem), "files": [stem + suffix for suffix in self.suffixes]}

    def _name(self, path: str | None, stem: str) -> str:
        """The image's name in files of the whole run."""
        if path is None:
            return stem
        whole = os.path.abspath(path)
        below = self._root is not None and os.path.commonpath([self._root, whole]) == self._root
        return os.path.relpath(whole, self._root).replace(os.sep, "/") if below else os.path.basename(whole)

    def _chosen_rows(self, bands: Iterable[Band], counts: Any) -> Iterable[Any]:
        for band in bands:
            part = Segmentation(band.labels, self._classes, self._palette, band.scores)
            labels = self.options.choose(part).labels
            counts += np.bincount(labels.reshape(-1), minlength=len(counts))[: len(counts)]
            yield labels

    @contextlib.contextmanager
    def _all_or_none(self, stem: str) -> Iterator[list[Place]]:
        """Places of the image's files; they appear together once the block is done."""
        with contextlib.ExitStack() as stack:
            targets = [self.folder / f"{stem}{suffix}" for suffix in self.suffixes]
            yield [Place(target, stack.enter_context(atomic_path(target))) for target in targets]

    def _keep(self, record: Record) -> None:
        with self._lock:
            if self._journal is not None:
                self._journal.append(dump(record))
            self.finished += 1

    def _say(self, about: str, note: str | None) -> None:
        with self._lock:
            if note is not None and about not in self._said:
                self._said.add(about)
                _log.warning("%s", note)


class _Journal:
    """The records so far, a line each, in a hidden file that is made with the first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stream: Any = None
        self.path: Path | None = None

    def append(self, line: str) -> None:
        """Add a line; one that cannot be written whole is taken back."""
        if self._stream is None:
            handle, name = tempfile.mkstemp(prefix=".records-", suffix=".jsonl", dir=self._folder)
            self._stream, self.path = os.fdopen(handle, "wb", buffering=0), Path(name)
        append_whole(self._stream, line.encode())

    def records(self) -> Iterable[Record]:
        """All of them, from the first."""
        return [] if self.path is None else read_lines(self.path)

    def close(self) -> None:
        """No more lines follow."""
        if self._stream is not None:
            self._stream.close()

    def remove(self) -> None:
        """The lines are not needed any more."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def suffixes(options: OutputOptions) -> list[str]:
    """What is appended to an image's stem, for each file that the options ask for."""
    return [file.suffix for file in IMAGE_FILES if file.wanted(options)]


def run_names(options: OutputOptions) -> list[str]:
    """Names of the files of a whole run that the options ask for."""
    return [file.name for file in run_files(options)]
