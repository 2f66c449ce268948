# SPDX-License-Identifier: Apache-2.0
"""A cheap model and a folder of small photos."""

import contextlib
import json
import subprocess

import pytest
from deeplab_export import export_onnx
from PIL import Image

from ..networks import make_network, random_images
from ..processes import hear_ctrl_c


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    export_onnx(make_network(), path, batch=1, height=32, width=48)
    return str(path)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, image in enumerate(random_images(12, 24, 40)):
        Image.fromarray(image).save(folder / f"p{index:02d}.png")
    return folder


@pytest.fixture
def same_results():
    """Compares two output folders: equal bytes, but for times in results.jsonl and the job's own folder."""

    def compare(one, other):
        names = sorted(p.name for p in one.iterdir() if p.is_file())
        assert names == sorted(p.name for p in other.iterdir() if p.is_file())
        for name in names:
            if name == "results.jsonl":
                assert lines(one / name) == lines(other / name)
            else:
                assert (one / name).read_bytes() == (other / name).read_bytes(), name

    return compare


def lines(path):
    """Records without times."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "timings_ms"} for line in found]


@contextlib.contextmanager
def running(command):
    """A process that Ctrl-C reaches, also where the tests themselves were told to ignore it; it never outlives a test."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()
