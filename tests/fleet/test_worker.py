# SPDX-License-Identifier: Apache-2.0
"""A worker that takes the place of a dead one, and how work is shared out; without Ray."""

import json
import os
import sys

import pytest

from deeplab_infer.errors import BackendError, DeepLabError
from deeplab_infer.fleet.folder import JobFolder
from deeplab_infer.fleet.job import Job, Task
from deeplab_infer.fleet.journal import read_events
from deeplab_infer.fleet.ray_cluster import check_address, require_ray
from deeplab_infer.fleet.ray_run import RayOptions, Share, batch_size, plan
from deeplab_infer.fleet.ray_worker import as_row, outcome_of, stopping
from deeplab_infer.fleet.segmenting import ImageFile
from deeplab_infer.fleet.worker import Worker
from deeplab_infer.outputs import OutputOptions


@pytest.fixture
def task(tmp_path, model_file):
    folder = tmp_path / "out"
    folder.mkdir()
    job = Job.of(model_file, {"device": "cpu"}, {"batch": None, "latency_ms": None}, OutputOptions(), folder, 10**6)
    with JobFolder(folder, job.description(), None) as place:
        yield Task(job, job.description()["model"], place.token, None, place.run)


@pytest.fixture
def files(photos):
    return [ImageFile(str(path), path.stem) for path in sorted(photos.iterdir())]


def done_by(worker):
    return [event["record"]["stem"] for _, event in read_events(worker._journal.path) if "done" in event]


def dies(worker, *in_work):
    for file in in_work:
        worker.started(file)
    worker.close(ended=False)


def test_what_a_dead_worker_did_is_not_done_again(task, files):
    first = Worker(task, "ray_a")
    first.work(files[:3], lambda outcome: None)
    dies(first, files[3], files[4])
    told = []
    with Worker(task, "ray_b") as other:
        other.work(files[6:7], told.append)
    with Worker(task, "ray_a") as second:
        second.work(files[:6], told.append)
        assert sorted(done_by(second)) == ["p03", "p04", "p05"]
        events = [event for _, event in read_events(second._journal.path)]
    assert sorted(outcome.path for outcome in told) == sorted([file.path for file in files[:6]] + [files[6].path])
    # Those that were in work are done alone, after the others: no other is begun before each ends.
    order = [(kind, os.path.basename(event[kind])) for event in events for kind in ("start", "done") if kind in event]
    assert order[2:] == [(kind, f"{stem}.png") for stem in ("p03", "p04") for kind in ("start", "done")]


def test_an_image_that_kills_workers_is_left_out(task, files):
    for _ in range(2):
        worker = Worker(task, "ray_a")
        dies(worker, files[3])
    told = []
    with Worker(task, "ray_a") as worker:
        worker.work(files[2:5], told.append)
        assert sorted(done_by(worker)) == ["p02", "p04"]
    assert [outcome.error for outcome in told if outcome.path == files[3].path] == [
        f"{files[3].path}: 2 processes died while it was in work; it is left out"
    ]


def test_workers_that_die_while_they_open_the_model(task, monkeypatch):
    monkeypatch.setattr(Worker, "_open", lambda self: None)
    for _ in range(3):
        Worker(task, "ray_a")
    with pytest.raises(DeepLabError, match="3 processes died on .* while they opened the model"):
        Worker(task, "ray_a")


def test_another_folder_or_model_of_the_same_name(task, model_file):
    stranger = Task(task.job, task.fingerprint, "another token", None, 1)
    with pytest.raises(DeepLabError, match="is not the same on .*must lie at the same paths on all machines"):
        Worker(stranger, "ray_a")
    with pytest.raises(DeepLabError, match="was not found on .*: that is another file"):
        Worker(Task(task.job, "sha256:0", task.token, None, 1), "ray_a")
    os.rename(model_file, model_file + ".away")
    try:
        with pytest.raises(DeepLabError, match="there is no such file"):
            Worker(task, "ray_a")
    finally:
        os.rename(model_file + ".away", model_file)


def test_rows_carry_any_name_and_error():
    file = ImageFile(os.fsdecode(b"/a/\xff\n.png"), os.fsdecode(b"\xff\n"))
    row = as_row(file)["line"]
    assert row.isascii() and ImageFile(*json.loads(row)) == file
    with pytest.raises(DeepLabError, match="wrong"):
        outcome_of(stopping(DeepLabError("wrong")))
    with pytest.raises(OSError) as error:
        outcome_of(stopping(OSError(28, "No space left on device", "/out/a.png")))
    assert error.value.errno == 28 and error.value.filename.endswith(": /out/a.png")


CPUS, GPUS = {"CPU": 16.0}, {"CPU": 32.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("nodes", "options", "segmenter", "expected"),
    [
        ([{"CPU": 2.0}], {}, {}, Share(1, 2, 0)),
        ([CPUS, {"CPU": 6.0}], {}, {}, Share(5, 4, 0)),
        ([CPUS], {}, {"threads": 8}, Share(2, 8, 0)),
        ([CPUS], {"actors": 3}, {}, Share(3, 4, 0)),
        ([CPUS], {"cpus": 0.5}, {}, Share(32, 0.5, 0)),
        ([GPUS, CPUS, {}], {}, {}, Share(4, 1, 1)),
        ([GPUS], {"gpus": 0.5}, {}, Share(8, 1, 0.5)),
        ([GPUS], {"cpus": 16}, {}, Share(2, 16, 1)),
        ([GPUS], {}, {"device": "cpu"}, Share(8, 4, 0)),
        ([GPUS], {"gpus": 0}, {}, Share(8, 4, 0)),
        ([{"CPU": 512.0}], {}, {}, Share(100, 4, 0)),
    ],
)
def test_shares(nodes, options, segmenter, expected):
    assert plan(nodes, RayOptions(**options), segmenter, 100) == expected


def test_no_room_for_a_worker():
    with pytest.raises(BackendError, match="needs 4 CPUs and 1 GPUs, but the largest machine of the cluster has 16"):
        plan([CPUS], RayOptions(cpus=4, gpus=1), {}, 100)
    with pytest.raises(BackendError, match="needs 32 CPUs"):
        plan([CPUS, CPUS], RayOptions(cpus=32), {}, 100)


@pytest.mark.parametrize(("files", "actors", "size"), [(1, 1, 1), (100, 2, 3), (1_000_000, 8, 32)])
def test_batches(files, actors, size):
    assert batch_size(files, actors) == size


@pytest.mark.parametrize("address", ["auto", "local", "10.0.0.5:6379", "ray://head.example:10001", "[::1]:6379"])
def test_addresses(address):
    check_address(address)


@pytest.mark.parametrize("address", ["photos/", "model.onnx", "10.0.0.5", "http://host:1", "ray://host", ""])
def test_what_is_no_address(address):
    with pytest.raises(DeepLabError, match="is no address"):
        check_address(address)


def test_without_ray(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BackendError, match=r"pip install 'deeplab-infer\[ray\]'"):
        require_ray()
