# SPDX-License-Identifier: Apache-2.0
"""Batches by seed and step: any number of processes, any start, any split; bad files; dead processes."""

import gc
import logging
import multiprocessing
import os
import signal
import threading
import time

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import get_worker_info

from deeplab_infer.configs import generic_dataset
from deeplab_infer.data.listing import reason
from deeplab_infer.data.loading import TrainingBatches
from deeplab_infer.data.recipes import AUGMENTATIONS
from deeplab_infer.data.sample_order import SampleOrder
from deeplab_infer.data.scenes import InMemory, StreetScenes
from deeplab_infer.data.transforms import augment
from deeplab_infer.errors import DataError, ImageError

CROP = (24, 40)


class Numbered:
    """Pictures that all hold their own number; some are bad in one way or another."""

    spec = generic_dataset(3)

    def __init__(self, count=10, bad=(), error=ImageError, dies_at=None, slow=0.0):
        self.count, self.bad, self.error, self.dies_at, self.slow = count, frozenset(bad), error, dies_at, slow

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise self.error(f"picture {index} is torn")
        if index == self.dies_at and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.slow)
        shape = (20 + index, 64 - index)
        rng = np.random.default_rng(index)
        image = np.concatenate([np.full((*shape, 1), index), rng.integers(0, 256, (*shape, 2))], 2).astype(np.uint8)
        return image, rng.integers(0, 3, shape).astype(np.uint8)

    def name(self, index):
        return f"picture_{index}.png"


class NotPickled(Numbered):
    def __getstate__(self):
        raise AssertionError("a fork must share the data set")


class AsksAround(Numbered):
    """Tells where it is read."""

    def __getitem__(self, index):
        assert get_worker_info() is not None
        assert cv2.getNumThreads() == 1
        assert torch.get_num_threads() == 1
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (1500, 1500))
        return super().__getitem__(index)


def make(dataset=None, recipe="streets", **options):
    settings = {"seed": 5, "steps": 7, "workers": 0, **options}
    batch = settings.pop("batch", 4)
    return TrainingBatches(dataset or Numbered(), AUGMENTATIONS[recipe], CROP, batch, **settings)


def run(*arguments, **options):
    with make(*arguments, **options) as batches:
        return list(batches)


def same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.names == b.names
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
    return True


def names(batches):
    return [name for batch in batches for name in batch.names]


# What the batches are.


def test_batches_are_what_the_seed_and_the_position_say():
    dataset = Numbered()
    order = SampleOrder(dataset, None, 5)
    batches = run(dataset)
    assert len(batches) == len(make(dataset)) == 7
    for step, batch in enumerate(batches):
        assert batch.images.shape == (4, *CROP, 3) and batch.images.dtype == torch.uint8
        assert batch.labels.shape == (4, *CROP) and batch.labels.dtype == torch.uint8
        assert batch.valid.shape == (4, 2) and batch.valid.dtype == torch.int64
        for i in range(4):
            position = step * 4 + i
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([5, position])))
            index = order.index(position)
            expected = augment(dataset[index], AUGMENTATIONS["streets"], CROP, rng, 255)
            assert batch.names[i] == f"picture_{index}.png"
            assert np.array_equal(batch.images[i].numpy(), expected.image)
            assert np.array_equal(batch.labels[i].numpy(), expected.labels)
            assert tuple(batch.valid[i].tolist()) == expected.valid


def test_an_epoch_sees_each_image_once_in_another_order():
    seen = names(run(steps=10, batch=3))
    epochs = [seen[:10], seen[10:20], seen[20:]]
    assert all(len(set(epoch)) == 10 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert epochs[0] != names(run(steps=10, batch=3, seed=6))[:10]


def test_an_order_may_leave_out_and_repeat():
    seen = names(run(order=[1, 3, 3, 7], steps=6, batch=2))
    for epoch in (seen[:4], seen[4:8], seen[8:]):
        assert sorted(epoch) == ["picture_1.png", "picture_3.png", "picture_3.png", "picture_7.png"]


def test_the_order_is_the_same_read_from_anywhere():
    dataset = Numbered()
    forwards = SampleOrder(dataset, None, 3)
    whole = [forwards.index(position) for position in range(50)]
    assert [SampleOrder(dataset, None, 3).index(position) for position in range(50)] == whole
    assert [forwards.index(position) for position in reversed(range(50))] == whole[::-1]
    assert sorted(forwards.reserve(4)) == list(range(10))
    assert list(forwards.reserve(4)) == list(SampleOrder(dataset, None, 3).reserve(4))
    assert list(forwards.reserve(4)) != list(forwards.reserve(5))


# The same for any division of the work.


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_processes(workers):
    assert same(run(workers=workers), run())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_ways_of_starting_processes(method):
    assert same(run(workers=1, start_method=method, steps=3), run(steps=3))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 4, 7])
def test_a_resumed_run_is_the_rest_of_the_whole_one(workers, start):
    assert same(run(start=start, workers=workers), run()[start:])


def test_a_longer_run_begins_like_a_shorter_one():
    assert same(run(steps=12)[:7], run())


def test_several_trainers_see_what_one_would():
    whole = run(batch=6)
    parts = [run(batch=2, rank=rank, world=3) for rank in range(3)]
    for step in range(7):
        for field in range(3):
            assert torch.equal(torch.cat([part[step][field] for part in parts]), whole[step][field])
        assert sum((part[step].names for part in parts), ()) == whole[step].names


def test_the_last_step_alone():
    assert run(steps=0) == []
    assert run(steps=3, start=3, workers=1) == []


def test_torch_draws_as_if_nothing_was_loaded():
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    with make(workers=1) as batches:
        next(iter(batches))
        assert torch.equal(torch.rand(5), expected)


# Processes.


def test_processes_use_one_thread_and_leave_ours():
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        cv2.resize(np.zeros((2000, 2000, 3), np.uint8), (1500, 1500))  # starts OpenCV's threads, before the fork
        assert len(run(AsksAround(), workers=2, start_method="fork")) == 7
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


def test_a_fork_shares_what_the_data_set_holds():
    assert same(run(NotPickled(), workers=2, start_method="fork"), run(Numbered()))


def test_scenes_in_memory_and_drawn():
    scenes = StreetScenes(3, 32, 48)
    kept = InMemory(scenes, workers=1)
    assert same(run(kept, workers=1, steps=2), run(scenes, steps=2))


def test_the_data_set_is_read_ahead_in_a_thread():
    read = []

    class Watched(Numbered):
        def __getitem__(self, index):
            read.append(threading.current_thread())
            return super().__getitem__(index)

    with make(Watched(), batch=2) as batches:
        iterator = iter(batches)
        next(iterator)
        limit = time.monotonic() + 10
        while len(read) < 4 and time.monotonic() < limit:
            time.sleep(0.001)
        assert len(read) == 4  # this batch and the next one, no more
        assert threading.main_thread() not in read[2:]
        next(iterator)
    assert not read[2].is_alive()


@pytest.mark.parametrize("workers", [0, 2])
def test_closing_ends_everything(workers):
    batches = make(Numbered(slow=0.01), workers=workers, steps=10_000)
    threads = threading.active_count()
    iterator = iter(batches)
    next(iterator)
    children = multiprocessing.active_children()
    assert len(children) == workers
    batches.close()
    batches.close()
    assert not any(child.is_alive() for child in children)
    assert list(iterator) == []
    gc.collect()
    # The queues' feeder threads were told to end; nobody waits for them.
    deadline = time.monotonic() + 60
    while threading.active_count() > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= threads


def test_a_second_pass_begins_again():
    batches = make(workers=1)
    first = iter(batches)
    a = next(first)
    with batches:
        assert same([a], [next(iter(batches))])
    assert list(first) == []


# Files that cannot be read.


@pytest.mark.parametrize("error", [ImageError, DataError, OSError])
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_replaced_and_reported_once(caplog, workers, error):
    whole = run(steps=10)
    with (
        caplog.at_level(logging.WARNING),
        make(Numbered(bad=(2, 7), error=error), workers=workers, steps=10) as batches,
    ):
        found = list(batches)
        assert batches.skipped == {f"picture_{i}.png": f"picture {i} is torn" for i in (2, 7)}
    assert len([record for record in caplog.records if "cannot be read" in record.message]) == 2
    assert "picture_2.png cannot be read, another image takes its place: picture 2 is torn" in caplog.text
    replaced = 0
    for before, after in zip(whole, found, strict=True):
        assert after.images.shape == before.images.shape
        for i, name in enumerate(before.names):
            if name in batches.skipped:
                assert after.names[i] not in batches.skipped
                replaced += 1
            else:  # the others do not move
                assert after.names[i] == name
                assert torch.equal(after.images[i], before.images[i])
    assert replaced == 8  # four epochs


def test_replacements_do_not_depend_on_the_division_of_the_work():
    dataset = Numbered(bad=(0, 1, 2, 3))
    whole = run(dataset, batch=6)
    assert same(whole, run(dataset, batch=6, workers=3))
    assert same(whole[3:], run(dataset, batch=6, start=3))
    assert names(run(dataset, batch=2, world=3, rank=1)) == names(
        [batch._replace(names=batch.names[2:4]) for batch in whole]
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_images(workers):
    with make(Numbered(bad=(1, 4, 8)), workers=workers, skip_limit=2, steps=20) as batches:
        with pytest.raises(DataError, match="3 of the images cannot be read, and at most 2 may be missing") as caught:
            list(batches)
        assert all(f"picture_{i}.png: picture {i} is torn" in str(caught.value) for i in (1, 4, 8))
        assert "repair these files, or take them out" in str(caught.value)
        assert len(batches.skipped) == 3
    assert len(run(Numbered(bad=(1, 4, 8)), skip_limit=3)) == 7
    with pytest.raises(DataError, match="1 of the images cannot be read, and at most 0"):
        run(Numbered(bad=(1,)), skip_limit=0)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_can_be_read(workers):
    with pytest.raises(DataError, match="3 of the images cannot be read"):
        run(Numbered(3, bad=range(3)), workers=workers)
    with pytest.raises(DataError, match="11 of the images cannot be read"):
        run(Numbered(30, bad=range(30)), workers=workers)


def test_labels_of_another_size_are_a_bad_image():
    class Shifted(Numbered):
        def __getitem__(self, index):
            image, labels = super().__getitem__(index)
            return image, labels[1:] if index == 3 else labels

    with make(Shifted()) as batches:
        list(batches)
        assert list(batches.skipped) == ["picture_3.png"]


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_in_code_are_not_swallowed(workers):
    with pytest.raises(ZeroDivisionError, match="picture 4 is torn"):
        run(Numbered(bad=(4,), error=ZeroDivisionError), workers=workers)
    with pytest.raises(RuntimeError, match="picture 4 is torn"):
        run(Numbered(bad=(4,), error=RuntimeError), workers=workers)


# Processes that die.


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_that_is_killed(method):
    started = time.monotonic()
    with pytest.raises(DataError) as caught:
        run(Numbered(dies_at=6), workers=2, start_method=method)
    message = str(caught.value)
    assert "a process that reads training images died while it worked on picture_6.png" in message
    assert "killed" in message.lower() or "exited unexpectedly" in message
    assert "use --workers 0" in message and "MiB free" in message
    assert time.monotonic() - started < 60
    assert len(run(Numbered(dies_at=6))) == 7  # as the message says


def test_a_death_that_is_noticed_outside_of_the_loader():
    """torch raises it from a signal handler: wherever the training step is at that time."""

    def train():
        with make(Numbered(slow=0.05), workers=1, steps=1000) as batches:
            next(iter(batches))
            (child,) = multiprocessing.active_children()
            os.kill(child.pid, signal.SIGKILL)
            for _ in range(1000):
                time.sleep(0.01)

    with pytest.raises(DataError, match="a process that reads training images died"):
        train()
    assert not multiprocessing.active_children()


def test_other_errors_pass_through():
    def train():
        with make(workers=1) as batches:
            next(iter(batches))
            raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="^something else$"):
        train()


# Arguments.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"start": -1}, "start"),
        ({"start": 8}, "has 7 steps and cannot start at step 8"),
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"world": 0}, "world"),
        ({"workers": -1}, "workers"),
        ({"skip_limit": -1}, "skip_limit"),
        ({"order": []}, "has no image to train on"),
        ({"order": [0, 10]}, "order goes from 0 to 10, the data set has images 0 to 9"),
        ({"order": [-1]}, "order goes from -1"),
    ],
)
def test_impossible_arguments(options, words):
    with pytest.raises(DataError, match=words):
        make(**options)
    with pytest.raises(DataError, match="height of the crop must be at least 1, got 0"):
        TrainingBatches(Numbered(), AUGMENTATIONS["none"], (0, 4), 1, seed=0, steps=1)


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_page_locked_memory(workers):
    found = run(workers=workers, pin_memory=True)
    assert all(tensor.is_pinned() for batch in found for tensor in batch[:3])
    assert same(found, run())


def test_a_file_is_named_once():
    assert reason(DataError("/data/images/a.png: no such file"), "images/a.png") == "no such file"
    assert reason(DataError("/data/masks/a.png: no such file"), "images/a.png") == "/data/masks/a.png: no such file"
    assert reason(DataError("picture 2 is torn"), "picture_2.png") == "picture 2 is torn"
