# SPDX-License-Identifier: Apache-2.0
"""``deeplab-serve`` as a user runs it."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys

import pytest
from deeplab_export import export_onnx

from deeplab_infer.commands import serve

from ..networks import make_network
from .fakes import Client, png


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    export_onnx(make_network(), path, batch=1, height=48, width=64)
    return str(path)


@contextlib.contextmanager
def started(*arguments):
    """The program, once it says where it listens: (process, client, its first line)."""
    command = [sys.executable, "-m", "deeplab_infer.commands.serve", *arguments, "--port", "0", "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        port = re.search(r":(\d+)$", line)
        assert port, process.communicate(timeout=60)
        yield process, Client(int(port[1])), line
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_from_start_to_end(model_file, number):
    with started(model_file, "--backend", "onnxruntime") as (process, client, line):
        assert line.startswith("deeplabv3plus_mobilenetv2_streets on onnxruntime (cpu) at http://127.0.0.1:")
        found = client.post_json(png(48, 64), "?format=json")
        assert (found["height"], found["width"]) == (48, 64)
        assert client.error(b"")[0] == 400
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "stopped; everything that was accepted is done" in said
    assert re.search(r"127\.0\.0\.1 POST /v1/segment\?format=json 200 \d+ bytes .*\(48 x 64 pixels, batch of 1", said)
    assert " POST /v1/segment 400 " in said
    assert "Traceback" not in said


def test_options_reach_the_server(model_file):
    options = [
        "--max-body",
        "0.5",
        "--max-pixels",
        "100",
        "--queue",
        "3",
        "--batch",
        "2",
        "--latency",
        "1",
        "--timeout",
        "7",
    ]
    with started(model_file, "-q", *options) as (process, client, _):
        limits = json.loads(client.get("/v1/model")[2])["limits"]
        assert client.error(png(11, 10))[0] == 413
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert limits == {
        "max_body_bytes": 1 << 19, "max_pixels": 100, "requests_held": 3, "batch": 1, "latency_ms": 1.0,
        "timeout_s": 7.0, "formats": limits["formats"],
    }  # fmt: skip
    assert "POST" not in said, "--quiet has no access log"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "192.0.2.1"], "192.0.2.1 is no address of this machine; choose another with --host"),
        (["--host", "no such host"], "--host 'no such host' is no address"),
        (["--port", "70000"], "--port must be in 0..65535, got 70000"),
        (["--queue", "0"], "--queue must be at least 1"),
        (["--latency", "50000"], "below --timeout"),
        (["--port", "0", "--backend", "tflite"], "tflite"),
    ],
)
def test_wrong_use(model_file, capsys, arguments, message):
    assert serve.main([model_file, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        # Said before the model is looked at.
        assert serve.main(["missing.onnx", "--port", str(port)]) == 2
    said = capsys.readouterr().err
    assert f"port {port} of 127.0.0.1 is in use; choose another with --port, or --port 0 for a free one" in said


def test_a_model_that_cannot_be_opened(capsys, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    assert serve.main([str(tmp_path / "bad.onnx"), "--port", "0"]) == 2
    assert "not an ONNX file" in capsys.readouterr().err


def test_without_its_packages(capsys, monkeypatch):
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda name: None)
    assert serve.main(["model.onnx"]) == 2
    assert "pip install 'deeplab-infer[serve]'" in capsys.readouterr().err


def test_other_machines_are_warned_of(model_file, monkeypatch, caplog):
    served = []
    monkeypatch.setattr("deeplab_infer.serving.running.serve", lambda app, opened, timeout: served.append(app))
    assert serve.main([model_file, "--port", "0", "--host", "0.0.0.0"]) == 0
    assert "there is no authentication: put a proxy before it" in caplog.text
    served[0].state.service.close()
