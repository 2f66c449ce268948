# SPDX-License-Identifier: Apache-2.0
"""Slide mode and averaged passes: which way an image goes, by its size and by what the backend offers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .configs import ModelConfig
from .errors import DeepLabError
from .pixels import InMemory, Mirrored, Pixels
from .preprocess import Size, resize_image
from .runtime.base import Runner
from .runtime.batches import run_batches
from .runtime.blending import profile
from .runtime.blocks import block_bands, block_shape, blocks_run
from .runtime.streamed import Band, Resized, WholeMap, WindowMap, collect, label_bands, mean_bands
from .runtime.tta import Pass
from .runtime.windows import Window, grid_of, place_windows, slide

Progress = Callable[[int, int], None]

MEMORY = 2 << 30
_LEAST_OVERLAP = 8  # even windows overlap by an eighth unless a stride says otherwise
_LOG_SECONDS = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sliding:
    """Options of slide mode.

    Attributes:
        window, stride: (height, width); None where the config has none.
        placement: ``"reference"`` or ``"even"``, as in `place_windows`.
        blend: ``"mean"``, ``"linear"`` or ``"hann"``, as in `blending.profile`.
        batch: windows run at once.
        memory: bytes that a map of float logits may take.
    """

    window: Size | None
    stride: Size | None
    placement: str = "reference"
    blend: str = "mean"
    batch: int = 4
    memory: int = MEMORY

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            DeepLabError: what is wrong and what to do.
        """
        for name, size in (("window", self.window), ("window_stride", self.stride)):
            if size is None or len(size) != 2 or min(size) < 1:
                raise DeepLabError(f"mode 'slide' needs {name}=(height, width) of at least 1, got {size}")
        window, stride = self.window or (1, 1), self.stride or (1, 1)
        if stride[0] > window[0] or stride[1] > window[1]:
            raise DeepLabError(
                f"window_stride {list(stride)} is larger than window {list(window)}: pixels between windows would "
                "have no class"
            )
        if self.memory < 1:
            raise DeepLabError(f"memory must be at least 1 byte, got {self.memory}")
        place_windows(1, 1, window, stride, self.placement)
        profile(self.blend, 1)

    def place(self, size: Size) -> list[Window]:
        """Windows of an image at the network's size."""
        assert self.window is not None and self.stride is not None
        return place_windows(*size, self.window, self.stride, self.placement)

    def fits(self, classes: int, size: Size) -> bool:
        """Whether float logits of an image may be in memory at once."""
        return 4 * classes * size[0] * size[1] <= self.memory

    def describe(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "window": list(self.window or ()),
            "window_stride": list(self.stride or ()),
            "windows_placed": self.placement,
            "blend": self.blend,
        }


def even_default(window: Size | None) -> Size | None:
    """The stride of even windows where none is given: neighbours overlap by an eighth at least."""
    return (
        None if window is None else (window[0] - window[0] // _LEAST_OVERLAP, window[1] - window[1] // _LEAST_OVERLAP)
    )


@dataclass(frozen=True)
class Answer:
    """What became of an image.

    Attributes:
        band: labels, scores and probabilities of all rows.
        ran: `perf_counter` after the network; what followed is postprocessing.
        extra: for the metadata.
    """

    band: Band
    ran: float
    extra: dict[str, Any]


class Slider:
    """Runs images in windows, or several times, through a runner."""

    def __init__(
        self,
        options: Sliding,
        runner: Runner,
        threads: int | None,
    ) -> None:
        """Set up.

        Args:
            options: checked, where windows are asked for.
            runner: the network.
            threads: of our kernels; None for all.
        """
        self._options, self._runner, self._threads = options, runner, threads
        self._config: ModelConfig = runner.manifest.config
        self._classes = self._config.num_classes

    def in_pieces(self, size: Size, network: Size) -> bool:
        """Whether an image is worth reading in pieces: it is too large for a whole map, and enters as it is."""
        return network == size and not self._options.fits(self._classes, network)

    def check_probabilities(self, size: Size) -> None:
        """Refuse maps of probabilities that are too large.

        Raises:
            DeepLabError: with the bytes that they take.
        """
        if not self._options.fits(self._classes, size):
            need, memory = 4 * self._classes * size[0] * size[1], self._options.memory
            raise DeepLabError(
                f"probabilities of {self._classes} classes at {size[0]} x {size[1]} take {need} bytes "
                f"({need / 2**30:.1f} GiB), more than memory={memory}; ask for scores, take parts of the image, or "
                f"open the model with memory={need}"
            )

    def _run(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        return run_batches(self._runner, batch, self._threads)

    # -- one pass in windows

    def answer(
        self, pixels: Pixels, network: Size, scores: bool, probabilities: bool, progress: Progress | None
    ) -> Answer:
        """One pass over an image in windows.

        Args:
            pixels: the image.
            network: (height, width) at which it enters the network.
            scores, probabilities: wanted besides labels.
            progress: called where the image is done in bands.
        """
        windows = self._options.place(network)
        extra: dict[str, Any] = {"network_input": list(network), "windows": len(windows)}
        whole = self._options.fits(self._classes, network) and self._options.blend == "mean"
        if whole and pixels.array is not None and not probabilities:
            image = resize_image(pixels.array, network)
            if hasattr(self._runner, "segment_windows"):
                found = self._runner.segment_windows(
                    image, windows, pixels.size, batch=self._options.batch, scores=scores
                )
                return Answer(Band(0, *found), perf_counter(), extra | {"one_pass": True})
            return self._with_whole_map(image, windows, pixels.size, scores, extra)
        bands, more = self.bands(pixels, network, scores, probabilities, progress)
        band = collect(bands, pixels.size, self._classes, scores, probabilities)
        return Answer(band, perf_counter(), extra | more)

    def _with_whole_map(
        self, image: NDArray[np.uint8], windows: Sequence[Window], size: Size, scores: bool, extra: dict[str, Any]
    ) -> Answer:
        corners = self._config.align_corners
        logits = slide(image, self._run, windows, self._classes, corners, self._options.batch, self._threads)
        ran = perf_counter()
        full = Resized(WholeMap(logits), size, corners, threads=self._threads)
        return Answer(Band(0, *full.labels(0, size[0], scores)), ran, extra)

    def bands(
        self, pixels: Pixels, network: Size, scores: bool, probabilities: bool, progress: Progress | None
    ) -> tuple[Iterator[Band], dict[str, Any]]:
        """As `answer`, band by band, and what the metadata says about it."""
        windows = self._options.place(network)
        extra: dict[str, Any] = {"bands": True}
        if hasattr(self._runner, "segment_windows"):
            reason = self._not_in_blocks(pixels.size, network, probabilities)
            if reason is None:
                return self._in_blocks(pixels, windows, scores, progress), extra | {"one_pass": True}
            extra["note"] = f"windows are merged on the CPU: {reason}"
            _log.info(extra["note"])
        ran = _Counter(len(windows), progress)
        image = Resized(
            self._window_map(_at_size(pixels, network), windows, ran),
            pixels.size,
            self._config.align_corners,
            threads=self._threads,
        )
        return label_bands(image, pixels.size, self._classes, scores, probabilities), extra

    def _not_in_blocks(self, size: Size, network: Size, probabilities: bool) -> str | None:
        if self._options.blend != "mean":
            return f"blend {self._options.blend!r}"
        if probabilities:
            return "probabilities of all classes"
        return None if size == network else "the image is resized for the network"

    def _in_blocks(
        self, pixels: Pixels, windows: Sequence[Window], scores: bool, progress: Progress | None
    ) -> Iterator[Band]:
        runner: Any = self._runner
        options, grid = self._options, grid_of(windows)
        shape = block_shape(grid, self._classes, options.memory)
        ran = _Counter(blocks_run(grid, shape), progress)
        return block_bands(
            pixels, windows, runner.segment_windows, self._classes, options.memory, options.batch, scores, ran
        )

    def _window_map(self, pixels: Pixels, windows: Sequence[Window], ran: Callable[[int], None]) -> WindowMap:
        return WindowMap(
            pixels,
            self._run,
            windows,
            self._classes,
            self._config.align_corners,
            self._options.batch,
            blend=self._options.blend,
            threads=self._threads,
            ran=ran,
        )

    # -- several passes

    def averaged(
        self, pixels: Pixels, passes: Sequence[Pass], in_windows: bool, probabilities: bool, progress: Progress | None
    ) -> Iterator[Band]:
        """The mean probabilities of all scales and flips, band by band; each pass whole, or in windows.

        Raises:
            DeepLabError: resized images that are too large to have at once.
        """
        ran: _Counter | None = None
        if in_windows:
            self._check_scales(pixels.size, passes)
            ran = _Counter(sum(len(self._options.place(one.size)) for one in passes), progress)
        maps = []
        sized: tuple[Size, Pixels] | None = None
        for one in passes:
            if sized is None or sized[0] != one.size:
                sized = one.size, _at_size(pixels, one.size)
            maps.append((self._map_of(sized[1], one, pixels.size, ran), one.flip))
        return mean_bands(maps, pixels.size, self._classes, probabilities)

    def _map_of(self, pixels: Pixels, one: Pass, size: Size, ran: _Counter | None) -> Resized:
        image: Pixels = Mirrored(pixels) if one.flip else pixels
        corners = self._config.align_corners
        if ran is not None:
            windowed = self._window_map(image, self._options.place(one.size), ran)
            return Resized(windowed, size, corners, threads=self._threads)
        logits = self._run(np.ascontiguousarray(image.read(0, 0, *one.size))[None])[0]
        twice = self._config.resize_logits_twice and size != one.size
        return Resized(WholeMap(logits), size, corners, via=one.size if twice else None, threads=self._threads)

    def _check_scales(self, size: Size, passes: Sequence[Pass]) -> None:
        """All passes advance together, so their resized images are in memory together."""
        need = sum(3 * height * width for height, width in {one.size for one in passes} - {size})
        if need > self._options.memory:
            raise DeepLabError(
                f"an image of {size[0]} x {size[1]} resized to all scales takes {need} bytes, more than "
                f"memory={self._options.memory}; use scale 1 (with flip, if you like), take parts of the image, or "
                f"open the model with memory={need}"
            )


class _Counter:
    """Counts windows: for a caller's bar, and for the log of a run that takes minutes."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress
        self._began = self._said = perf_counter()

    def __call__(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, self._total)
        now = perf_counter()
        if now - self._said >= _LOG_SECONDS:
            self._said = now
            _log.info("%d of %d windows done in %.0f s", self._done, self._total, now - self._began)


def _at_size(pixels: Pixels, size: Size) -> Pixels:
    """An image as the network sees it."""
    if pixels.size == size:
        return pixels
    whole = pixels.read(0, 0, *pixels.size) if pixels.array is None else pixels.array
    return InMemory(resize_image(whole, size))
