# SPDX-License-Identifier: Apache-2.0
"""The vote against its definition, in plain numpy."""

import numpy as np
import pytest

from deeplab_infer.errors import DeepLabError
from deeplab_infer.streaming.smoothing import Smoother


def voted(history, frames):
    """The definition, a pixel at a time: most votes among the last frames, ties to the class seen last."""
    recent = history[-frames:]
    made = np.empty_like(recent[-1])
    for at in np.ndindex(made.shape):
        values = [int(labels[at]) for labels in recent]
        made[at] = max(set(values), key=lambda c: (values.count(c), max(i for i, v in enumerate(values) if v == c)))
    return made


@pytest.mark.parametrize("frames", [2, 3, 4, 5, 8])
@pytest.mark.parametrize(("classes", "dtype"), [(3, np.uint8), (700, np.int32)])
def test_is_the_vote_of_the_definition(frames, classes, dtype):
    rng = np.random.default_rng(frames)
    smoother, history = Smoother(frames), []
    for _ in range(12):
        history.append(rng.integers(max(0, classes - 3), classes, (70, 5)).astype(dtype))
        found = smoother.smooth(history[-1])
        assert found.dtype == dtype
        assert np.array_equal(found, voted(history, frames))


def test_a_flicker_goes_and_a_change_comes():
    still, other = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    smoother = Smoother(5)
    shown = [int(smoother.smooth(labels)[0, 0]) for labels in [still] * 4 + [other] + [still] * 4 + [other] * 4]
    assert shown == [0] * 11 + [1, 1]


def test_starts_anew():
    smoother = Smoother(3)
    for labels in [np.zeros((4, 4), np.uint8)] * 3:
        smoother.smooth(labels)
    ones = np.ones((4, 4), np.uint8)
    assert smoother.smooth(ones).max() == 0
    smoother.reset()
    assert smoother.smooth(ones).min() == 1
    assert smoother.smooth(np.zeros((2, 9), np.uint8)).shape == (2, 9)


@pytest.mark.parametrize("frames", [-1, 1, 256])
def test_wrong_numbers(frames):
    with pytest.raises(DeepLabError, match="2 to 255"):
        Smoother(frames)
