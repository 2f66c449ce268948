# SPDX-License-Identifier: Apache-2.0
"""A run of a job: what is left to do, who does it, and the files of the whole run at the end."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, ImageError
from ..files import atomic_write, json_line
from ..outputs import assemble
from ..outputs.writer import suffixes
from .folder import JobFolder
from .job import Job, Outcome, Task, root_of
from .journal import identify
from .ledger import LOCAL, Bad, Ledger
from .segmenting import ImageFile
from .worker import Worker

FAILED = "failed.jsonl"
_CHUNK = 256
Tell = Callable[[Outcome], None]
# Does the images of a task and tells of each; the ledger has what is known of them.
Runner = Callable[[Task, Sequence[ImageFile], Ledger, Tell], None]
# Stems of images, in order: given all names, and names of files that no output may have.
NameOutputs = Callable[[Sequence[str], Iterable[str], Sequence[int]], list[str]]


@dataclass(frozen=True)
class Summary:
    """How a run ended.

    Attributes:
        total: images that were given.
        done: images with outputs, of this run or an earlier one.
        before: those of an earlier one.
        failed: images without.
    """

    total: int
    done: int
    before: int
    failed: int


def run_job(
    job: Job,
    names: Sequence[str],
    name_outputs: NameOutputs,
    runner: Runner,
    tell: Tell,
    *,
    begin: Callable[[int, int], None],
    restart: bool = False,
) -> Summary:
    """Begin a job or go on with it, and make its files of the whole run.

    Args:
        job: what is to be done.
        names: the images, as a person named them.
        name_outputs: gives the stems of images, by their positions in ``names``.
        runner: does what is left; see `run_here` and `ray_run.run_on_ray`.
        tell: is told what became of each image of this run.
        begin: is told how many images are left, and how many there are.
        restart: do all images, whatever was done before.

    Raises:
        ImageError: no image is left.
        DeepLabError: another job was begun in the folder, or what the runner raises.
        DataError: a journal is damaged, or images have no record at the end.
        OSError: a file cannot be written.
    """
    images = _images(names, job.folder)
    names, paths = list(images.values()), list(images)
    description = job.description()
    with JobFolder(job.folder, description, root_of(paths), restart=restart) as folder:
        ledger, earlier = Ledger(paths), folder.journals()
        ledger.read(folder.path, earlier, run=folder.run)
        files = _left(job, names, paths, ledger, name_outputs)
        remove_leftovers(job, ledger.interrupted, files)
        begin(len(files), len(paths))
        if files:
            runner(Task(job, description["model"], folder.token, folder.root, folder.run), files, ledger, tell)
            ledger.interrupted.clear()
            ledger.read(folder.path, [name for name in folder.journals() if name.run == folder.run], run=folder.run)
            remove_leftovers(job, ledger.interrupted, files)
        try:
            return _finish(job, names, paths, files, ledger)
        finally:
            ledger.close()


def run_here(task: Task, files: Sequence[ImageFile], ledger: Ledger, tell: Tell, windows: Any = None) -> None:
    """A `Runner` in this process. ``windows``: is told how far a large image is."""
    past = Ledger()
    past.deaths = ledger.deaths
    with Worker(task, LOCAL, past, windows) as worker:
        for start in range(0, len(files), _CHUNK):
            worker.work(files[start : start + _CHUNK], tell)


def _images(names: Sequence[str], folder: Path) -> dict[str, str]:
    """Names by their absolute paths, each once; without those in the output folder, which may be outputs."""
    images: dict[str, str] = {}
    for name in names:
        path = os.path.abspath(name)
        if os.path.dirname(path) != str(folder):
            images.setdefault(path, name)
    if not images:
        raise ImageError(f"there is no image outside the output folder {str(folder)!r}; choose another one with -o")
    return images


def _left(
    job: Job, names: Sequence[str], paths: Sequence[str], ledger: Ledger, name_outputs: NameOutputs
) -> list[ImageFile]:
    """Images that are not done, have changed since, or whose outputs are gone.

    What was called before is called the same again; others get names that are free.
    """
    left = [index for index, path in enumerate(paths) if not _is_finished(job, path, ledger)]
    known = {index: ledger.record(paths[index])["stem"] for index in left if ledger.is_done(paths[index])}
    new = [index for index in left if index not in known]
    stems = known | dict(zip(new, name_outputs(names, ledger.outputs, new), strict=True))
    return [ImageFile(paths[index], stems[index]) for index in left]


def _is_finished(job: Job, path: str, ledger: Ledger) -> bool:
    bad = ledger.bad.get(path)
    if bad is not None:
        return bad.deadly and bad.identity == identify(path)
    if not ledger.is_done(path) or ledger.identity(path) != identify(path):
        return False
    return all(os.path.exists(job.folder / name) for name in ledger.record(path)["files"])


def _finish(
    job: Job, names: Sequence[str], paths: Sequence[str], tried: Sequence[ImageFile], ledger: Ledger
) -> Summary:
    missing = [path for path in paths if not ledger.is_done(path) and path not in ledger.bad]
    if missing:
        raise DataError(
            f"{len(missing)} images have no record at the end, the first is {missing[0]}; does every machine write to "
            f"the same folder {str(job.folder)!r}? Run again: only they are done"
        )
    bad = [(name, ledger.bad[path]) for name, path in zip(names, paths, strict=True) if path in ledger.bad]
    if ledger.model is not None:
        classes = tuple(ledger.model["classes"])
        palette = tuple(tuple(color) for color in ledger.model["palette"])
        assemble(job.folder, job.outputs, classes, palette, lambda: _records(names, paths, ledger))
    _report(job.folder / FAILED, bad)
    now, done = sum(ledger.is_done(file.path) for file in tried), len(paths) - len(bad)
    return Summary(len(paths), done, done - now, len(bad))


def _records(names: Sequence[str], paths: Sequence[str], ledger: Ledger) -> Iterator[dict[str, Any]]:
    """As a run over all images in one process makes them: in order, with the names that were given."""
    for index, (name, path) in enumerate(zip(names, paths, strict=True)):
        if not ledger.is_done(path):
            continue
        record = ledger.record(path) | {"path": name}
        if "frame" in record.get("metadata", {}):
            record["metadata"] |= {"frame": index, "source": name}
        yield record


def _report(path: Path, bad: Sequence[tuple[str, Bad]]) -> None:
    """The images without outputs, a line each; no file where there is none."""
    if not bad:
        path.unlink(missing_ok=True)
        return
    with atomic_write(path, "w") as stream:
        for name, found in bad:
            stream.write(json_line({"path": name, "error": found.error}))


def remove_leftovers(job: Job, interrupted: set[str], files: Sequence[ImageFile]) -> None:
    """Remove half-written files of images that were in work when their process was killed.

    Args:
        job: whose folder is looked through, where there is something to look for; nobody may be writing to it.
        interrupted: paths of such images.
        files: images of this run.
    """
    targets = {
        Path(f"{file.stem}{suffix}") for file in files if file.path in interrupted for suffix in suffixes(job.outputs)
    }
    if not targets:
        return
    # As `files.atomic_path` names them.
    names = {re.escape(f".{target.stem[:16]}.") + r"\w{8}" + re.escape(target.suffix) for target in targets}
    temporary = re.compile("|".join(sorted(names)))
    for entry in os.scandir(job.folder):
        if temporary.fullmatch(entry.name):
            os.unlink(entry.path)
