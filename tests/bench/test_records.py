# SPDX-License-Identifier: Apache-2.0
"""Result files: their schema, reading and writing, and files of version 1."""

import json
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from deeplab_bench import records
from deeplab_bench.records import make_record, read_record, write_record

from deeplab_infer.errors import DeepLabError

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
SCHEMA = json.loads(files("deeplab_bench").joinpath("record.schema.json").read_text(encoding="utf-8"))
TIMING = {
    "median_ms": 2.0,
    "p90_ms": 3.0,
    "p99_ms": 3.0,
    "spread": 0.1,
    "unsteady": True,
    "warmup": 1,
    "samples_ms": [2.0, 2.0, 3.0],
}
RESULT = {
    "key": "m|torch fp32|2x3x4|whole", "name": "m", "path": "torch fp32", "backend": "torch", "device": "cpu",
    "precision": "fp32", "batch": 2, "height": 3, "width": 4, "mode": "whole", "steps": {"forward": TIMING},
}  # fmt: skip


def check(content):
    jsonschema.Draft202012Validator(SCHEMA).validate(content)


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["schema_version"]["const"] == records.SCHEMA_VERSION
    assert SCHEMA["properties"]["kind"]["enum"] == list(records.KINDS)


def test_round_trip(tmp_path):
    record = make_record(
        "run",
        [RESULT, {"key": "k", "name": "n", "error": "e"}],
        records.now(),
        protocol={"a": 1},
        extra={"mine": [1, 2]},
    )
    write_record(tmp_path / "a.json", record)
    content = json.loads((tmp_path / "a.json").read_text())
    check(content)
    assert content["mine"] == [1, 2]
    assert read_record(tmp_path / "a.json") == record


@pytest.mark.parametrize(
    "change",
    [
        {"steps": {"forwards": TIMING}},
        {"steps": {"forward": {**TIMING, "samples_ms": None}}},
        {"mode": "tiles"},
        {"batch": "2"},
    ],
)
def test_the_schema_refuses(change):
    record = make_record("run", [{**RESULT, **change}], records.now())
    with pytest.raises(jsonschema.ValidationError):
        check(record.to_dict())


def test_quoted_figures():
    result = {**RESULT, "steps": {"forward": TIMING, "end_to_end": {**TIMING, "median_ms": 8.0}}}
    assert records.quoted(result)["median_ms"] == 8.0
    assert records.fps(result) == 250.0
    assert records.label(result) == "m, torch fp32"
    assert records.label({"name": "n"}) == "n"


def test_files_of_version_1(tmp_path):
    old = {
        "schema_version": 1,
        "started": "2026-01-01T00:00:00+00:00",
        "command": ["deeplab-bench", "run"],
        "machine": {"cpu": "x"},
        "results": [
            {
                "job": {"model": "m.onnx", "backend": "onnxruntime", "batch": 1, "height": 2, "width": 3},
                "backend": "onnxruntime",
                "forward": TIMING,
                "host_peak_mib": 5.0,
            },
            {"job": {"model": "m.onnx", "backend": "openvino", "batch": 1, "height": 2, "width": 3}, "error": "no"},
        ],
    }
    (tmp_path / "old.json").write_text(json.dumps(old))
    record = read_record(tmp_path / "old.json")
    assert record.kind == "run"
    assert records.fps(record.results[0]) == 500.0
    assert record.results[0]["memory"]["host_peak_mib"] == 5.0
    assert records.is_error(record.results[1])


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("*.json")), ids=lambda path: path.name)
def test_published_results_are_records(path):
    record = read_record(path)
    assert record.results
    content = json.loads(path.read_text())
    if content["schema_version"] == records.SCHEMA_VERSION:
        check(content)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("{", "not a result of deeplab-bench"),
        ("[]", "not a result of deeplab-bench"),
        ('{"schema_version": 99}', "newer deeplab-bench"),
        ('{"schema_version": "x"}', "give its --json"),
        ('{"schema_version": 2, "kind": "dance"}', "kind 'dance'"),
        ('{"schema_version": 2, "kind": "run", "results": [1]}', "the file is damaged"),
    ],
)
def test_wrong_files(tmp_path, text, said):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DeepLabError, match=said):
        read_record(path)


def test_results_hold_no_paths_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["x", "run", str(tmp_path / "model.onnx"), "sub/model.onnx", "--json", "/a/b.json"])
    command = make_record("run", [], records.now()).command
    assert command == ["deeplab-bench", "run", "model.onnx", "sub/model.onnx", "--json", "b.json"]
