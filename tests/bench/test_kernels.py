# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json

import pytest
import torch
from deeplab_bench import command
from deeplab_bench.kernels import cases as kernel_cases
from deeplab_bench.kernels import command as kernels
from deeplab_bench.kernels import worker as kernel_worker


def test_kernels_as_a_user_runs_it(tmp_path, capsys):
    arguments = ["-q", "kernels", "--device", "cpu", "--suite", "tiny", "--only", "preprocess", "--seconds", "0.02"]
    files = ["--json", str(tmp_path / "k.json"), "--plot", str(tmp_path / "k.png")]
    assert command.main([*arguments, *files, "--rounds", "1", "--threads", "1", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| operator | MB | GB/s | of copy | x eager |")
    assert lines[2].startswith("| preprocess tiny |")
    record = json.loads((tmp_path / "k.json").read_text())
    assert record["kind"] == "kernels"
    assert record["copy_gb_s"] > 0
    (result,) = record["results"]
    for name in ("ours", "eager", "compile", "onnxruntime", "openvino"):
        assert result[name]["median_ms"] > 0, result[name]
    assert (tmp_path / "k.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("case", kernel_cases.SUITES["tiny"], ids=lambda case: case.name)
def test_every_case_runs_and_agrees_with_eager(case):
    problem = kernel_cases.Problem(case, "cpu", "float32", 1)
    problem.eager()()
    problem.ours()()
    if case.operator != "depthwise_backward":
        limit = 1e-2 if case.operator == "preprocess" else 1e-5  # eager does not round the resized pixels to 8 bits
        assert problem.error() <= limit


def test_bytes_that_must_move():
    case = next(c for c in kernel_cases.SUITES["full"] if c.name.startswith("depthwise rate 12"))
    assert case.bytes_moved(2) == 2 * 2048 * 128 * 256 * 2
    aspp = next(c for c in kernel_cases.SUITES["full"] if c.name.startswith("aspp"))
    assert aspp.bytes_moved(2) == 4 * 2048 * 128 * 256 * 2
    names = [c.name for suite in kernel_cases.SUITES.values() for c in suite]
    assert len(names) == len(set(names))


def test_a_failing_implementation_is_a_cell(monkeypatch):
    job = {"case": "preprocess tiny", "suite": "tiny", "device": "cpu", "dtype": "float32", "threads": 1}
    monkeypatch.setattr(kernel_cases.Problem, "openvino", lambda self: 1 / 0)
    options = {"seconds": 0.01, "rounds": 1, "check": False, "implementations": ["ours", "openvino"]}
    answer = kernel_worker.run_job({**job, **options})
    assert "ZeroDivisionError" in answer["openvino"]["error"]
    assert answer["ours"]["median_ms"] > 0
    row = kernels._row({"name": "n", "bytes": 10, **answer}, 1.0)
    assert row["openvino"] is None
    assert "failed" in kernels._cells(row, job)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--suite", "huge"], "--suite 'huge' is not one of full, small, tiny"),
        (["--dtype", "int8"], "--dtype 'int8' is not one of"),
        (["--device", "tpu"], "--device 'tpu' is not auto, cpu or cuda"),
        (["--only", "nothing"], "no case of suite 'small' has a name with 'nothing'"),
        (["--seconds", "0"], "--seconds must be positive"),
    ],
)
def test_wrong_use(arguments, words, capsys):
    assert command.main(["kernels", "--suite", "small", *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu(capsys):
    assert command.main(["kernels", "--device", "cuda"]) == 2
    assert "no CUDA GPU that torch can use; use --device cpu" in capsys.readouterr().err
