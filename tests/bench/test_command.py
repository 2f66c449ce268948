# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench`` as a user runs it; no figure is asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from deeplab_bench import command, machine, report
from deeplab_export import export_onnx

from deeplab_infer import build_model
from deeplab_infer.configs import reference_rows

STREETS = "deeplabv3plus_mobilenetv2_streets"
QUICK = ["--size", "48x64", "--seconds", "0.05", "-q"]


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
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["schema_version"] == 1
    assert content["machine"]["cpus"] >= 1
    for result in content["results"]:
        assert len(result["end_to_end"]["samples_ms"]) >= 5
        assert result["host_peak_mib"] > 0


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


def test_table_prints_the_published_rows(capsys):
    assert command.main(["table"]) == 0
    output = capsys.readouterr().out
    assert output.count("deeplabv3plus_") == 37
    assert "14.27" in output


def test_table_measures_the_rows_asked_for(capsys):
    name = next(row.name for row in reference_rows() if "r18-d8_4xb4-80k_potsdam" in row.name)
    assert command.main(quick("table", "--measure", name)) == 0
    assert "1.00x" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table", "--measure", "resnext"], "no published row"),
        (["run", "x.onnx", "--size", "12"], "is not a size"),
        (["run", "x.onnx", "--seconds", "0"], "--seconds must be positive"),
        (["run", "x.onnx", "--batch", "0"], "--batch must be at least 1"),
    ],
)
def test_wrong_use(capsys, arguments, message):
    assert command.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_an_interruption_keeps_what_is_measured(model_file, capsys, monkeypatch):
    answers = iter([{"error": "first"}])

    def one_then_stop(module, job):
        try:
            return next(answers)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(command, "in_own_process", one_then_stop)
    assert command.main(["run", model_file, model_file, "--backend", "onnxruntime"]) == 130
    assert "first" in capsys.readouterr().out


def test_rows_without_a_result_do_not_break_the_report():
    job = {"model": "m", "backend": "b", "batch": 1, "height": 2, "width": 3}
    assert "failed: out of memory" in report.markdown([{"job": job, "error": "out of memory"}])


def test_a_file_of_one_size_is_measured_at_that_size(tmp_path, capsys):
    path = tmp_path / "fixed.onnx"
    export_onnx(build_model(STREETS).eval(), path, batch=1, height=48, width=64)
    assert command.main(["-q", "run", str(path), "--backend", "onnxruntime", "--seconds", "0.05", "--markdown"]) == 0
    assert "| 1 x 48 x 64 | 1.00x |" in capsys.readouterr().out


def test_a_result_that_cannot_be_written_is_known_before_measuring(tmp_path, model_file, capsys, monkeypatch):
    monkeypatch.setattr(command, "in_own_process", lambda module, job: pytest.fail("measured"))
    (tmp_path / "file").write_bytes(b"")
    assert command.main(["run", model_file, "--json", str(tmp_path / "file" / "a.json")]) == 2
    assert "file" in capsys.readouterr().err


def test_table_as_markdown(capsys):
    assert command.main(["table", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| config | input |")
    assert len(lines) == 2 + 37


def test_peak_memory_does_not_include_the_parents():
    code = "from deeplab_bench.worker import _peak_mib; print(_peak_mib())"
    ballast = bytearray(b"1") * (400 << 20)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(ballast) == 400 << 20
    assert 0 < float(done.stdout) < 300


def test_the_commit_is_that_of_this_code(monkeypatch):
    monkeypatch.setattr(machine, "_ask", lambda command: None if "ls-files" in command else "someone else's")
    assert machine._commit() is None
