# SPDX-License-Identifier: Apache-2.0
"""``deeplab-predict`` on videos, cameras and names that come on stdin."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab_infer.commands import predict
from deeplab_infer.commands.output_names import as_path
from deeplab_infer.streaming.lines import FrameLines
from deeplab_infer.streaming.names import read_names

from ..networks import random_images
from ..processes import hear_ctrl_c
from ..runtime.cheap_runner import CheapRunner, open_cheap

pytest.importorskip("av", reason="videos need PyAV: pip install 'deeplab-infer[video]'")
from ..streaming import media
from ..streaming.servers import HttpCamera

ROOT = Path(__file__).parents[2]
# deeplab-predict on a network of a few sums, as a process of its own.
PROGRAM = """
import sys
import deeplab_infer.segmenter as segmenter
from deeplab_infer.commands import predict
from tests.runtime.cheap_runner import CheapRunner
segmenter.open_runner = lambda *arguments, **keywords: CheapRunner()
sys.exit(predict.main(sys.argv[1:]))
"""


@pytest.fixture
def run(monkeypatch, tmp_path):
    """The command with outputs in ``o``."""
    monkeypatch.setattr("deeplab_infer.segmenter.open_runner", lambda *_, **__: CheapRunner())

    def command(*arguments):
        return predict.main(["model.onnx", "--mode", "whole", "-o", str(tmp_path / "o"), *map(str, arguments)])

    return command


@pytest.fixture
def cheap(monkeypatch):
    with open_cheap(monkeypatch, CheapRunner(), mode="whole") as segmenter:
        yield segmenter


def names(folder):
    return sorted(p.name for p in Path(folder).iterdir())


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def start(*arguments, stdin=None, prepare=lambda: None):
    """A process that Ctrl-C reaches."""

    def begin():
        hear_ctrl_c()
        prepare()

    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "model.onnx", "--mode", "whole", *map(str, arguments)],
        cwd=ROOT,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=begin,
    )


def test_a_video(run, cheap, tmp_path, capsys):
    path = media.write_video(tmp_path / "my clip.mp4", 12, sound="aac")
    assert run(path, "--json") == 0
    assert names(tmp_path / "o") == ["my clip.jsonl", "my clip_overlay.mp4"]
    found = lines(tmp_path / "o" / "my clip.jsonl")
    assert [line["frame"] for line in found] == list(range(12))
    assert [line["time_s"] for line in found] == pytest.approx([i / 25 for i in range(12)], abs=1e-3)
    for line, result in zip(found, cheap.stream(path), strict=True):
        assert line["areas"] == result.to_dict()["areas"]
    assert len(media.read_video(tmp_path / "o" / "my clip_overlay.mp4")[0]) == 12
    assert "12 frames in" in capsys.readouterr().out


def test_frames_and_choices(run, cheap, tmp_path):
    path = media.write_video(tmp_path / "a.mp4", 7)
    arguments = [path, "--frames", "--no-video", "--json", "--every", "2", "--max-frames", "3", "--coco", "rle"]
    assert run(*arguments, "--threshold", "0.4", "--classes", cheap.classes[0]) == 0
    assert names(tmp_path / "o") == ["a", "a.jsonl"]
    assert names(tmp_path / "o" / "a") == ["00000000.png", "00000002.png", "00000004.png", "coco.json"]
    assert set(lines(tmp_path / "o" / "a.jsonl")[0]["areas"]) <= {cheap.classes[0]}


def test_smoothed(run, cheap, tmp_path):
    path = media.write_video(tmp_path / "a.mp4", 6)
    assert run(path, "--no-video", "--frames", "--smooth", "3") == 0
    for index, result in enumerate(cheap.stream(path, smooth=3)):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "o" / "a" / f"{index:08d}.png")), result.labels)


def test_images_and_videos_together(run, cheap, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for index, image in enumerate(random_images(4, 40, 56)):
        Image.fromarray(image).save(folder / f"p{index}.png")
    media.write_video(folder / "p1a.mp4", 3)
    (folder / "p2a.png").write_bytes(b"")
    (folder / "z.mp4").write_bytes(b"no video")
    assert run(folder, "--batch", "3", "--json") == 1
    assert names(tmp_path / "o") == sorted(
        [f"p{i}.png" for i in range(4)] + ["p1a.jsonl", "p1a_overlay.mp4", "results.jsonl"]
    )
    for index in range(4):
        expected = cheap.predict(folder / f"p{index}.png").labels
        assert np.array_equal(np.asarray(Image.open(tmp_path / "o" / f"p{index}.png")), expected)
    captured = capsys.readouterr()
    assert "4 of 5 images" in captured.out
    assert "p2a.png: not an image" in captured.err and "z.mp4: not a video" in captured.err


def test_a_damaged_video_is_no_success(run, tmp_path, capsys):
    whole = media.write_video(tmp_path / "whole.mp4", 20)
    path = media.damage(whole, 7, tmp_path / "broken.mp4", 2)
    assert run(path, "--json") == 1
    assert "damaged pieces" in capsys.readouterr().out
    assert 10 <= len(lines(tmp_path / "o" / "broken.jsonl")) < 20
    assert run(tmp_path / "o" / "broken.jsonl") == 2  # a text is neither image nor video


def test_two_of_one_name(run, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        media.write_video(tmp_path / folder / "x.mp4", 2)
    assert run(tmp_path / "a", tmp_path / "b") == 0
    assert len(names(tmp_path / "o")) == 2


def test_an_input_is_never_overwritten(run, tmp_path, capsys):
    (tmp_path / "o").mkdir()
    for name in ("a.mp4", "a_overlay.mp4"):
        media.write_video(tmp_path / "o" / name, 2)
    before = (tmp_path / "o" / "a_overlay.mp4").read_bytes()
    assert run(tmp_path / "o" / "a.mp4", tmp_path / "o" / "a_overlay.mp4") == 2
    assert "would overwrite an input" in capsys.readouterr().err
    assert (tmp_path / "o" / "a_overlay.mp4").read_bytes() == before


def test_a_camera_that_goes(run, tmp_path, capsys):
    with HttpCamera([5, 4], media.jpeg) as camera:
        code = run(camera.url, "--json", "--reconnect", "2", "--reconnect-delay", "0.01", "--reconnect-cap", "0.01")
    assert code == 1
    captured = capsys.readouterr()
    assert "ended early" in captured.err and "the camera is gone after 9 frames" in captured.err
    assert "1 reconnects" in captured.out
    (written,) = (tmp_path / "o").glob("*.jsonl")
    assert len(lines(written)) == 9
    assert len(media.read_video(next((tmp_path / "o").glob("*.mp4")))[0]) == 9


def test_a_camera_for_some_frames(run, tmp_path, capsys):
    with HttpCamera([None], media.jpeg) as camera:
        assert run(camera.url.replace("//", "//name:secret@"), "--drop", "--max-frames", "5", "--json") == 0
    assert len(lines(next((tmp_path / "o").glob("*.jsonl")))) == 5
    captured = capsys.readouterr()
    assert "secret" not in captured.out + captured.err + " ".join(names(tmp_path / "o"))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_stopping_closes_files(tmp_path, stop):
    with HttpCamera([None], media.jpeg, pause_s=0.005) as camera:
        process = start(camera.url, "-o", tmp_path / "o", "--json")
        until = time.monotonic() + 60
        while camera.sent < 120 and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(stop)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "interrupted" in err
    (video,), (text,) = (tmp_path / "o").glob("*_overlay.mp4"), (tmp_path / "o").glob("*.jsonl")
    frames = len(media.read_video(video)[0])
    assert frames > 0
    assert frames - len(lines(text)) in (0, 1)  # it may stop between the two
    assert f"{len(lines(text))} frames" in out or f"{frames} frames" in out


def test_names_on_stdin_as_they_come(tmp_path):
    images = tmp_path / "in"
    images.mkdir()
    for index, name in enumerate(("a b.png", "new\nline.png", "c.png")):
        Image.fromarray(random_images(1, 20, 24, seed=index)[0]).save(images / name)
    media.write_video(images / "v.mp4", 3)
    process = start("-", "--null", "-o", tmp_path / "o", "--json", stdin=subprocess.PIPE)
    process.stdin.write(f"{images / 'a b.png'}\0")
    process.stdin.flush()
    until = time.monotonic() + 60
    while not (tmp_path / "o" / "a b.png").exists():  # before the next name comes
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)
    rest = [images / "missing.png", images / "v.mp4", images / "new\nline.png", images / "c.png"]
    _, err = process.communicate("\0".join(map(str, rest)), timeout=60)
    assert process.returncode == 1, err
    assert "missing.png: no such file" in err
    expected = ["a b.png", "c.png", "new\nline.png", "results.jsonl", "v.jsonl", "v_overlay.mp4"]
    assert names(tmp_path / "o") == expected


def test_ctrl_c_while_waiting_for_names(tmp_path):
    process = start("-", "-o", tmp_path / "o", stdin=subprocess.PIPE)
    Image.fromarray(random_images(1, 20, 24)[0]).save(tmp_path / "a.png")
    process.stdin.write(f"{tmp_path / 'a.png'}\n")
    process.stdin.flush()
    until = time.monotonic() + 60
    while not (tmp_path / "o" / "a.png").exists():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)
    with process:  # its pipes are closed
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert process.returncode == 130


def test_names_that_are_split_anywhere():
    data = "a b\nü\n\nlast".encode() + b"\xff"
    for size in (1, 2, 3, 100):
        parts = iter([data[i : i + size] for i in range(0, len(data), size)])
        assert list(read_names(lambda _, parts=parts: next(parts, b""))) == ["a b", "ü", os.fsdecode(b"last\xff")]
    parts = iter([b"a\nb\0c\0"])
    assert list(read_names(lambda _: next(parts, b""), null=True)) == ["a\nb", "c"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-", "x.png"], "give no other source"),
        (["VIDEO", "--null"], "--null is about names on stdin"),
        (["VIDEO", "--npz"], "Add --frames"),
        (["VIDEO", "--no-video"], "nothing would be written"),
        (["VIDEO", "--drop"], "is not live"),
        (["VIDEO", "--every", "0"], "every must be at least 1"),
        (["VIDEO", "--max-frames", "0"], "--max-frames must be at least 1"),
        (["VIDEO", "--smooth", "1"], "from 2 to 255"),
        (["VIDEO", "--reconnect", "-1"], "reconnecting needs"),
        (["VIDEO", "--input-option", "x"], "needs KEY=VALUE"),
        (["VIDEO", "--timeout", "0"], "above 0 seconds"),
        (["http://127.0.0.1:9/x"], "connection was refused"),
    ],
)
def test_wrong_use(run, tmp_path, capsys, arguments, message):
    path = media.write_video(tmp_path / "a.mp4", 2)
    assert run(*[str(path) if a == "VIDEO" else a for a in arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_full_disk_keeps_what_was_written(run, tmp_path, capsys, monkeypatch):
    path = media.write_video(tmp_path / "a.mp4", 12)
    real, written = FrameLines.write, []

    def fail(self, result):
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device", str(self.path))
        written.append(result)
        real(self, result)

    monkeypatch.setattr(FrameLines, "write", fail)
    assert run(path, "--json") == 2
    assert "a.jsonl: the disk is full" in capsys.readouterr().err
    assert len(lines(tmp_path / "o" / "a.jsonl")) == 5
    assert len(media.read_video(tmp_path / "o" / "a_overlay.mp4")[0]) == 6


def test_a_file_that_may_not_grow(cheap, tmp_path):
    """As on a full disk: what fits can be played."""
    path = media.write_video(tmp_path / "a.mp4", 300, 240, 320)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    process = start(path, "-o", tmp_path / "o", "--json", prepare=limit)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "a_overlay.mp4" in err
    written = len(lines(tmp_path / "o" / "a.jsonl"))
    assert 0 < len(list(cheap.stream(tmp_path / "o" / "a_overlay.mp4"))) <= written < 300


def test_names_of_addresses():
    assert as_path("rtsp://me:secret@10.0.0.5:554/live/1?x=1").stem == "10_0_0_5_554_live_1"
    assert as_path("/dev/video0").stem == "video0"
