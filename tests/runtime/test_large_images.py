# SPDX-License-Identifier: Apache-2.0
"""Images that are too large for a whole map of logits: the same answer band by band, in bounded memory."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from deeplab_infer.errors import DeepLabError, ImageError
from deeplab_infer.ops.functional import upsample
from deeplab_infer.ops.resize_taps import resize_taps, taps_matrix
from deeplab_infer.pixels import InMemory, Mirrored, Sliced, open_pixels
from deeplab_infer.preprocess import resize_image
from deeplab_infer.runtime import streamed
from deeplab_infer.runtime.blending import BLENDS, shares
from deeplab_infer.runtime.streamed import WindowMap
from deeplab_infer.runtime.tta import softmax
from deeplab_infer.runtime.windows import place_windows, slide

from .cheap_runner import CheapRunner, Drawn, OnePassRunner, open_cheap

ROOT = Path(__file__).parents[2]
WINDOW, STRIDE = (48, 64), (30, 41)
OPTIONS = {"window": WINDOW, "window_stride": STRIDE}
SMALL = 4 * 4 * 70 * 100  # bytes of four classes on two by two windows and a little


@pytest.fixture(autouse=True)
def _small_bands(monkeypatch):
    """Bands of a few rows, so that small images have many."""
    monkeypatch.setattr(streamed, "_BAND_BYTES", 4 * 4 * 167 * 7)


def image_of(height=133, width=167):
    return Drawn(height, width)[0:height, 0:width]


def exact(image, runner, windows, blend, corners):
    """Float64 logits of the image: every window resized, weighted, summed."""
    height, width = image.shape[:2]
    tops, lefts = sorted({w.top for w in windows}), sorted({w.left for w in windows})
    down = shares(blend, tops, windows[0].size[0], height)
    right = shares(blend, lefts, windows[0].size[1], width)
    total = np.zeros((runner.manifest.config.num_classes, height, width))
    for w in windows:
        low = runner.run(image[None, w.top : w.bottom, w.left : w.right])[0].astype(np.float64)
        rows, columns = (
            taps_matrix(resize_taps(n, m, corners), n).astype(np.float64)
            for n, m in zip(low.shape[1:], w.size, strict=True)
        )
        weight = np.outer(down[tops.index(w.top)], right[lefts.index(w.left)])
        total[:, w.top : w.bottom, w.left : w.right] += weight * (rows @ low @ columns.T)
    return total


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize(("placement", "stride"), [("reference", STRIDE), ("even", STRIDE), ("reference", (13, 64))])
def test_bands_against_float64(placement, stride, blend, corners):
    image, runner = image_of(), CheapRunner(align_corners=corners)
    windows = place_windows(133, 167, WINDOW, stride, placement)
    made = WindowMap(InMemory(image), runner.run, windows, 4, corners, 3, blend=blend, threads=1)
    found = np.concatenate([made.rows(top, min(top + 19, 133)) for top in range(0, 133, 19)], axis=1)
    expected = exact(image, CheapRunner(align_corners=corners), windows, blend, corners)
    # A weight of each axis is rounded twice (position, share); then sums of up to 8 windows of 4 products.
    assert np.abs(found - expected).max() < np.abs(expected).max() * 2.0**-23 * 16
    assert runner.windows == len(windows)  # each ran once


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(133, 167), (48, 64), (20, 300), (301, 33)])
@pytest.mark.parametrize("window", [WINDOW, (17, 16)])
def test_a_mean_in_bands_is_the_native_one_bit_for_bit(size, window, corners):
    image = image_of(*size)
    windows = place_windows(*size, window, (11, 13))
    whole = slide(image, CheapRunner().run, windows, 4, corners, 5, threads=1)
    made = WindowMap(InMemory(image), CheapRunner().run, windows, 4, corners, 5, threads=1)
    for top in range(0, size[0], 9):
        bottom = min(top + 9, size[0])
        np.testing.assert_array_equal(made.rows(top, bottom), whole[:, top:bottom])


def both(monkeypatch, image, config=None, **options):
    """The answer with a whole map, or in one band, and in bands of 7 rows."""
    little = 1 << 30 if "scales" in options else SMALL  # resized images have to fit
    answers = []
    for memory, band in ((1 << 30, 1 << 30), (little, streamed._BAND_BYTES)):
        runner = CheapRunner(**(config or {}))
        with monkeypatch.context() as patch:
            patch.setattr(streamed, "_BAND_BYTES", band)
            segmenter = open_cheap(patch, runner, memory=memory, **OPTIONS | options)
            answers.append(segmenter.predict(image, scores=True))
    return answers


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("placement", ["reference", "even"])
@pytest.mark.parametrize(
    "config",
    [{}, {"align_corners": True}, {"test_scale": (333, 260)}, {"test_scale": (211, 150), "resize_logits_twice": False}],
)
@pytest.mark.parametrize("passes", [{}, {"flip": True, "scales": (0.5, 1.0, 1.75)}])
def test_bands_give_the_labels_of_the_whole_map(monkeypatch, blend, placement, config, passes):
    whole, banded = both(monkeypatch, image_of(), config, blend=blend, windows=placement, **passes)
    np.testing.assert_array_equal(banded.labels, whole.labels)
    np.testing.assert_array_equal(banded.scores, whole.scores)
    assert len(np.unique(whole.labels)) > 2
    if not passes:
        assert banded.metadata["bands"]
        assert "bands" not in whole.metadata or blend != "mean"
        assert banded.metadata["windows"] == whole.metadata["windows"]
        assert (banded.metadata["windows_placed"], banded.metadata["blend"]) == (placement, blend)


@pytest.mark.parametrize("config", [{}, {"test_scale": (300, 200)}])
@pytest.mark.parametrize("mode", ["whole", "slide"])
def test_passes_in_bands_are_the_mean_of_softmaxes(monkeypatch, mode, config):
    """Against the whole maps of every pass, one after the other."""
    image = image_of(61, 87)
    runner = CheapRunner(**config)
    options = OPTIONS if mode == "slide" else {}
    segmenter = open_cheap(monkeypatch, runner, mode=mode, scales=(0.5, 1.25), flip=True, **options)
    found = segmenter.predict(image, scores=True, probabilities=True)
    total = np.zeros((4, 61, 87), np.float32)
    for scale in (0.5, 1.25):
        limits = tuple(int(side * scale) for side in config.get("test_scale", ()))
        size = (int(61 * scale + 0.5), int(87 * scale + 0.5))
        if limits:
            factor = min(max(limits) / 87, min(limits) / 61)
            size = (int(61 * factor + 0.5), int(87 * factor + 0.5))
        resized = resize_image(image, size)
        for flip in (False, True):
            seen = np.ascontiguousarray(resized[:, ::-1]) if flip else resized
            if mode == "whole":
                full = upsample(CheapRunner().run(seen[None])[0], (61, 87), False, via=size)
            else:
                windows = place_windows(*size, WINDOW, STRIDE)
                full = upsample(slide(seen, CheapRunner().run, windows, 4, False, 4), (61, 87), False)
            total += softmax(full)[:, :, ::-1] if flip else softmax(full)
    total /= 4
    np.testing.assert_array_equal(found.probabilities, total)
    np.testing.assert_array_equal(found.labels, total.argmax(0))
    np.testing.assert_array_equal(found.scores, total.max(0))
    assert found.metadata["passes"] == 4


@pytest.mark.parametrize("flip", [False, True])
def test_a_source_that_is_sliced_is_read_in_pieces(monkeypatch, flip):
    drawn = Drawn(133, 167)
    whole, banded = both(monkeypatch, drawn, flip=flip)
    np.testing.assert_array_equal(banded.labels, whole.labels)
    np.testing.assert_array_equal(whole.image, image_of())
    assert banded.image is None
    drawn.largest = 0
    segmenter = open_cheap(monkeypatch, CheapRunner(), memory=SMALL, flip=flip, **OPTIONS)
    segmenter.predict(drawn)
    assert drawn.largest == WINDOW[0] * WINDOW[1]


def test_bands_as_they_are_done(monkeypatch):
    image, told = image_of(), []
    runner = CheapRunner()
    segmenter = open_cheap(monkeypatch, runner, **OPTIONS)
    expected = segmenter.predict(image, scores=True)
    runner.windows = 0
    bands = segmenter.predict_bands(image, scores=True, progress=lambda *count: told.append(count))
    first = next(bands)
    assert (first.top, first.labels.shape) == (0, (7, 167))
    assert runner.windows < 12  # of 16: those of the first rows
    rest = list(bands)
    assert [band.top for band in rest] == list(range(7, 133, 7))
    np.testing.assert_array_equal(np.concatenate([b.labels for b in (first, *rest)]), expected.labels)
    np.testing.assert_array_equal(np.concatenate([b.scores for b in (first, *rest)]), expected.scores)
    assert told == [(done, 16) for done in range(4, 17, 4)]
    averaged = open_cheap(monkeypatch, CheapRunner(), flip=True, **OPTIONS)
    labels = np.concatenate([band.labels for band in averaged.predict_bands(image)])
    np.testing.assert_array_equal(labels, averaged.predict(image).labels)
    with pytest.raises(DeepLabError, match="whole mode has no bands"):
        open_cheap(monkeypatch, CheapRunner(), mode="whole").predict_bands(image)


def test_an_interrupted_run_raises(monkeypatch):
    def stop(done, total):
        raise KeyboardInterrupt

    segmenter = open_cheap(monkeypatch, CheapRunner(), memory=SMALL, **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        segmenter.predict(image_of(), progress=stop)
    assert segmenter.predict(image_of()).labels.shape == (133, 167)


@pytest.mark.parametrize("placement", ["reference", "even"])
@pytest.mark.parametrize("stride", [STRIDE, (48, 64), (11, 25), (47, 63)])
def test_blocks_of_a_runner_that_goes_to_labels_by_itself(monkeypatch, placement, stride):
    memory = 4 * 4 * 260 * 280
    options = {"window": WINDOW, "window_stride": stride, "windows": placement}
    image = Drawn(403, 417)
    whole = open_cheap(monkeypatch, CheapRunner(), **options).predict(image, scores=True)
    runner, told = OnePassRunner(), []
    segmenter = open_cheap(monkeypatch, runner, memory=memory, **options)
    found = segmenter.predict(image, scores=True, progress=lambda *count: told.append(count))
    np.testing.assert_array_equal(found.labels, whole.labels)
    np.testing.assert_array_equal(found.scores, whole.scores)
    assert found.metadata["one_pass"] and found.metadata["bands"]
    assert len(runner.maps) > 1 and max(runner.maps) <= memory
    assert told[-1] == (runner.windows, runner.windows)
    with pytest.raises(DeepLabError, match="overlapping windows of .* need .* raise memory"):
        open_cheap(monkeypatch, OnePassRunner(), memory=1000, **options).predict(image)


@pytest.mark.parametrize(
    ("options", "config", "reason"),
    [
        ({"blend": "hann"}, {}, "blend 'hann'"),
        ({"memory": SMALL}, {"test_scale": (333, 260)}, "resized for the network"),
    ],
)
def test_a_gpu_runner_says_why_it_does_not_merge(monkeypatch, options, config, reason):
    runner = OnePassRunner(**config)
    found = open_cheap(monkeypatch, runner, **OPTIONS | options).predict(image_of())
    expected = open_cheap(monkeypatch, CheapRunner(**config), **OPTIONS | options).predict(image_of())
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert reason in found.metadata["note"] and not runner.maps


def test_what_does_not_fit_says_so(monkeypatch):
    image = image_of()
    segmenter = open_cheap(monkeypatch, CheapRunner(), memory=SMALL, **OPTIONS)
    need = 4 * 4 * 133 * 167
    with pytest.raises(DeepLabError, match=rf"4 classes at 133 x 167 take {need} bytes .*memory={need}"):
        segmenter.predict(image, probabilities=True)
    found = open_cheap(monkeypatch, CheapRunner(), memory=need, **OPTIONS).predict(image, probabilities=True)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, rtol=1e-6)
    np.testing.assert_array_equal(found.labels, segmenter.predict(image).labels)
    with pytest.raises(DeepLabError, match="take .* bytes"):
        open_cheap(monkeypatch, CheapRunner(), mode="whole", memory=SMALL).predict(image, probabilities=True)
    scaled = open_cheap(monkeypatch, CheapRunner(), memory=SMALL, scales=(1.0, 2.0), **OPTIONS)
    with pytest.raises(DeepLabError, match=f"resized to all scales takes {4 * image.size} bytes"):
        scaled.predict(image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"windows": "random"}, "windows 'random' is not one of reference, even"),
        ({"blend": "max"}, "blend 'max' is not one of mean, linear, hann"),
        ({"memory": 0}, "memory must be at least 1"),
    ],
)
def test_bad_options(monkeypatch, options, message):
    with pytest.raises(DeepLabError, match=message):
        open_cheap(monkeypatch, CheapRunner(), **OPTIONS | options)


def test_even_windows_overlap_by_an_eighth_unless_told_otherwise(monkeypatch):
    config = {"test_mode": "slide", "window": (64, 80), "window_stride": (40, 50)}
    segmenter = open_cheap(monkeypatch, CheapRunner(**config), mode=None, windows="even")
    assert segmenter.describe()["window_stride"] == [56, 70]
    assert segmenter.predict(image_of()).metadata["windows"] == 9
    reference = open_cheap(monkeypatch, CheapRunner(**config), mode=None)
    assert reference.describe()["window_stride"] == [40, 50]
    assert reference.predict(image_of()).metadata["windows"] == 9
    told = open_cheap(monkeypatch, CheapRunner(**config), mode=None, windows="even", window_stride=(40, 50))
    assert told.describe()["window_stride"] == [40, 50]


# -- pixels


def test_pixels_in_memory_and_sliced(rng):
    array = rng.integers(0, 256, (20, 31, 4), dtype=np.uint8)
    for color in ("rgb", "bgr"):
        sliced = open_pixels(array, color, 100, lambda size: size == (20, 31))
        whole = open_pixels(array, color, 100, lambda size: False)
        assert isinstance(sliced, Sliced) and isinstance(whole, InMemory)
        np.testing.assert_array_equal(sliced.read(3, 5, 9, 31), whole.read(3, 5, 9, 31))
        expected = whole.read(0, 0, 20, 31)[:, ::-1]
        np.testing.assert_array_equal(Mirrored(sliced).read(2, 4, 7, 11), expected[2:7, 4:11])
    plain = np.ascontiguousarray(array[:, :, :3])
    assert np.shares_memory(open_pixels(plain, "rgb", 100, lambda size: True).array, plain)


def test_sliced_images_that_are_none(monkeypatch):
    class Short(Drawn):
        def __getitem__(self, at):
            return super().__getitem__(at)[:-1]

    segmenter = open_cheap(monkeypatch, CheapRunner(), memory=SMALL, **OPTIONS)
    with pytest.raises(ImageError, match=r"gave \[47, 64\] pixels for rows 0:48, columns 0:64"):
        segmenter.predict(Short(133, 167))
    floats = np.full((133, 167, 3), 0.5, np.float32)
    floats[100, 100] = np.nan
    with pytest.raises(ImageError, match="NaN"):
        segmenter.predict(floats)
    with pytest.raises(ImageError, match=r"must be \[H, W\]"):
        segmenter.predict(Drawn(133, 167)[0:9, 0:9][None])


# -- 400 million pixels

_HUGE = """
import json, resource, sys, unittest.mock
from pathlib import Path
import numpy as np
from tests.runtime.cheap_runner import CheapRunner, Drawn
from deeplab_infer import Segmenter
from deeplab_infer.runtime.windows import grid_of

runner, side = CheapRunner(classes=2, stride=32), 20_000
with unittest.mock.patch("deeplab_infer.segmenter.open_runner", lambda *_, **__: runner):
    segmenter = Segmenter("model.onnx", mode="slide", window=(2048, 2048), windows="even", threads=1)
image = Drawn(side, side)
found = segmenter.predict(image)
windows, ran = found.metadata["windows"], runner.windows
found.save(sys.argv[1])
areas = found.areas("pixels")

# Rows and columns 3 to 5 of the windows alone: in the middle no other window has a say.
grid = grid_of(segmenter._sliding.place((side, side)))
low, high = grid.tops[3], grid.tops[5] + 2048
inner = slice(grid.tops[2] + 2048 - low, grid.tops[6] - low)
with unittest.mock.patch("deeplab_infer.segmenter.open_runner", lambda *_, **__: runner):
    part = Segmenter("model.onnx", mode="slide", window=(2048, 2048), window_stride=grid.stride, threads=1)
alone = part.predict(np.ascontiguousarray(image[low:high, low:high]))
own = slice(low + inner.start, low + inner.stop)
status = Path("/proc/self/status")
lines = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
peak = lines.get("VmHWM", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss} kB")
print(json.dumps({
    "peak_kib": int(peak.split()[0]),
    "size": found.labels.shape,
    "bands": found.metadata["bands"],
    "windows": windows,
    "ran": ran,
    "pixels": sum(areas.values()),
    "classes": sum(area > 0 for area in areas.values()),
    "whole": "bands" not in alone.metadata,
    "inner": inner.stop - inner.start,
    "equal": bool((found.labels[own, own] == alone.labels[inner, inner]).all()),
}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="reads the peak memory as Linux and macOS give it")
def test_twenty_thousand_pixels_square_in_under_four_gib(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", _HUGE, str(tmp_path / "mask.png")], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = json.loads(run.stdout)
    assert found["peak_kib"] < 4 << 20
    assert found["size"] == [20_000, 20_000] and found["pixels"] == 400_000_000
    assert found["bands"] and found["windows"] == found["ran"] == 144
    assert found["classes"] == 2
    assert found["whole"] and found["inner"] > 2048 and found["equal"]
    assert (tmp_path / "mask.png").stat().st_size > 0
