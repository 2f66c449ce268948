# SPDX-License-Identifier: Apache-2.0
"""What the documentation tells people to type."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from deeplab_bench.command import build_parser as bench_parser
from deeplab_export.options import build_parser as export_parser
from PIL import Image

from deeplab_infer.commands import evaluate, predict, serve, train

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *ROOT.glob("*/README.md"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "benchmarks/results/README.md",
    ]
)
PARSERS = {
    "deeplab-export": export_parser,
    "deeplab-bench": bench_parser,
    "deeplab-predict": predict.build_parser,
    "deeplab-eval": evaluate.build_parser,
    "deeplab-serve": serve.build_parser,
    "deeplab-train": train.build_parser,
}


def _typed_lines():
    for page in PAGES:
        for line in page.read_text().splitlines():
            words = line.strip().removeprefix("$ ").split("  ")[0].split(" #")[0]
            name = words.split(" ")[0]
            # Brackets and bars mark a synopsis, dots an omission.
            if name in PARSERS and not re.search(r"[\[\]]|\.\.\.|\|", words):
                yield pytest.param(name, words, id=f"{page.name}: {words[:60]}")


LINES = list(_typed_lines())


@pytest.mark.parametrize(("name", "line"), LINES)
def test_documented_commands_have_options_that_exist(name, line):
    PARSERS[name]().parse_args(shlex.split(line)[1:])


def test_there_are_documented_commands():
    assert len(LINES) > 5


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
            if not re.match(r"https?:|mailto:", target):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_example_of_the_export_guide(tmp_path, monkeypatch):
    (tmp_path / "my_images").mkdir()
    for seed in range(2):
        pixels = np.random.default_rng(seed).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "my_images" / f"{seed}.png")
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.DOTALL)
    # Calibrated on noise the street scenes are not represented: that the lines run is what is tried here.
    exec(code.replace('assert verify(model, "model.onnx").passed', "verify(model, 'model.onnx')"), {})
    assert (tmp_path / "model.onnx").is_file()
