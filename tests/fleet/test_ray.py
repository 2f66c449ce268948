# SPDX-License-Identifier: Apache-2.0
"""Jobs on a Ray that lives in this module: the same files as without, whoever is killed."""

import json
import os
import signal
import sys
import threading
import time

import pytest

from deeplab_infer.commands import predict
from deeplab_infer.fleet.folder import NAME

from .conftest import running

ray = pytest.importorskip("ray", reason="pip install 'deeplab-infer[ray]'")

pytestmark = pytest.mark.slow
WRITTEN = ("--json", "--coco", "rle")
TWO = ("--ray", "--ray-cpus-per-actor", "1")


@pytest.fixture(scope="module")
def cluster():
    """One Ray of two CPUs for all tests; ``--ray`` without an address takes the one that the process has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        start()
        yield
        ray.shutdown()


def start(attempts=3):
    """Ray gives its own processes 15 seconds to start, which is little on a machine that has much else to do."""
    try:
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 << 20,
            log_to_driver=False,
            logging_level="error",
        )
    except Exception:
        ray.shutdown()
        if attempts == 1:
            raise
        start(attempts - 1)


def run(model, *arguments):
    return predict.main([model, *map(str, arguments)])


def events(out, kind):
    found = []
    for path in sorted((out / NAME).glob("*.jsonl")):
        for line in path.read_text().splitlines():
            if line.startswith(f'{{"{kind}"') and line.endswith("}"):
                found.append((path, json.loads(line)))
    return found


def until(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture
def plain(tmp_path, model_file, photos):
    assert run(model_file, photos, "-o", tmp_path / "plain", *WRITTEN, "-q") == 0
    return tmp_path / "plain"


@pytest.fixture
def stuck(photos, plain):
    """A pipe in place of p06.png: who reads it waits, until a test kills the reader or puts the image back."""
    path = photos / "p06.png"
    pixels = path.read_bytes()
    path.unlink()
    os.mkfifo(path)

    def put_back():
        path.unlink()
        path.write_bytes(pixels)

    return put_back


def reader_of(out, image, nth):
    """The process that has begun to read an image for the nth time."""
    begun = [path for path, event in events(out, "start") if event["start"].endswith(image)]
    if len(begun) < nth:
        return None
    return json.loads(begun[nth - 1].open().readline())["pid"]


def test_the_same_as_a_plain_run(cluster, tmp_path, model_file, photos, plain, same_results, capsys):
    out = tmp_path / "out"
    assert run(model_file, photos, "-o", out, *WRITTEN, *TWO) == 0
    same_results(plain, out)
    assert len(events(out, "done")) == 12
    capsys.readouterr()
    assert run(model_file, photos, "-o", out, *WRITTEN, *TWO) == 0
    assert "(12 of them before)" in capsys.readouterr().out
    assert run(model_file, photos, "-o", out, *WRITTEN, "--resume") == 0  # either goes on with the other's
    assert len(events(out, "done")) == 12


def test_bad_files_and_names(cluster, tmp_path, model_file, photos, capsys):
    (photos / "p05.png").write_bytes(b"")
    (photos / os.fsdecode(b"new\nline \xff.png")).write_bytes((photos / "p00.png").read_bytes())
    out = tmp_path / "out"
    assert run(model_file, photos, "-o", out, "--json", *TWO) == 1
    assert "12 of 13 images" in capsys.readouterr().out
    assert [json.loads(line)["path"] for line in (out / "failed.jsonl").open()] == [str(photos / "p05.png")]
    assert (out / os.fsdecode(b"new\nline \xff.png")).exists()


@pytest.mark.parametrize("deaths", [1, 2])
def test_killed_workers_lose_nothing(cluster, tmp_path, model_file, photos, stuck, plain, same_results, deaths):
    """Once: all is done. Twice with the same image in work: it is left out, and the others are done."""
    out, names = tmp_path / "out", sorted(photos.iterdir())

    def kill():
        for nth in range(1, deaths + 1):
            until(lambda nth=nth: reader_of(out, "p06.png", nth))
            until(lambda: len(events(out, "done")) >= 6)  # some wait for their turn behind the one that is stuck
            if deaths == 1:
                pid = reader_of(out, "p06.png", nth)
                stuck()
                os.kill(pid, signal.SIGKILL)
            else:
                os.kill(reader_of(out, "p06.png", nth), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    code = run(model_file, *names, "-o", out, *WRITTEN, *TWO)
    killer.join()
    stems = [event["record"]["stem"] for _, event in events(out, "done")]
    assert len(stems) == len(set(stems))  # nothing is done twice
    if deaths == 1:
        assert code == 0
        same_results(plain, out)
    else:
        assert code == 1
        assert set(stems) == {name.stem for name in names} - {"p06"}
        assert "2 processes died while it was in work" in (out / "failed.jsonl").read_text()


def test_a_model_that_workers_cannot_open(cluster, tmp_path, photos, capsys):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    assert run(str(tmp_path / "bad.onnx"), photos, "-o", tmp_path / "out", *TWO) == 2
    assert "not an ONNX file" in capsys.readouterr().err
    assert run(str(tmp_path / "missing.onnx"), photos, "-o", tmp_path / "o", *TWO) == 2
    assert "no such file" in capsys.readouterr().err


def test_no_room(cluster, tmp_path, model_file, photos, capsys):
    assert run(model_file, photos, "-o", tmp_path / "out", "--ray", "--ray-gpus-per-actor", "1") == 2
    assert "a worker needs 1 CPUs and 1 GPUs" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_command_is_ended(cluster, tmp_path, model_file, photos, stuck, plain, same_results, number):
    """A cluster of its own, which ends with it; the same command, on another one, does what is left."""
    out = tmp_path / "out"
    arguments = [model_file, *map(str, sorted(photos.iterdir())), "-o", str(out), *WRITTEN, *TWO]
    command = [sys.executable, "-m", "deeplab_infer.commands.predict", *arguments]
    with running(command) as process:
        until(lambda: reader_of(out, "p06.png", 1) and len(events(out, "done")) >= 6)
        worker = reader_of(out, "p06.png", 1)
        process.send_signal(number)
        said = process.communicate(timeout=60)[1]
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "finished images are recorded; the same command goes on" in said
    until(lambda: not os.path.exists(f"/proc/{worker}"))
    stuck()
    assert predict.main(arguments) == 0
    assert len(events(out, "done")) == 12
    same_results(plain, out)
