# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench`` as a user runs it; no figure is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from deeplab_bench import command
from deeplab_bench.measuring import machine, processes
from deeplab_bench.records import make_record, read_record
from deeplab_bench.running import command as run_models
from deeplab_bench.running import text as report
from deeplab_export import export_onnx

from deeplab_infer import build_model
from tests.bench.test_records import check

STREETS = "deeplabv3plus_mobilenetv2_streets"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "model.onnx"
    export_onnx(build_model(STREETS).eval(), path)
    return str(path)


def quick(*arguments):
    return ["-q", *arguments, "--size", "48x64", "--seconds", "0.05"]


def test_run_measures_each_backend_in_its_own_process(tmp_path, model_file, capsys):
    code = command.main(quick("run", model_file, "--json", str(tmp_path / "a.json")))
    output = capsys.readouterr().out
    assert code == 0
    assert "onnxruntime" in output
    assert "openvino" in output
    check(json.loads((tmp_path / "a.json").read_text()))
    record = read_record(tmp_path / "a.json")
    assert record.machine["cpus"] >= 1
    assert [result.get("agreement") for result in record.results[:1]] == [None]
    assert record.results[1]["agreement"] > 0.99
    for result in record.results:
        assert len(result["steps"]["end_to_end"]["samples_ms"]) >= 5
        assert result["memory"]["host_peak_mib"] > result["memory"]["weights_mib"] > 1
        assert result["gmacs_per_image"] > 0


def test_markdown_batches_and_labels_of_random_networks(capsys):
    assert command.main(quick("run", f"random:{STREETS}", "--batch", "2", "--markdown")) == 0
    output = capsys.readouterr().out
    assert "| 2 x 48 x 64 | 1.00x |" in output


def test_a_model_that_fails_is_a_row_that_says_so(tmp_path, model_file, capsys):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(Path(model_file).read_bytes()[:1000])
    assert command.main(quick("run", str(broken), model_file, "--backend", "onnxruntime")) == 1
    output = capsys.readouterr().out
    assert "truncated" in output.replace("\n", " ")
    assert "1.00x" in output


def test_sizes_batches_precisions_and_windows(tmp_path, capsys):
    path = tmp_path / "a.json"
    sizes = ["--size", "32x48", "--size", "48x64", "--batch", "1", "--batch", "2"]
    arguments = ["-q", "run", STREETS, *sizes, "--seconds", "0.01", "--json", str(path), "--markdown"]
    assert command.main([*arguments, "--mode", "slide", "--window", "33x33", "--window-stride", "20x20"]) == 0
    found = read_record(path).results
    shapes = [(r["batch"], r["height"], r["width"], r["windows"]) for r in found]
    assert shapes == [(1, 32, 48, 2), (2, 32, 48, 2), (1, 48, 64, 6), (2, 48, 64, 6)]
    assert all(set(result["steps"]) == {"end_to_end"} for result in found)
    assert "| 1 x 48 x 64, 6 windows |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "x.onnx", "--size", "12"], "is not a size"),
        (["run", "x.onnx", "--seconds", "0"], "--seconds must be positive"),
        (["run", "x.onnx", "--batch", "0"], "--batch and --window-batch must be at least 1"),
        (["run", "x.onnx", "--compiled"], "an exported file has its own runtime"),
        (["run", "x.onnx", "--budget", "-1"], "--budget must be positive"),
    ],
)
def test_wrong_use(capsys, arguments, message):
    assert command.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_interruption_keeps_what_is_measured(model_file, capsys, monkeypatch):
    answers = iter([{"error": "first"}])

    def one_then_stop(module, job, limit_s):
        try:
            return next(answers)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(run_models, "in_own_process", one_then_stop)
    assert command.main(["run", model_file, model_file, "--backend", "onnxruntime"]) == 130
    output = capsys.readouterr().out
    assert "first" in output
    assert "interrupted" in output


def test_rows_without_a_result_do_not_break_the_report():
    failed = {"name": "m", "path": "b", "batch": 1, "height": 2, "width": 3, "error": "out of memory"}
    assert "| failed | out of memory |" in report.markdown([failed])
    assert "left out: n: no time" in report.notes(
        make_record("run", [failed], "", left_out=[{"name": "n", "reason": "no time"}])
    )


def test_a_file_of_one_size_is_measured_at_that_size(tmp_path, capsys):
    path = tmp_path / "fixed.onnx"
    export_onnx(build_model(STREETS).eval(), path, batch=1, height=48, width=64)
    assert command.main(["-q", "run", str(path), "--backend", "onnxruntime", "--seconds", "0.05", "--markdown"]) == 0
    assert "| 1 x 48 x 64 | 1.00x |" in capsys.readouterr().out


def test_a_result_that_cannot_be_written_is_known_before_measuring(tmp_path, model_file, capsys, monkeypatch):
    monkeypatch.setattr(run_models, "in_own_process", lambda *_, **__: pytest.fail("measured"))
    (tmp_path / "file").write_bytes(b"")
    assert command.main(["run", model_file, "--json", str(tmp_path / "file" / "a.json")]) == 2
    assert "file" in capsys.readouterr().err


def test_peak_memory_does_not_include_the_parents():
    code = "from deeplab_bench.running.worker import status_mib; print(status_mib('VmHWM'))"
    ballast = bytearray(b"1") * (400 << 20)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(ballast) == 400 << 20
    assert 0 < float(done.stdout) < 300


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "the host's memory is full"),
        ("import time; time.sleep(60)", "took longer than 1 s and was ended"),
        ("raise SystemExit('no such thing')", "ended with code 1: no such thing"),
        (
            "from deeplab_bench.measuring.processes import answer_job\n"
            "import sys\n"
            "def run(job): print('noise'); raise MemoryError('9 GiB')\n"
            "sys.exit(answer_job(run))",
            "MemoryError: 9 GiB",
        ),
    ],
)
def test_a_measuring_process_that_ends_badly_is_a_row(tmp_path, monkeypatch, code, said):
    (tmp_path / "bad_worker.py").write_text(code)
    path = f"{tmp_path}:{Path(processes.__file__).parents[1]}"
    answer = processes.in_own_process("bad_worker", {}, {"PYTHONPATH": path}, limit_s=1 if "sleep" in code else None)
    assert said in answer["error"]


def test_the_commit_is_that_of_this_code(monkeypatch):
    monkeypatch.setattr(machine, "_ask", lambda command: None if "ls-files" in command else "someone else's")
    assert machine._commit() is None
