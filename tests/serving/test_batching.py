# SPDX-License-Identifier: Apache-2.0
"""Which images go together, and what becomes of those nobody waits for."""

import threading

import numpy as np
import pytest

from deeplab_infer.errors import DeepLabError
from deeplab_infer.serving.batching import Batcher
from deeplab_infer.serving.options import ServeOptions

from .fakes import FakeModel, wait_until


def image(height=2, width=3, value=0):
    return np.full((height, width, 3), value, np.uint8)


def batcher(model, batch=8, latency_s=0.0, **more):
    return Batcher(model, batch, latency_s, **more)


def held(model, one):
    """A batcher whose thread is busy, so that what follows waits."""
    model.gate.clear()
    first = one.submit(image(1, 1))
    wait_until(first.running)
    return first


def test_images_of_one_size_go_together_and_the_oldest_goes_first():
    model = FakeModel()
    one = batcher(model, batch=3)
    held(model, one)
    sizes = [(2, 3), (4, 4), (2, 3), (2, 3), (4, 4), (2, 3)]
    futures = [one.submit(image(*size, value)) for value, size in enumerate(sizes)]
    assert one.depth == 6
    model.gate.set()
    done = [future.result(20) for future in futures]
    assert model.calls[1:] == [[(2, 3)] * 3, [(4, 4)] * 2, [(2, 3)]]
    assert [found.result.labels[0, 0] for found in done] == list(range(6))
    assert [found.batch for found in done] == [3, 2, 3, 3, 2, 1]
    assert all(found.queued >= 0 and found.inference >= 0 for found in done)
    one.close()


def test_an_image_waits_for_others_no_longer_than_the_latency():
    model = FakeModel()
    one = batcher(model, batch=2, latency_s=0.2)
    assert one.submit(image()).result(20).queued >= 0.2
    pair = [one.submit(image()), one.submit(image())]
    assert [future.result(20).batch for future in pair] == [2, 2]
    one.close()


def test_scores_are_not_mixed_with_none():
    model = FakeModel()
    one = batcher(model)
    held(model, one)
    with_scores, without = one.submit(image(), scores=True), one.submit(image())
    model.gate.set()
    assert with_scores.result(20).result.scores is not None
    assert without.result(20).result.scores is None
    one.close()


def test_a_model_that_takes_fewer_decides():
    model = FakeModel(largest_batch=1)
    one = batcher(model, batch=8)
    held(model, one)
    futures = [one.submit(image()) for _ in range(3)]
    model.gate.set()
    assert [future.result(20).batch for future in futures] == [1, 1, 1]
    one.close()


def test_what_was_cancelled_never_runs():
    model = FakeModel()
    one = batcher(model, batch=1)
    held(model, one)
    kept, dropped = one.submit(image(2, 2)), one.submit(image(5, 5))
    assert dropped.cancel()
    model.gate.set()
    kept.result(20)
    one.close()
    assert model.calls == [[(1, 1)], [(2, 2)]]


def test_one_bad_image_does_not_spoil_the_others():
    def fail(images):
        if any((one == 13).all() for one in images):
            raise DeepLabError("thirteen")

    model = FakeModel(fail=fail)
    counts = []
    one = batcher(model, observe=lambda count, seconds: counts.append(count))
    held(model, one)
    good, bad = one.submit(image(value=1)), one.submit(image(value=13))
    model.gate.set()
    assert good.result(20).batch == 1
    with pytest.raises(DeepLabError, match="thirteen"):
        bad.result(20)
    one.close()
    assert counts == [1, 1], "the batch that failed does not count"


def test_closing_finishes_what_was_accepted():
    model = FakeModel(seconds=0.02)
    one = batcher(model, batch=1, latency_s=5)
    futures = [one.submit(image(1 + index, 1)) for index in range(4)]
    one.close()
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError, match="closed"):
        one.submit(image())
    assert not [thread for thread in threading.enumerate() if thread.name == "deeplab-model" and thread.is_alive()]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"queue": 0}, "--queue must be at least 1, got 0"),
        ({"max_body": 0}, "--max-body must be at least 1"),
        ({"batch": -1}, "--batch must be at least 1"),
        ({"latency_s": -1}, "--latency must be at least 0"),
        ({"latency_s": 40}, "below --timeout"),
        ({"timeout_s": float("nan")}, "below --timeout"),
    ],
)
def test_options_that_make_no_sense(values, message):
    with pytest.raises(DeepLabError, match=message):
        ServeOptions(**values)
