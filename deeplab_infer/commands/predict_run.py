# SPDX-License-Identifier: Apache-2.0
"""A run of ``deeplab-predict``: images in one pipeline, videos and cameras one by one, and what became of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..outputs import Outputs
from ..streaming.names import Name
from .predict_images import segment_images
from .predict_videos import VideoPlan, segment_video
from .stream_progress import Running, StreamProgress

if TYPE_CHECKING:
    from ..segmenter import Segmenter


class Input(NamedTuple):
    """What is read, the stem of its outputs, and whether it is a video or camera."""

    name: Name
    stem: str
    is_media: bool


class Run:
    """Segments inputs in their order.

    Args:
        segmenter: the model.
        outputs: where results of images go.
        plan: what is written of videos.
        progress: shows how far it is.
        options: of `Segmenter.stream`, for videos and cameras.
        hurried: names of images may take a while to come.
        max_pixels: of image files.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        outputs: Outputs,
        plan: VideoPlan,
        progress: StreamProgress,
        options: dict[str, Any],
        *,
        hurried: bool,
        max_pixels: int,
    ) -> None:
        self._segmenter, self._outputs, self._plan, self._progress = segmenter, outputs, plan, progress
        self._options, self._hurried, self._max_pixels = options, hurried, max_pixels
        self._images, self._failed_images, self._videos = 0, 0, 0
        self._any_result = self._any_failure = False

    def all(self, inputs: Iterable[Input], images: int | None) -> None:
        """Neighbouring images go together. ``images``: how many there are, where that is known."""
        bar = None
        for media, group in itertools.groupby(inputs, key=lambda given: given.is_media):
            if media:
                for given in group:
                    self._video(given)
            else:
                bar = bar or self._progress.begin("segmenting", images, "images/s")
                self._some_images(group, bar)

    def exit_code(self) -> int:
        """0 all done, 1 some of it, 2 nothing; says how many images were."""
        if self._images or not self._videos:
            done = self._images - self._failed_images
            print(f"{done} of {self._images} images segmented into {self._outputs.folder}")
        if self._any_failure:
            return 1 if self._any_result else 2
        return 0

    def _some_images(self, group: Iterable[Input], bar: Running) -> None:
        done, failed = segment_images(
            self._segmenter,
            ((Path(given.name), given.stem) for given in group),
            self._outputs,
            (self._progress, bar),
            {key: self._options[key] for key in ("batch", "latency_ms")},
            hurried=self._hurried,
            max_pixels=self._max_pixels,
        )
        self._images += done + failed
        self._failed_images += failed
        self._any_result |= done > 0
        self._any_failure |= failed > 0

    def _video(self, given: Input) -> None:
        self._videos += 1
        self._plan.check()
        frames, whole = segment_video(
            self._segmenter,
            given.name,
            given.stem,
            self._outputs.folder,
            self._plan,
            self._progress,
            self._options,
        )
        self._any_result |= frames > 0
        self._any_failure |= not whole
