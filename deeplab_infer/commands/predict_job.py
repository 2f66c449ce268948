# SPDX-License-Identifier: Apache-2.0
"""A restartable run of ``deeplab-predict``: image files only, here or on Ray."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from ..errors import DeepLabError
from ..files import require_writable_dir
from ..fleet.job import Job, Outcome
from ..fleet.ray_cluster import require_ray
from ..fleet.ray_run import fits_ray, run_on_ray
from ..fleet.run import FAILED, Runner, Summary, run_here, run_job
from ..outputs import OutputOptions
from ..outputs.writer import run_names, suffixes
from ..streaming.names import Name, is_media
from ..streaming.pyav import shown
from .job_options import ray_options
from .output_names import OutputNames
from .stream_options import batch_options
from .stream_progress import Running, StreamProgress
from .terminating import stop_like_ctrl_c

_log = logging.getLogger(__name__)


def predict_job(
    arguments: argparse.Namespace, names: Sequence[Name], model_options: dict[str, Any], options: OutputOptions
) -> int:
    """Run it; returns the exit code.

    Args:
        arguments: of the command.
        names: all images.
        model_options: of `Segmenter`.
        options: what is written.

    Raises:
        DeepLabError: a video or camera among the names, or as `run_job`.
        KeyboardInterrupt: after saying how to go on.
    """
    if media := next((name for name in names if is_media(name)), None):
        raise DeepLabError(
            f"{shown(str(media))} is a video or camera; --resume and --ray are for image files. Run it without them"
        )
    if arguments.ray is not None:
        fits_ray(arguments.device)
        require_ray()
    folder = require_writable_dir(arguments.output_dir)
    job = Job.of(arguments.model, model_options, batch_options(arguments), options, folder, arguments.max_pixels)
    with stop_like_ctrl_c(), StreamProgress(arguments.quiet) as progress:
        shown_progress = _Shown(progress)
        try:
            summary = run_job(
                job,
                [str(name) for name in names],
                partial(_stems, arguments, options),
                _runner(arguments, progress),
                shown_progress.tell,
                begin=shown_progress.begin,
                restart=arguments.restart,
            )
        except KeyboardInterrupt:
            print("finished images are recorded; the same command goes on", file=sys.stderr)
            raise
    return _say(summary, arguments.output_dir)


def _runner(arguments: argparse.Namespace, progress: StreamProgress) -> Runner:
    if arguments.ray is None:
        return partial(run_here, windows=progress.windows)
    return partial(run_on_ray, options=ray_options(arguments))


def _stems(
    arguments: argparse.Namespace,
    options: OutputOptions,
    names: Sequence[str],
    reserved: Iterable[str],
    positions: Sequence[int],
) -> list[str]:
    given = OutputNames(names, [FAILED, *run_names(options), *reserved], arguments.output_dir)
    return [given.stem(names[position], suffixes(options)) for position in positions]


class _Shown:
    """A bar of what is left, and a line of each bad image."""

    def __init__(self, progress: StreamProgress) -> None:
        self._progress = progress
        self._running: Running | None = None

    def begin(self, left: int, total: int) -> None:
        if left < total:
            _log.info("%d of %d images were finished before", total - left, total)
        self._running = self._progress.begin("segmenting", left, "images/s")

    def tell(self, outcome: Outcome) -> None:
        assert self._running is not None
        if outcome.error is not None:
            self._progress.say(f"skipped: {outcome.error}")
        self._running.step()


def _say(summary: Summary, folder: str) -> int:
    before = f" ({summary.before} of them before)" if summary.before else ""
    print(f"{summary.done} of {summary.total} images segmented into {folder}{before}")
    if not summary.failed:
        return 0
    print(f"{summary.failed} failed: {folder}/{FAILED}")
    return 1 if summary.done else 2
