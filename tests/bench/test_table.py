# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench table``: what is measured, in which order, and what is said of it."""

import json

import jsonschema
import pytest
from deeplab_bench import command
from deeplab_bench.records import read_record
from deeplab_bench.running.worker import REFERENCE
from deeplab_bench.table import command as table
from deeplab_bench.table import training_memory
from deeplab_bench.table.paths import PATHS, choose_paths, why_not
from deeplab_bench.table.rows import Workload

from deeplab_infer.configs import reference_rows
from deeplab_infer.errors import BackendError, DeepLabError
from tests.bench.test_records import check

POTSDAM = "r18-d8_4xb4-80k_potsdam"
CEILINGS = {"device": "cpu", "copy_gb_s": 10.0, "matmul_tflops": {"fp32": 0.1}}


@pytest.fixture
def made_up(monkeypatch, tmp_path):
    """Measuring processes that answer at once; figures are made up."""
    jobs = []

    def answer(module, job, environment=None, *, limit_s=None):
        jobs.append((module, job))
        if module.endswith("training.worker"):
            peak = 1500.0 if job["variant"] == "plain" else 1250.0
            return {"peak_mb": peak, "steps": {"train": {"median_ms": 3.0}}, "first_loss": 2.0, "notes": []}
        ms = 10.0 if job["backend"] == REFERENCE else 4.0
        timing = {"median_ms": ms, "mean_ms": ms, "p90_ms": ms, "p99_ms": ms, "spread": 0.0, "unsteady": False,
                  "warmup": 1, "samples_ms": [ms] * 5}  # fmt: skip
        return {
            "backend": "torch" if job["backend"] == REFERENCE else job["backend"], "device": job["device"],
            "precision": "fp32", "mode": "whole", "windows": 1, "steps": {"post": timing}, "agreement": 0.9995,
            "notes": [],
        }  # fmt: skip

    monkeypatch.setattr(table, "in_own_process", answer)
    monkeypatch.setattr(training_memory, "in_own_process", answer)
    monkeypatch.setattr(table, "measure_ceilings", lambda *_: CEILINGS)
    monkeypatch.setattr(Workload, "weights", lambda self: tmp_path / "weights.safetensors")
    monkeypatch.setattr(Workload, "exported", lambda self, path: tmp_path / f"{path.precision}.onnx")
    return jobs


def run(*arguments):
    return command.main(["-q", "table", "--device", "cpu", *arguments])


def test_all_37_rows_are_measured_from_26_networks(made_up, tmp_path, capsys):
    path = tmp_path / "a.json"
    assert run("--path", "onnxruntime fp32", "--budget", "1e6", "--json", str(path), "--markdown") == 0
    record = read_record(path)
    check(json.loads(path.read_text()))
    assert len({result["name"] for result in record.results}) == 37
    assert len(record.results) == 2 * 37
    assert len([job for _, job in made_up if job["backend"] == REFERENCE]) == 26
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("| deeplabv3plus_")]) == 37
    assert all("| 1.00x | 2.50x |" in line for line in lines if line.startswith("| deeplabv3plus_"))


def test_work_and_floor_count_every_window(made_up, tmp_path, capsys):
    path = tmp_path / "a.json"
    run("r18-d8_4xb2-80k_cityscapes-769", "--path", "none", "--scale", "1", "--json", str(path))
    (result,) = read_record(path).results
    assert result["gmacs_per_image"] == pytest.approx(994.7, abs=0.06)
    assert result["floor_ms"] >= 994.7e9 * 2 / 0.1e12 * 1e3


def test_showpieces_come_first_then_the_best_paths_of_all(made_up, capsys):
    run("cityscapes", "--budget", "1e6", "--path", "onnxruntime", "--path", "torch fp32")
    order = [(job["model"], job["backend"]) for _, job in made_up]
    backends = [backend for _, backend in order]
    assert backends[:9] == [REFERENCE, "onnxruntime", "onnxruntime"] * 3
    assert backends[9:13] == [REFERENCE, "onnxruntime"] * 2
    last = max(index for index, backend in enumerate(backends) if backend == REFERENCE)
    assert "torch" not in backends[:last]


def test_training_memory(made_up, tmp_path, capsys):
    path = tmp_path / "a.json"
    run(POTSDAM, "--path", "none", "--train-memory", "--json", str(path), "--markdown")
    (result,) = read_record(path).results
    check(json.loads(path.read_text()))
    plain = {"peak_gb": 1.5, "step_ms": 3.0, "batch": 4, "crop": [128, 128]}
    assert result["training"] == {**plain, "fused": {"peak_gb": 1.25, "step_ms": 3.0}}
    output = capsys.readouterr().out
    assert "| train GB plain / fused |" in output
    assert "| 1.91 | 1.50 / 1.25 |" in output
    jobs = [job for module, job in made_up if module.endswith("training.worker")]
    assert [job["variant"] for job in jobs] == ["plain", "fused"]
    assert all(job["reference"] and job["amp"] == "off" and job["seconds"] is None for job in jobs)


def test_training_that_does_not_fit_is_a_cell(made_up, monkeypatch, tmp_path, capsys):
    def full(module, job, environment=None, *, limit_s=None):
        if job["variant"] == "plain":
            return {"error": "out of memory: CUDA out of memory", "out_of_memory": True}
        return {"peak_mb": 900.0, "steps": {"train": {"median_ms": 3.0}}}

    monkeypatch.setattr(training_memory, "in_own_process", full)
    assert run(POTSDAM, "--path", "none", "--train-memory", "--markdown") == 0
    assert "| failed / 0.90 |" in capsys.readouterr().out


def test_a_path_that_fails_is_a_cell_and_a_note(made_up, monkeypatch, capsys):
    def fail(self, path):
        raise BackendError("no such operator")

    monkeypatch.setattr(Workload, "exported", fail)
    assert run(POTSDAM, "--path", "onnxruntime fp32", "--markdown") == 1
    output = capsys.readouterr().out
    assert "| 1.00x | failed |" in output
    assert "no such operator" in output


def test_a_reference_that_fails_leaves_no_ratios(made_up, monkeypatch, capsys):
    answer = table.in_own_process

    def out_of_memory(module, job, environment=None, *, limit_s=None):
        if job["backend"] == REFERENCE:
            return {"error": "OutOfMemoryError: CUDA out of memory"}
        return answer(module, job, environment, limit_s=limit_s)

    monkeypatch.setattr(table, "in_own_process", out_of_memory)
    assert run(POTSDAM, "--path", "onnxruntime fp32", "--markdown") == 1
    output = capsys.readouterr().out
    assert "| failed | 250.00 fps |" in output
    assert "OutOfMemoryError" in output


def test_a_budget_names_what_it_leaves_out(made_up, capsys, tmp_path):
    assert run("--budget", "5", "--path", "none", "--json", str(tmp_path / "a.json")) == 0
    output = capsys.readouterr().out
    assert "would not fit into the budget of 5 s" in output
    assert "more; --json FILE has them all" in output
    assert len(read_record(tmp_path / "a.json").left_out) == 26


def test_published_figures_measure_nothing(made_up, capsys):
    assert run("--published", "--markdown") == 0
    assert made_up == []
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| config | input | G MACs | V100 fps | mIoU | V100 train GB |"
    assert len(lines) == 2 + 37


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnext"], "no published row"),
        (["--path", "abacus"], "no path 'abacus' on cpu; there are openvino fp32"),
        (["--scale", "2"], "--scale must be above 0"),
        (["--checkpoints", "/nowhere"], "no such folder"),
        (["--budget", "0"], "--budget must be positive"),
        (["--seconds", "0"], "--seconds must be positive"),
    ],
)
def test_wrong_use(capsys, arguments, message):
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_a_gpu_that_is_not_there(capsys):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert command.main(["table", "--device", "cuda"]) == 2
    assert "no CUDA GPU" in capsys.readouterr().err


def test_paths_have_names_of_their_own_and_say_what_they_miss():
    assert len({(path.device, path.name) for path in PATHS}) == len(PATHS)
    assert [path.name for path in choose_paths("cpu", ["int8"])] == ["openvino int8", "onnxruntime int8"]
    with pytest.raises(DeepLabError, match="no path"):
        choose_paths("cuda", ["openvino"])
    for path in PATHS:
        reason = why_not(path)
        assert reason is None or len(reason) > 10


@pytest.mark.slow
def test_a_row_measured_for_real(tmp_path, capsys):
    """Reference, an exported file and a plain checkpoint, on the smallest row; no figure is asserted."""
    path = tmp_path / "a.json"
    arguments = [POTSDAM, "--scale", "0.125", "--seconds", "0.05", "--budget", "1e4", "--json", str(path)]
    assert run(*arguments, "--path", "onnxruntime fp32", "--path", "torch fp32", "--train-memory") == 0
    record = read_record(path)
    try:
        check(json.loads(path.read_text()))
    except jsonschema.ValidationError as error:
        pytest.fail(str(error))
    found = {result["path"]: result for result in record.results}
    assert set(found) == {REFERENCE, "onnxruntime fp32", "torch fp32"}
    assert found[REFERENCE]["training"]["peak_gb"] > 0
    assert found[REFERENCE]["training"]["fused"]["peak_gb"] > 0
    for name in ("onnxruntime fp32", "torch fp32"):
        assert found[name]["agreement"] > 0.99
        assert found[name]["measured_as"] == next(row.name for row in reference_rows() if POTSDAM in row.name)
        assert found[name]["floor_ms"] > 0
        assert found[name]["memory"]["weights_mib"] > 10
