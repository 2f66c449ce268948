# SPDX-License-Identifier: Apache-2.0
"""What travels through a stream before it is segmented."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import DeepLabError

BYTES_A_PIXEL = 4  # three of colour, one of labels


@dataclass(eq=False)
class Frame:
    """An image that can be loaded.

    Attributes:
        load: gives what `Segmenter.predict` takes; raises `ImageError`.
        cost: bytes that the image and its labels will take, as far as known before.
        index: number of the frame in its source, from 0.
        time_s: presentation time in seconds from the start of the source; None for images.
        source: what a person calls the source; passwords of addresses are hidden.
        path: of an image file.
        fresh: the frame before it is missing, or belongs to something else.
    """

    load: Callable[[], Any]
    cost: int
    index: int
    time_s: float | None
    source: str
    path: str | None = None
    fresh: bool = False


@dataclass(frozen=True)
class Failure:
    """An image or a source that could not be used.

    Attributes:
        source: which; index: of the frame in it; error: why.
    """

    source: str
    index: int
    error: DeepLabError


@dataclass
class Counts:
    """What happened in a source so far.

    Attributes:
        damaged: pieces of a video that could not be decoded.
        missing: frames of a video that were announced and did not come.
        reconnects: times that a camera was lost and came back.
    """

    damaged: int = 0
    missing: int = 0
    reconnects: int = 0


class Source(Protocol):
    """Something that gives frames.

    Attributes:
        name: what a person calls it.
        live: frames come when they come, and may be dropped.
        hurried: frames may take a while, so that a batch should not wait for them for long.
        counts: what happened so far.
    """

    @property
    def name(self) -> str: ...
    @property
    def live(self) -> bool: ...
    @property
    def hurried(self) -> bool: ...
    @property
    def counts(self) -> Counts: ...
    @property
    def total(self) -> int | None:
        """Frames in all, where that is known."""
        ...

    def frames(self) -> Iterator[Frame | Failure]:
        """All frames in order; once."""
        ...

    def stop(self) -> None:
        """End waiting in `frames`; called from another thread."""
        ...
