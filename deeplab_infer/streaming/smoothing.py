# SPDX-License-Identifier: Apache-2.0
"""Labels of a video that flicker less: a vote over the last frames."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DeepLabError

LARGEST = 255  # votes are counted in uint8
_ROWS = 64  # of which the counts stay in the cache


class Smoother:
    """Majority vote of each pixel over the last ``frames`` frames, the present one included.

    With L(t) the labels of frame t and k frames seen, at most ``frames``:

        S(t)[p] = argmax over c of #{i in 0..k-1 : L(t-i)[p] = c}

    and of classes with equally many votes the one that was seen last. It costs k (k - 1) / 2 comparisons a pixel and
    holds k label maps, whatever the number of classes. A change of a pixel shows after half the frames.

    Args:
        frames: 2..255.

    Raises:
        DeepLabError: another number.
    """

    def __init__(self, frames: int) -> None:
        if not 2 <= frames <= LARGEST:
            raise DeepLabError(f"smooth is a number of frames from 2 to {LARGEST} (0: off), got {frames}")
        self._past: deque[NDArray[Any]] = deque(maxlen=frames)

    def reset(self) -> None:
        """Forget the frames before: what comes next does not continue them."""
        self._past.clear()

    def smooth(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Labels after the vote, of the dtype and shape of ``labels`` [H, W]; another shape starts anew."""
        if self._past and self._past[0].shape != labels.shape:
            self.reset()
        self._past.appendleft(labels)  # the newest first
        if len(self._past) < 3:
            return labels  # of two that differ the newer one wins
        voted = np.empty_like(labels)
        for top in range(0, len(labels), _ROWS):
            rows = slice(top, top + _ROWS)
            voted[rows] = _vote([past[rows] for past in self._past])
        return voted


def _vote(newest_first: list[NDArray[Any]]) -> NDArray[Any]:
    votes = [np.ones(newest_first[0].shape, np.uint8) for _ in newest_first]
    for j, older in enumerate(newest_first):
        for i in range(j):
            same = (newest_first[i] == older).view(np.uint8)
            votes[i] += same
            votes[j] += same
    winner, most = newest_first[0].copy(), votes[0]
    for labels, count in zip(newest_first[1:], votes[1:], strict=True):
        better = count > most
        np.copyto(winner, labels, where=better)
        np.maximum(most, count, out=most)
    return winner
