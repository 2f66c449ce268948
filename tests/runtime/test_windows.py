# SPDX-License-Identifier: Apache-2.0
"""Where windows lie, and how their logits are put together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deeplab_infer.errors import DeepLabError
from deeplab_infer.ops.resize_taps import resize_taps, taps_matrix
from deeplab_infer.runtime.blending import BLENDS, profile, shares
from deeplab_infer.runtime.blocks import shared, spans_of
from deeplab_infer.runtime.tta import plan_passes, softmax
from deeplab_infer.runtime.windows import Window, even_stride, grid_of, place_windows, slide, split_windows


def corners(*arguments):
    return [(w.top, w.left) for w in place_windows(*arguments)], place_windows(*arguments)[0].size


def test_the_reference_s_examples():
    places, size = corners(1025, 2049, (769, 769), (513, 513))
    assert size == (769, 769)
    assert places == [(y, x) for y in (0, 256) for x in (0, 513, 1026, 1280)]
    assert corners(390, 520, (480, 480), (320, 320)) == ([(0, 0), (0, 40)], (390, 480))
    assert corners(346, 520, (480, 480), (320, 320)) == ([(0, 0), (0, 40)], (346, 480))
    assert len(place_windows(520, 520, (480, 480), (320, 320))) == 4
    assert corners(100, 50, (769, 769), (513, 513)) == ([(0, 0)], (100, 50))


@settings(max_examples=200, deadline=None)
@given(*[st.integers(1, 90)] * 2, *[st.integers(1, 40)] * 2, st.integers(1, 40), st.integers(1, 40))
def test_every_pixel_is_covered_by_windows_inside_the_image(height, width, tall, wide, down, right):
    down, right = min(down, tall), min(right, wide)
    visits = np.zeros((height, width), int)
    for w in place_windows(height, width, (tall, wide), (down, right)):
        assert w.top >= 0
        assert w.left >= 0
        assert w.size == (min(tall, height), min(wide, width))
        visits[w.top : w.bottom, w.left : w.right] += 1
    assert visits.shape == (height, width)
    assert visits.min() >= 1


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 60))
def test_even_windows_are_no_more_and_overlap_by_no_less(length, window, stride):
    stride = min(stride, window)
    even, reference = (
        [w.left for w in place_windows(1, length, (1, window), (1, stride), name)] for name in ("even", "reference")
    )
    assert len(even) == len(reference)
    assert even[0] == 0 and even[-1] == max(length - window, 0)
    steps = np.diff(even)
    assert (steps > 0).all() and (steps <= stride).all()  # in order, and at least the asked overlap
    if len(even) > 1:
        fewest = -(-(length - window) // stride) + 1  # what any placement with this overlap needs
        assert len(even) == fewest
        assert (steps[:-1] == steps[0]).all() and steps[0] == even_stride(length, window, stride)
        assert steps[0] * (len(even) - 1) - (length - window) < len(even) - 1  # the last is shifted by so little
    assert even == [w.left for w in place_windows(1, length, (1, window), (1, even_stride(length, window, stride)))]


def test_even_windows_of_usual_sizes():
    for size, window, stride, counts in [
        ((1024, 2048), (769, 769), (513, 513), (8, 6)),
        ((1024, 2048), (512, 1024), (341, 683), (9, 9)),
        ((6000, 6000), (512, 512), (341, 341), (324, 196)),
        ((20_000, 20_000), (512, 512), (341, 341), (3481, 2025)),
        ((20_000, 20_000), (1024, 1024), (683, 683), (841, 529)),
    ]:  # the table of docs/large_images.md
        eighth = tuple(side - side // 8 for side in window)
        assert (len(place_windows(*size, window, stride)), len(place_windows(*size, window, eighth, "even"))) == counts
    with pytest.raises(DeepLabError, match="windows 'tiled' is not one of reference, even"):
        place_windows(10, 10, (5, 5), (5, 5), "tiled")


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 120), st.integers(1, 50), st.integers(1, 50), st.sampled_from(BLENDS))
def test_shares_are_positive_and_sum_to_one(length, window, stride, blend):
    window = min(window, length)
    starts = [w.left for w in place_windows(1, length, (1, window), (1, min(stride, window)))]
    found = shares(blend, starts, window, length)
    assert found.shape == (len(starts), window) and (found > 0).all()
    total = np.zeros(length)
    for start, share in zip(starts, found, strict=True):
        total[start : start + window] += share
    assert np.abs(total - 1).max() < len(starts) * 2.0**-51


def test_weights_within_a_window():
    assert profile("mean", 4).tolist() == [1, 1, 1, 1]
    assert profile("linear", 4).tolist() == [0.25, 0.75, 0.75, 0.25]
    assert profile("linear", 1).tolist() == profile("hann", 1).tolist() == [1]
    hann = profile("hann", 769)
    assert hann[0] > 0 and hann.argmax() == 384
    assert np.abs(hann - hann[::-1]).max() < 1e-12
    np.testing.assert_allclose(shares("linear", [0, 6], 8, 14)[0], [1] * 6 + [0.75, 0.25])  # a straight cross-fade
    with pytest.raises(DeepLabError, match="blend 'max' is not one of mean, linear, hann"):
        profile("max", 3)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 50), st.integers(0, 9))
def test_blocks_of_windows_decide_every_position_once(length, window, stride, extra):
    window = min(window, length)
    starts = [w.left for w in place_windows(1, length, (1, window), (1, min(stride, window)))]
    spans = spans_of(starts, window, length, shared(starts, window) + 1 + extra)
    assert spans[0].begin == 0 and spans[-1].end == length
    assert [span.begin for span in spans[1:]] == [span.end for span in spans[:-1]]
    for span in spans:
        covering = [i for i, s in enumerate(starts) if s < span.end and s + window > span.begin]
        assert span.begin < span.end
        assert span.first <= covering[0] and covering[-1] < span.last
        assert starts[span.first] <= span.begin and span.end <= starts[span.last - 1] + window


@settings(max_examples=200, deadline=None)
@given(*[st.integers(1, 90)] * 2, *[st.integers(1, 40)] * 2, st.integers(1, 40), st.integers(1, 40))
def test_windows_know_their_grid(height, width, tall, wide, down, right):
    windows = place_windows(height, width, (tall, wide), (min(down, tall), min(right, wide)))
    grid = grid_of(windows)
    assert place_windows(*grid.size, grid.window, grid.stride) == windows
    assert (grid.size, grid.window) == ((height, width), (min(tall, height), min(wide, width)))


@pytest.mark.parametrize(
    "windows",
    [
        [],
        place_windows(50, 60, (20, 20), (15, 15))[::-1],
        place_windows(50, 60, (20, 20), (15, 15))[1:],
        [Window(0, 0, 8, 8), Window(0, 6, 8, 16)],
        [Window(0, 0, 8, 8), Window(0, 3, 8, 11), Window(0, 7, 8, 15), Window(0, 10, 8, 18)],
    ],
)
def test_other_windows_are_no_grid(windows):
    with pytest.raises(DeepLabError, match="place_windows gives"):
        grid_of(windows)


@pytest.mark.parametrize(("count", "batch", "sizes"), [(8, 8, [8]), (8, 5, [4, 4]), (7, 3, [3, 3, 1]), (2, 4, [2])])
def test_windows_are_split_evenly(count, batch, sizes):
    windows = place_windows(10, 10 * count, (10, 10), (10, 10))
    parts = split_windows(windows, batch)
    assert [len(part) for part in parts] == sizes
    assert [window for part in parts for window in part] == windows


def test_windows_of_another_image_are_refused():
    windows = place_windows(30, 30, (20, 20), (10, 10))
    with pytest.raises(DeepLabError, match=r"of an image of \[30, 30\], got one of \[30, 31\]"):
        slide(np.zeros((30, 31, 3), np.uint8), lambda crops: np.zeros((1, 1, 1, 1), np.float32), windows, 1, False, 1)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_overlaps_are_averaged(rng, align_corners, batch):
    image = rng.integers(0, 256, (23, 31, 3), dtype=np.uint8)
    seen = []

    def run(crops):
        seen.append(len(crops))
        pooled = crops[:, ::2, ::2, :2].astype(np.float32)
        return np.ascontiguousarray(pooled.transpose(0, 3, 1, 2))

    windows = place_windows(23, 31, (12, 14), (7, 9))
    found = slide(image, run, windows, 2, align_corners, batch)
    total, visits = np.zeros((2, 23, 31)), np.zeros((23, 31))
    for w in windows:
        low = image[w.top : w.bottom, w.left : w.right][::2, ::2, :2].astype(np.float64).transpose(2, 0, 1)
        rows = taps_matrix(resize_taps(low.shape[1], w.size[0], align_corners), low.shape[1]).astype(np.float64)
        columns = taps_matrix(resize_taps(low.shape[2], w.size[1], align_corners), low.shape[2]).astype(np.float64)
        total[:, w.top : w.bottom, w.left : w.right] += rows @ low @ columns.T
        visits[w.top : w.bottom, w.left : w.right] += 1
    assert np.abs(found - total / visits).max() < 255 * 1e-6
    assert max(seen) == batch


def test_passes_scale_the_base_size():
    sizes = [p.size for p in plan_passes(1024, 2048, (2049, 1025), (0.5, 1.0), False)]
    assert sizes == [(512, 1024), (1025, 2049)]
    passes = plan_passes(100, 200, None, (0.5, 1.5), True)
    assert [(p.size, p.flip) for p in passes] == [
        ((50, 100), False), ((50, 100), True), ((150, 300), False), ((150, 300), True),
    ]  # fmt: skip
    for scales in ((), (0.0,), (-1.0,)):
        with pytest.raises(DeepLabError, match="scales must be positive"):
            plan_passes(1, 1, None, scales, False)


def test_softmax_of_large_logits(rng):
    logits = rng.normal(0, 300, (5, 4, 3)).astype(np.float32)
    found = softmax(logits)
    exact = np.exp(logits.astype(np.float64) - logits.max(0))
    assert np.abs(found - exact / exact.sum(0)).max() < 1e-6
