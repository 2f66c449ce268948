# SPDX-License-Identifier: Apache-2.0
"""``deeplab-doctor``."""

import importlib
import importlib.metadata
import json

import pytest

from deeplab_infer.commands import doctor


def test_doctor(capsys):
    assert doctor.main([]) == 0
    output = capsys.readouterr().out
    assert "onnxruntime" in output
    assert "native module" in output
    assert doctor.main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["packages"]["torch"]["version"]
    assert "CPU kernels" in report["native module"]


def test_doctor_says_what_videos_are_written_with():
    pytest.importorskip("av")
    assert "libx264" in doctor.examine()["packages"]["av"]["detail"]


def test_doctor_names_what_to_install(capsys, monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    report = doctor.examine()
    assert report["packages"]["openvino"]["missing"] == "pip install 'deeplab-infer[openvino]'"
    assert doctor.main([]) == 0
    assert "pip install 'deeplab-infer[onnxruntime]'" in capsys.readouterr().out


def test_doctor_survives_broken_packages(monkeypatch):
    def broken(name):
        raise OSError(f"lib{name}.so: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    report = doctor.examine()
    assert "cannot open shared object" in report["packages"]["onnxruntime"]["broken"]
    assert "cannot open shared object" in report["packages"]["opencv"]["broken"]


def test_doctor_survives_damaged_metadata(monkeypatch):
    def damaged(name):
        raise KeyError("Version")

    monkeypatch.setattr(importlib.metadata, "version", damaged)
    assert "KeyError" in doctor.examine()["packages"]["onnx"]["broken"]
