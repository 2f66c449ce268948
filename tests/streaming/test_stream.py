# SPDX-License-Identifier: Apache-2.0
"""`Segmenter.stream` on images: order, batches, failures, memory, and leaving early."""

import gc
import logging
import threading
import time
import weakref

import numpy as np
import pytest
from PIL import Image

from deeplab_infer.errors import DeepLabError, ImageError
from deeplab_infer.streaming import Failure
from deeplab_infer.streaming.items import Counts, Frame

from ..networks import random_images
from ..runtime.cheap_runner import Drawn


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "my photos"
    made.mkdir()
    for index, image in enumerate(random_images(5, 40, 56)):
        Image.fromarray(image).save(made / f"p{index}\n.png")
    return made


def threads_of_streams():
    return [t for t in threading.enumerate() if t.name.startswith("deeplab-")]


def test_a_folder_gives_what_predict_gives(segmenter, folder):
    results = list(segmenter.stream(folder, batch=4))
    paths = sorted(folder.iterdir())
    assert [r.path for r in results] == [str(p) for p in paths]
    assert [r.metadata["frame"] for r in results] == [0, 1, 2, 3, 4]
    assert [r.metadata["batch"] for r in results] == [4, 4, 4, 4, 1]
    assert all(r.metadata["time_s"] is None and r.timings_ms["decode"] > 0 for r in results)
    for result, path in zip(results, paths, strict=True):
        assert np.array_equal(result.labels, segmenter.predict(path).labels)
    assert not threads_of_streams()


@pytest.mark.parametrize("kind", ["array", "list", "generator", "names", "pattern"])
def test_kinds_of_sources(segmenter, folder, kind):
    images = np.stack([np.asarray(Image.open(p)) for p in sorted(folder.iterdir())])
    source = {
        "array": images,
        "list": list(images),
        "generator": (Image.fromarray(image) for image in images),
        "names": sorted(folder.iterdir()),
        "pattern": str(folder / "*.png"),
    }[kind]
    results = list(segmenter.stream(source))
    assert len(results) == 5
    for result, image in zip(results, images, strict=True):
        assert np.array_equal(result.labels, segmenter.predict(image).labels)
    assert segmenter.stream(np.stack(images)).total == 5


def test_channel_order(segmenter):
    images = random_images(2, 20, 20)
    for given, want in zip(segmenter.stream(images, color="bgr"), images, strict=True):
        assert np.array_equal(given.labels, segmenter.predict(want, color="bgr").labels)


def test_sizes_that_differ_do_not_share_a_batch(segmenter):
    images = [np.zeros((size, 32, 3), np.uint8) for size in (16, 16, 24, 24, 24, 16)]
    batches = [r.metadata["batch"] for r in segmenter.stream(iter(images), batch=8, latency_ms=5000)]
    assert batches == [2, 2, 3, 3, 3, 1]


def test_an_image_waits_no_longer_than_asked(segmenter):
    release = threading.Event()

    def slow():
        yield np.zeros((16, 16, 3), np.uint8)
        assert release.wait(20)
        yield np.zeros((16, 16, 3), np.uint8)

    with segmenter.stream(slow(), batch=8, latency_ms=10) as stream:
        first = next(stream)  # would wait for a second one that comes only after it
        release.set()
        assert first.metadata["batch"] == 1
        assert next(stream).metadata["frame"] == 1


def test_bad_files_are_reported_and_passed_over(segmenter, folder, caplog):
    (folder / "a_zero.png").write_bytes(b"")
    (folder / "p9.png").write_bytes((folder / "p0\n.png").read_bytes()[:150])
    with caplog.at_level(logging.WARNING):
        stream = segmenter.stream(folder)
        assert len(list(stream)) == 5
    assert [type(f) for f in stream.failures] == [Failure, Failure]
    assert [f.index for f in stream.failures] == [0, 6]
    assert "a_zero.png: not an image" in caplog.text
    assert "p9.png: damaged" in caplog.text
    told = []
    assert len(list(segmenter.stream(folder, on_error=told.append, batch=4))) == 5
    assert [f.index for f in told] == [0, 6]


def test_nothing_at_all_is_an_error(segmenter, tmp_path):
    (tmp_path / "zero.png").write_bytes(b"")
    with pytest.raises(ImageError, match="empty file"):
        list(segmenter.stream(tmp_path))
    assert list(segmenter.stream(tmp_path, on_error=lambda failure: None)) == []


def test_every_so_many(segmenter):
    images = random_images(10, 16, 16)
    stream = segmenter.stream(images, every=4)
    assert stream.total == 3
    assert [r.metadata["frame"] for r in stream] == [0, 4, 8]


def test_scores(segmenter):
    (result,) = segmenter.stream(random_images(1, 16, 16), scores=True)
    assert result.scores.shape == (16, 16)


def test_smoothing_is_that_of_the_labels(segmenter):
    from .test_smoothing import voted

    images = random_images(6, 12, 14)
    plain = [segmenter.predict(image).labels for image in images]
    for index, result in enumerate(segmenter.stream(images, smooth=3)):
        assert np.array_equal(result.labels, voted(plain[: index + 1], 3))


def test_memory_is_bounded(segmenter):
    """Never more bytes than asked for, nor more items than the hand-over takes, however slow the consumer is."""
    cost = 32 * 32 * 4

    def images():
        for _ in range(40):
            yield np.zeros((32, 32, 3), np.uint8)

    with segmenter.stream(images(), ahead=5 * cost, batch=4) as stream:
        pipeline = stream._pipeline
        for _ in stream:
            time.sleep(0.001)
    assert stream.given == 40
    assert pipeline.budget.peak <= 5 * cost
    assert pipeline.read.peak <= 8
    assert pipeline.results.peak <= 1


def test_an_image_larger_than_the_bound_goes_alone(segmenter, monkeypatch):
    images = random_images(4, 64, 64)
    with segmenter.stream(images, ahead=1000, batch=4) as stream:
        assert [r.metadata["batch"] for r in stream] == [1, 1, 1, 1]
        assert stream._pipeline.budget.peak == 64 * 64 * 4


class Loading:
    """A source whose images are made when they are loaded."""

    name, live, hurried, total = "loading", False, False, 4

    def __init__(self, load):
        self.counts, self._load = Counts(), load

    def frames(self):
        for index in range(self.total):
            yield Frame(self._load, 64 * 64 * 4, index, None, self.name)

    def stop(self):
        pass


def test_a_large_image_is_gone_before_the_next_is_loaded(segmenter):
    given, alive = [], []

    def load():
        gc.collect()
        alive.append(sum(ref() is not None for ref in given))
        image = np.zeros((64, 64, 3), np.uint8)
        given.append(weakref.ref(image))
        return image

    for result in segmenter.stream(Loading(load), ahead=1000):
        del result
    assert alive == [0, 0, 0, 0]


def test_what_is_sliced_is_not_read_ahead(monkeypatch, runner):
    from ..runtime.cheap_runner import open_cheap

    segmenter = open_cheap(monkeypatch, runner, window=(64, 64), window_stride=(48, 48), memory=100_000)
    scene = Drawn(200, 300)
    (result,) = segmenter.stream([scene])
    assert scene.largest < 200 * 300
    assert np.array_equal(result.labels, segmenter.predict(Drawn(200, 300)).labels)


def test_leaving_early_stops_everything(segmenter):
    read = []

    def endless():
        while True:
            read.append(1)
            yield np.zeros((16, 16, 3), np.uint8)

    stream = segmenter.stream(endless())
    next(stream)
    stream.close()
    count = len(read)
    assert count < 20
    assert list(stream) == []
    assert not threads_of_streams()
    with segmenter.stream(endless()) as stream:
        next(stream)
    assert not threads_of_streams()


def test_leaving_interrupts_a_large_image(monkeypatch, runner):
    from ..runtime.cheap_runner import open_cheap

    segmenter = open_cheap(monkeypatch, runner, window=(64, 64), window_stride=(32, 32), memory=100_000)
    begun = threading.Event()

    def tell(done, total):
        begun.set()
        time.sleep(0.01)

    stream = segmenter.stream([Drawn(64, 100), Drawn(20_000, 300)], progress=tell)
    next(stream)
    assert begun.wait(10)
    stream.close()  # 600 rows of windows would take much longer than this test may
    assert runner.windows < 2000


def test_errors_of_others_come_through(segmenter, runner, monkeypatch):
    def source():
        yield np.zeros((16, 16, 3), np.uint8)
        raise RuntimeError("the caller's own")

    stream = segmenter.stream(source())
    next(stream)
    with pytest.raises(RuntimeError, match="the caller's own"):
        next(stream)
    assert not threads_of_streams()

    def fail(batch):
        raise MemoryError("out of memory")

    monkeypatch.setattr(runner, "run", fail)
    with pytest.raises(MemoryError):
        list(segmenter.stream(random_images(2, 16, 16)))


def test_two_calls_at_once_keep_the_order(segmenter, runner, monkeypatch):
    """As on an engine with two contexts."""
    runner.contexts = 2
    real, running, most = runner.run, [0], [0]
    lock = threading.Lock()

    def run(batch):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02 if batch[0, 0, 0, 0] % 2 else 0.001)
        found = real(batch)
        with lock:
            running[0] -= 1
        return found

    monkeypatch.setattr(runner, "run", run)
    images = random_images(12, 16, 16)
    for result, image in zip(segmenter.stream(images), images, strict=True):
        assert np.array_equal(result.image, image)
    assert most[0] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 0}, "every must be at least 1"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"latency_ms": -1}, "latency_ms"),
        ({"smooth": 1}, "2 to 255"),
        ({"smooth": 3, "scores": True}, "do not go with smooth"),
        ({"drop": True}, "not live"),
        ({"decoder": "magic"}, "decoder 'magic'"),
        ({"speed": 2}, "no option speed"),
    ],
)
def test_wrong_options(segmenter, options, message):
    with pytest.raises(DeepLabError, match=message):
        segmenter.stream(random_images(2, 16, 16), **options)


@pytest.mark.parametrize("source", [np.zeros((8, 8, 3), np.uint8), b"bytes", 7, Image.new("RGB", (4, 4))])
def test_what_is_no_source(segmenter, source):
    with pytest.raises(DeepLabError, match="source"):
        segmenter.stream(source)


def test_a_stream_that_is_forgotten_ends(segmenter):
    def endless():
        while True:
            yield np.zeros((16, 16, 3), np.uint8)

    for _ in segmenter.stream(endless()):
        break
    until = time.monotonic() + 10
    while threads_of_streams() and time.monotonic() < until:
        time.sleep(0.01)
    assert not threads_of_streams()
