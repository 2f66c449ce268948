# SPDX-License-Identifier: Apache-2.0
"""``deeplab-bench compare``: matching, what is noise and what is not, and what else is said. All figures are made up."""

import copy
import json
import random

import pytest
from deeplab_bench import command
from deeplab_bench.records import write_record
from deeplab_bench.reports.comparison import FASTER, SAME, SLOWER, match, speed_interval

from .records import failed, kernels_record, layers_record, measurement, record, run_record, samples, table_record


@pytest.fixture
def files(tmp_path):
    def write(*records):
        paths = [tmp_path / f"{name}.json" for name in "ab"]
        for path, one in zip(paths, records, strict=True):
            write_record(path, one)
        return [str(path) for path in paths]

    return write


def compare(*arguments):
    return command.main(["-q", "compare", *arguments])


@pytest.mark.parametrize("seed", range(8))
def test_samples_of_one_machine_are_the_same(seed):
    assert speed_interval(samples(10.0, 2 * seed), samples(10.0, 2 * seed + 1)).verdict == SAME


@pytest.mark.parametrize(("factor", "verdict"), [(0.8, FASTER), (1.25, SLOWER), (0.97, FASTER), (0.995, SAME)])
def test_a_difference_beyond_noise(factor, verdict):
    found = speed_interval(samples(10.0, 1), samples(10.0 * factor, 2))
    assert found.verdict == verdict
    assert found.low <= found.ratio <= found.high
    assert found.ratio == pytest.approx(1 / factor, rel=0.02)


def test_few_restless_samples_decide_nothing():
    rng = random.Random(0)
    before, after = ([10 * rng.uniform(0.6, 1.6) for _ in range(5)] for _ in range(2))
    assert speed_interval(before, after).verdict == SAME


def test_a_machine_that_drifts_is_not_certain():
    """Neighbouring samples say nearly the same; drawn one by one they would make the interval far too small."""
    drift = [10.0 + 0.02 * index for index in range(100)]
    steady = [11.0] * 100
    found = speed_interval(drift, steady)
    assert found.high - found.low > 0.01


def test_rows_are_matched_by_key_then_by_what_they_are():
    a = [measurement("m", "torch fp32", 1.0), measurement("n", "torch fp32", 1.0)]
    b = copy.deepcopy(a[::-1])
    assert match(a, b) == [(0, 1), (1, 0)]
    b[1]["key"] = "another"
    assert match(a, b) == [(0, 1), (1, 0)]
    b[1]["width"] = 7
    assert match(a, b) == [(1, 0)]


def test_repeated_rows_are_matched_in_order():
    same = [measurement("m", "torch fp32", 1.0) for _ in range(2)]
    assert match(same, copy.deepcopy(same)) == [(0, 0), (1, 1)]


def test_a_table_of_what_changed(files, capsys):
    before = run_record()
    after = run_record()
    after.results[0] = measurement("model.onnx", "onnxruntime fp32", 16.0, 50)
    after.results[2] = failed("model_fp16.onnx", "onnxruntime fp16")
    after.results[3] = measurement("broken.onnx", "onnxruntime fp32", 5.0)
    after.results.append(measurement("new.onnx", "onnxruntime fp32", 5.0))
    a, b = files(before, after)
    assert compare(a, b, "--markdown") == 0
    output = capsys.readouterr().out
    assert "1 faster, 0 slower, 1 same within noise" in output
    assert "fails now: model_fp16.onnx" in output
    assert "works now: broken.onnx" in output
    assert "only in" in output


def test_conditions_that_differ_are_named(files, capsys):
    other = run_record()
    other.machine.update(gpu="MADE-UP other GPU", commit="fedcba987654")
    other.machine["versions"] = {"torch": "3.0"}
    other.protocol["seconds"] = 1.0
    a, b = files(run_record(), other)
    assert compare(a, b) == 0
    output = capsys.readouterr().out
    for what in ("gpu", "commit", "versions.torch", "protocol.seconds"):
        assert f"not the same: {what}" in output


@pytest.mark.parametrize(("limit", "code"), [("0.5", 0), ("0.95", 1)])
def test_a_limit_decides_the_exit_code(files, capsys, limit, code):
    slower = run_record()
    slower.results[1] = measurement("model.onnx", "openvino fp32", 20.0, 9)
    a, b = files(run_record(), slower)
    assert compare(a, b, "--fail-below", limit) == code
    assert ("below 0.95: model.onnx" in capsys.readouterr().out) == bool(code)


def test_one_step_of_all(files, tmp_path, capsys):
    a, b = files(table_record(), table_record())
    out = tmp_path / "c.json"
    assert compare(a, b, "--step", "forward", "--json", str(out)) == 0
    content = json.loads(out.read_text())
    assert {row["step"] for row in content["rows"]} == {"forward"}
    assert {row["verdict"] for row in content["rows"]} == {SAME}
    assert len(content["no_common_step"]) == 37  # the reference has no such step


def test_kernels(files, capsys):
    a, b = files(kernels_record(), kernels_record())
    assert compare(a, b) == 0
    assert "3 same within noise" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("after", "arguments", "message"),
    [
        (layers_record(), [], "has no samples to compare"),
        (kernels_record(), [], "only one of them is of kind 'kernels'"),
        (record("run", [measurement("other", "x fp32", 1.0)]), [], "no measurement in common"),
        (run_record(), ["--fail-below", "0"], "--fail-below must be a positive ratio"),
    ],
)
def test_wrong_use(files, capsys, after, arguments, message):
    a, b = files(run_record(), after)
    assert compare(a, b, *arguments) == 2
    assert message in capsys.readouterr().err


def test_files_that_are_not_results(tmp_path, capsys):
    (tmp_path / "a.json").write_text('{"schema_version": 2, "kind": "run", "results": [{"name": "x"}]}')
    assert compare(str(tmp_path / "a.json"), str(tmp_path / "nothing.json")) == 2
    assert "the file is damaged" in capsys.readouterr().err
