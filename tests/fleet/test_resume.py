# SPDX-License-Identifier: Apache-2.0
"""``deeplab-predict --resume``: restartable runs in one process."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deeplab_infer.commands import predict
from deeplab_infer.fleet import worker
from deeplab_infer.fleet.folder import NAME
from deeplab_infer.outputs import Outputs

from .conftest import lines, running

WRITTEN = ("--json", "--coco", "rle", "--overlay")


def run(model, *arguments):
    return predict.main([model, *map(str, arguments)])


def journal_lines(folder, kind=""):
    found = [line for path in sorted((folder / NAME).glob("*.jsonl")) for line in path.read_text().splitlines()]
    return [line for line in found if line.startswith('{"' + kind)]


@pytest.fixture
def plain(tmp_path, model_file, photos):
    assert run(model_file, photos, "-o", tmp_path / "plain", *WRITTEN, "-q") == 0
    return tmp_path / "plain"


def test_the_same_as_a_plain_run(tmp_path, model_file, photos, plain, same_results, capsys):
    out = tmp_path / "out"
    assert run(model_file, photos, "-o", out, *WRITTEN, "--resume") == 0
    assert capsys.readouterr().out.startswith("12 of 12 images segmented into")
    same_results(plain, out)
    assert not (plain / NAME).exists()


def test_finished_images_are_left_out(tmp_path, model_file, photos, plain, same_results, capsys):
    out = tmp_path / "out"
    assert run(model_file, photos / "p0[0-4]*.png", "-o", out, *WRITTEN, "--resume") == 0
    assert len(lines(out / "results.jsonl")) == 5
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("p*.png")}
    capsys.readouterr()
    assert run(model_file, photos, "-o", out, *WRITTEN, "--resume") == 0
    assert "12 of 12 images segmented" in (said := capsys.readouterr().out) and "(5 of them before)" in said
    assert all((out / name).stat().st_mtime_ns == before for name, before in times.items())
    same_results(plain, out)
    assert len(journal_lines(out, "done")) == 12
    assert run(model_file, photos, "-o", out, *WRITTEN, "--resume", "--restart") == 0
    assert len(journal_lines(out, "done")) == 12
    assert any((out / name).stat().st_mtime_ns != before for name, before in times.items())
    same_results(plain, out)


def test_nothing_left_needs_no_model(tmp_path, model_file, photos, monkeypatch):
    out = tmp_path / "out"
    assert run(model_file, photos, "-o", out, "--resume") == 0
    monkeypatch.setattr(worker.Worker, "_open", lambda self: pytest.fail("opened"))
    assert run(model_file, photos, "-o", out, "--resume") == 0


def test_changed_images_and_lost_outputs_are_done_again(tmp_path, model_file, photos):
    out = tmp_path / "out"
    assert run(model_file, photos, "-o", out, "--resume", "--json") == 0
    (out / "p03.png").unlink()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(photos / "p05.png")
    os.utime(photos / "p07.png", ns=(1, 1))
    before = len(journal_lines(out, "done"))
    assert run(model_file, photos, "-o", out, "--resume", "--json") == 0
    assert {json.loads(line)["record"]["stem"] for line in journal_lines(out, "done")[before:]} == {"p03", "p05", "p07"}
    assert (out / "p03.png").exists()
    found = lines(out / "results.jsonl")
    assert [line["stem"] for line in found] == [f"p{index:02d}" for index in range(12)]
    assert (found[5]["height"], found[5]["width"]) == (9, 9)


def test_names_stay_when_images_are_added(tmp_path, model_file, photos):
    out, more = tmp_path / "out", tmp_path / "more"
    assert run(model_file, photos / "p0[01]*.png", "-o", out, "--resume", "--json") == 0
    more.mkdir()
    (more / "p00.png").write_bytes((photos / "p01.png").read_bytes())
    os.utime(photos / "p01.png", ns=(1, 1))
    assert run(model_file, more, photos, "-o", out, "--resume", "--json") == 0
    stems = {line["path"]: line["stem"] for line in lines(out / "results.jsonl")}
    assert (stems[str(photos / "p00.png")], stems[str(photos / "p01.png")]) == ("p00", "p01")
    assert len(set(stems.values())) == 13
    assert (out / f"{stems[str(more / 'p00.png')]}.png").read_bytes() == (out / "p01.png").read_bytes()


def test_another_spelling_is_the_same_image(tmp_path, model_file, photos, monkeypatch):
    out = tmp_path / "out"
    assert run(model_file, photos, "-o", out, "--resume", "--json") == 0
    monkeypatch.chdir(photos)
    assert run(model_file, ".", "p03.png", photos / "p01.png", "-o", out, "--resume", "--json") == 0
    assert len(journal_lines(out, "done")) == 12
    found = lines(out / "results.jsonl")
    assert [line["path"] for line in found][:2] == ["p00.png", "p01.png"] and len(found) == 12
    assert found[0]["metadata"]["source"] == "p00.png"


def test_bad_files_are_reported_and_tried_again(tmp_path, model_file, photos, capsys):
    out = tmp_path / "out"
    (photos / "p04.png").write_bytes(b"")
    (photos / "p05b\nnew line.png").write_bytes((photos / "p05.png").read_bytes()[:100])
    assert run(model_file, photos, "-o", out, "--resume", "--json") == 1
    captured = capsys.readouterr()
    assert "2 failed" in captured.out and "p04.png: not an image" in captured.err
    reported = [json.loads(line) for line in (out / "failed.jsonl").read_text().splitlines()]
    assert [Path(line["path"]).name for line in reported] == ["p04.png", "p05b\nnew line.png"]
    assert "damaged or truncated" in reported[1]["error"]
    assert len(lines(out / "results.jsonl")) == 11
    (photos / "p04.png").write_bytes((photos / "p06.png").read_bytes())
    (photos / "p05b\nnew line.png").unlink()
    assert run(model_file, photos, "-o", out, "--resume", "--json") == 0
    assert not (out / "failed.jsonl").exists()
    assert len(lines(out / "results.jsonl")) == 12
    for path in photos.iterdir():
        path.write_bytes(b"")
    assert run(model_file, photos, "-o", out, "--resume", "--json") == 2


def test_names_that_are_not_text(tmp_path, model_file, photos):
    names = [b"space here.png", b"new\nline.png", b"latin\xe9.png"]
    for name in names:
        (photos / os.fsdecode(name)).write_bytes((photos / "p00.png").read_bytes())
    (photos / os.fsdecode(b"bad\xff.png")).write_bytes(b"")
    out = tmp_path / "out"
    for _ in range(2):
        assert run(model_file, photos, "-o", out, "--resume", "--json") == 1
        assert len(lines(out / "results.jsonl")) == 15
        assert {os.fsencode(path.name) for path in out.glob("*.png")} > set(names)
    assert len(journal_lines(out, "done")) == 15


def test_images_in_the_output_folder_are_no_inputs(tmp_path, model_file, photos, capsys):
    out = photos / "out"
    for _ in range(2):
        assert run(model_file, photos, "-r", "-o", out, "--resume", "--overlay") == 0
        assert "12 of 12" in capsys.readouterr().out
    assert run(model_file, out, "-o", out, "--resume") == 2
    assert "no image outside the output folder" in capsys.readouterr().err


def test_a_file_that_is_too_large_is_reported(tmp_path, model_file, photos):
    Image.fromarray(np.zeros((50, 50, 3), np.uint8)).save(photos / "panorama.png")
    out = tmp_path / "out"
    assert run(model_file, photos, "-o", out, "--resume", "--max-pixels", 1000) == 1
    assert "panorama.png: more pixels than the limit of 1000" in (out / "failed.jsonl").read_text()
    assert run(model_file, photos, "-o", out, "--resume", "--max-pixels", 3000) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--restart"], "give --resume or --ray"),
        (["--ray-actors", "2"], "give --ray with it"),
        (["rtsp://host/live", "--resume"], "is a video or camera"),
        (["clip.mp4", "--resume"], "is a video or camera"),
        (["--ray", "MODEL"], "is no address like auto"),
        (["--ray", "--ray-actors", "0"], "--ray-actors must be at least 1"),
        (["--ray", "--ray-cpus-per-actor", "-1"], "--ray-cpus-per-actor is a number of at least 0"),
        (["--ray", "--device", "cuda:1"], "give --device cuda instead of cuda:1"),
        (["--ray", "127.0.0.1:1"], "no Ray cluster at '127.0.0.1:1'"),
        (["--ray", "ray://127.0.0.1:1"], "no Ray cluster at 'ray://127.0.0.1:1'"),
    ],
)
def test_wrong_use(tmp_path, model_file, photos, capsys, arguments, message):
    if "--ray" in arguments and arguments[-1] != "MODEL":
        pytest.importorskip("ray", reason="pip install 'deeplab-infer[ray]'")
    (tmp_path / "clip.mp4").write_bytes(b"")
    words = [word.replace("MODEL", model_file).replace("clip", str(tmp_path / "clip")) for word in arguments]
    assert run(model_file, photos, *words, "-o", tmp_path / "out") == 2
    assert message in capsys.readouterr().err


def test_another_model_is_refused(tmp_path, model_file, photos, capsys):
    out = tmp_path / "out"
    assert run(model_file, photos, "-o", out, "--resume") == 0
    assert run(model_file, photos, "-o", out, "--resume", "--threshold", "0.9") == 2
    assert "begun with output option threshold unset instead of 0.9" in capsys.readouterr().err
    other = tmp_path / "other.onnx"
    other.write_bytes(Path(model_file).read_bytes() + b"\0")
    assert run(str(other), photos, "-o", out, "--resume") == 2
    assert "another model" in capsys.readouterr().err


def test_names_on_stdin(tmp_path, model_file, photos):
    command = [sys.executable, "-m", "deeplab_infer.commands.predict", model_file, "-", "-0", "--resume", "-o", "out"]
    given = b"\0".join(os.fsencode(path) for path in sorted(photos.iterdir()))
    done = subprocess.run(command, input=given, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert b"12 of 12" in done.stdout


# -- what goes wrong


def test_a_full_disk_loses_nothing(tmp_path, model_file, photos, plain, same_results, monkeypatch, capsys):
    out, write = tmp_path / "out", Outputs.write

    def full(self, result, stem):
        if stem == "p07":
            raise OSError(errno.ENOSPC, "No space left on device", f"{stem}.png")
        return write(self, result, stem)

    monkeypatch.setattr(Outputs, "write", full)
    assert run(model_file, photos, "-o", out, *WRITTEN, "--resume") == 2
    assert "the disk is full; free some space and run again" in capsys.readouterr().err
    monkeypatch.undo()
    assert len(journal_lines(out, "done")) == 7
    assert run(model_file, photos, "-o", out, *WRITTEN, "--resume") == 0
    assert len(journal_lines(out, "done")) == 12
    same_results(plain, out)


def test_an_image_that_the_runtime_does_not_like(tmp_path, model_file, photos, monkeypatch):
    """Whatever it raises is the image's, until it is every image's."""
    out, write = tmp_path / "out", Outputs.write
    refused = {"p03", "p08"}

    def picky(self, result, stem):
        if stem in refused:
            raise RuntimeError(f"cannot allocate for {stem}\nmore")
        return write(self, result, stem)

    monkeypatch.setattr(Outputs, "write", picky)
    assert run(model_file, photos, "-o", out, "--resume") == 1
    errors = [json.loads(line)["error"] for line in (out / "failed.jsonl").read_text().splitlines()]
    assert errors == [f"{photos / name}.png: RuntimeError: cannot allocate for {name}" for name in sorted(refused)]
    assert len(journal_lines(out, "done")) == 10


def test_ten_in_a_row_are_not_the_images_fault(tmp_path, model_file, photos, monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError("the GPU fell off")

    monkeypatch.setattr(worker, "segment_files", broken)
    out = tmp_path / "out"
    assert run(model_file, photos, "-o", out, "--resume") == 2
    assert "the last 10 images failed alike: RuntimeError: the GPU fell off" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(model_file, photos, "-o", out, "--resume") == 0


_DYING = """
import os, signal, sys
from deeplab_infer.commands import predict
from deeplab_infer.outputs import Outputs
write, victim = Outputs.write, sys.argv.pop(1)

def dying(self, result, stem):
    if stem == victim:
        open(os.path.join(self.folder, f".{stem}.abcd1234.png"), "w").close()  # as if in the middle of a file
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, result, stem)

Outputs.write = dying
sys.exit(predict.main(sys.argv[1:]))
"""


def test_a_killed_process_loses_nothing(tmp_path, model_file, photos, plain, same_results):
    out = tmp_path / "out"
    arguments = [model_file, str(photos), "-o", str(out), *WRITTEN, "--resume"]
    done = subprocess.run([sys.executable, "-c", _DYING, "p06", *arguments], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(journal_lines(out, "done")) == 6
    assert (out / ".p06.abcd1234.png").exists()
    assert predict.main(arguments) == 0
    assert len(journal_lines(out, "done")) == 12
    assert not (out / ".p06.abcd1234.png").exists()
    same_results(plain, out)


def test_an_image_that_kills_is_left_out(tmp_path, model_file, photos, capsys):
    out = tmp_path / "out"
    arguments = [model_file, str(photos), "-o", str(out), "--resume"]
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", _DYING, "p06", *arguments], capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL
    # Those that were in work beside it are done; none of them is tried with it again.
    done = subprocess.run(
        [sys.executable, "-c", _DYING, "p06", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "11 of 12" in done.stdout
    assert [Path(json.loads(line)["path"]).stem for line in (out / "failed.jsonl").open()] == ["p06"]
    assert "2 processes died while it was in work" in (out / "failed.jsonl").read_text()
    assert predict.main(arguments) == 1  # not tried until it changes
    assert "11 of 12" in capsys.readouterr().out
    os.utime(photos / "p06.png", ns=(5, 5))
    assert predict.main(arguments) == 0


def test_ctrl_c_says_how_to_go_on(tmp_path, model_file, photos):
    out = tmp_path / "out"
    slow = _DYING.replace("os.kill(os.getpid(), signal.SIGKILL)", "__import__('time').sleep(60)")
    command = [sys.executable, "-c", slow, "p05", model_file, str(photos), "-o", str(out), "--resume"]
    with running(command) as process:
        until(lambda: (out / ".p05.abcd1234.png").exists())
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "finished images are recorded; the same command goes on" in said[1]
    assert len(journal_lines(out, "done")) == 5
    assert predict.main(command[4:]) == 0
    assert len(journal_lines(out, "done")) == 12


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
