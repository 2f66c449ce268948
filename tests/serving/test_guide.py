# SPDX-License-Identifier: Apache-2.0
"""docs/serving.md, done as it says: every framed block, in order, against a server that its own line starts."""

import contextlib
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from deeplab_export import export_onnx
from PIL import Image

from deeplab_infer import Segmenter
from deeplab_infer.commands import serve
from deeplab_infer.serving.answers import FORMATS
from deeplab_infer.serving.metrics import Metrics
from deeplab_infer.serving.problems import MEANINGS

from ..networks import make_network

ROOT = Path(__file__).parents[2]
# What is said of Triton is tried in tests/export/test_triton.py.
PAGE = (ROOT / "docs/serving.md").read_text().partition("\n## Triton\n")[0]
BIN = Path(sys.executable).parent


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def commands():
    return [line for block in blocks("bash") for line in block.splitlines()]


@contextlib.contextmanager
def served(line, folder):
    """The server of a line of the page, on a free port; yields its address."""
    command = shlex.split(line.replace("--port 8000", "--port 0"))
    process = subprocess.Popen(
        [BIN / command[0], *command[1:]], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        said = process.stdout.readline()
        assert " at http://" in said, process.communicate(timeout=60)
        yield said.rpartition(" ")[2].strip()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_every_command(tmp_path):
    # A small picture of the bundled street; the network is not what is tried here.
    with Image.open(ROOT / "deeplab_infer/assets/street.png") as street:
        street.resize((96, 48)).save(tmp_path / "street.png")
    export_onnx(make_network(), tmp_path / "model.onnx", batch=1, height=48, width=96)
    (installed, start), asking = commands()[:2], commands()[2:]
    assert installed == "pip install 'deeplab-infer[serve,onnxruntime]'"
    said = []
    with served(start, tmp_path) as address:
        for line in asking:
            assert line.startswith("curl ")
            line = line.replace("http://127.0.0.1:8000", address).replace("curl -s", "curl -sS --fail-with-body")
            done = subprocess.run(shlex.split(line), cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            said.append(done.stdout)
        (program,) = blocks("python")
        (tmp_path / "client.py").write_text(program.replace("http://127.0.0.1:8000", address))
        done = subprocess.run([sys.executable, "client.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    with Segmenter(tmp_path / "model.onnx") as segmenter:
        expected = segmenter.predict(tmp_path / "street.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "labels.png")), expected.labels)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "overlay.png")), expected.plot(0.4))
    assert sorted(json.loads(said[2])["classes"]) == ["car", "road"]
    assert json.loads(said[3])["name"] == "deeplabv3plus_mobilenetv2_streets"
    areas = {name: round(area, 6) for name, area in expected.areas().items() if area}
    assert done.stdout.strip() == str(dict(sorted(areas.items(), key=lambda item: -item[1])))


def table(heading):
    """Rows of the first table after a text, as cells."""
    rows = []
    for line in PAGE[PAGE.index(heading) :].splitlines():
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip().strip("|").split("|")])
        elif rows:
            break
    return rows[2:]


def test_the_tables_are_the_code_s():
    assert {int(status): when for status, when in table("Every error is")} == {
        status: when for status, when in MEANINGS.items() if status != 405
    }
    rows = {row[0].split()[0].strip("`"): row[2] for row in table("| `format` |")}
    assert list(rows) == list(FORMATS)
    for name, parameters in rows.items():
        assert set(re.findall(r"`(\w+)`", parameters)) == FORMATS[name].takes
    defaults = {option: action.default for action in serve.build_parser()._actions for option in action.option_strings}
    for option, default, _ in table("## Limits and memory"):
        assert float(default) == float(defaults[option.strip("`")]), option
    text = Metrics().text().decode()
    for name in re.findall(r"`(deeplab_\w+)`", "".join(row[0] for row in table("## Metrics"))):
        assert re.search(rf"^# TYPE {name.removesuffix('_total')}(_total)? ", text, re.MULTILINE), name


def test_the_container_s_command_is_one():
    (recipe,) = blocks("dockerfile")
    name, *arguments = json.loads(re.search(r"^CMD (.*)$", recipe, re.MULTILINE)[1])
    assert name == "deeplab-serve"
    assert serve.build_parser().parse_args(arguments).host == "0.0.0.0"
    assert set(re.findall(r"^```(\w+)$", PAGE, re.MULTILINE)) == {"bash", "python", "nginx", "dockerfile"}
