# SPDX-License-Identifier: Apache-2.0
"""The pages on training, done as they say: every framed block of commands or Python, in order, in one folder.

The only changes to a block are those of `SMALLER`. The tables of numbers in docs/training.md are compared with the code.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from deeplab_infer.commands import train_options
from deeplab_infer.configs import list_configs, named_config
from deeplab_infer.data.transforms import AUGMENTATIONS
from deeplab_infer.training import RECIPES, TrainOptions

from ..data.trees import make_street_folder, make_voc

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# What a block says -> what is run. Nothing else differs from the pages.
SMALLER = {
    "docs/finetune.md": {
        # Its official weights are a download; these are bundled.
        "deeplabv3plus_r50-d8_4xb4-160k_ade20k-512x512": "deeplabv3plus_mobilenetv2_streets",
        "--iterations 2000": "--iterations 20",
        "--iterations 1000": "--iterations 2",
        "--crop 512x512": "--crop 64x64",
        "--ohem 100000": "--ohem 1000",
        "--height 512 --width 512": "--height 192 --width 384",
        "--max-drop 1 ": "--max-drop 5 ",  # points of mIoU over three small images say little
    },
    "docs/training.md": {
        "deeplabv3_resnet101-beta": "deeplabv3_mobilenetv2",
        "--iterations 30000": "--iterations 2",
        "--batch 16": "--batch 2",
        "--crop 513x513": "--crop 65x65",
    },
}
# The two runs that the page on fine-tuning stops with Ctrl-C and resumes.
_RUN, _RESUMED = "-o runs/my_data", "-o runs/my_data --resume"


@dataclass
class Block:
    """A framed block of a page."""

    language: str
    text: str
    line: int


def blocks(page):
    text = (ROOT / page).read_text()
    found = [
        Block(match[1], match[2], text[: match.start()].count("\n") + 1)
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]
    for old, new in SMALLER[page].items():
        assert any(old in block.text for block in found), f"{page} says {old!r} nowhere"
        for block in found:
            block.text = block.text.replace(old, new)
    return found


def environment():
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "DISPLAY")}
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}


def run(command, folder, where, code=0):
    """As a user types it; what it said."""
    done = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == code, f"{where}: {shlex.join(command)}\n{done.stdout}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def run_until_ctrl_c(command, folder, where):
    """Ctrl-C after the first evaluation."""
    process = subprocess.Popen(
        command, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    state = folder / "runs" / "my_data" / "state.pt"
    limit = time.monotonic() + 300
    while not state.exists() and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, f"{where}: {shlex.join(command)}\n{said}"
    return said


def run_page(page, folder, run_command=run):
    """Every block; the Python ones of a page share their names, in one process."""
    said = {}
    script = folder / "page.py"
    pythons = []
    for block in blocks(page):
        where = f"{page}, line {block.line}"
        if block.language == "python":
            pythons.append(block.text)
            script.write_text("\n".join(pythons) if page == "docs/training.md" else block.text)
            if page == "docs/finetune.md":
                said[where] = run([sys.executable, script.name], folder, where)
            continue
        assert block.language == "bash", f"{where}: a framed block is bash or python"
        for line in block.text.splitlines():
            said[line] = run_command(shlex.split(line), folder, where)
    if page == "docs/training.md":
        said["python"] = run([sys.executable, script.name], folder, page)
    return said


@pytest.mark.slow
def test_from_a_folder_of_pictures_to_an_engine(tmp_path):
    make_street_folder(tmp_path / "my_data", train=6, val=3, size=(192, 384))

    def run_command(command, folder, where):
        if "deeplab-train" in command[0] and shlex.join(command).endswith(_RUN):
            said = run_until_ctrl_c(command, folder, where)
            assert "--resume goes on from there" in said
            return said
        return run(command, folder, where)

    said = run_page("docs/finetune.md", tmp_path, run_command)
    (resumed,) = [text for line, text in said.items() if line.endswith(_RESUMED)]
    assert "best mIoU on 3 held-out images" in resumed
    steps = [json.loads(line)["step"] for line in (tmp_path / "runs/my_data/log.jsonl").read_text().splitlines()]
    assert steps == list(range(2, 21, 2)), "no evaluation is missing or there twice"
    for name in (
        "runs/my_data/dry_run.png", "runs/my_data/previews/0_step_000020.jpg", "runs/my_data/tensorboard",
        "runs/rare/best.safetensors", "confusion.png", "exported/my_data.onnx", "exported/my_data_int8.xml",
        "exported/my_data_fp16.engine", "predictions/results.jsonl", "overlay.png",
    ):  # fmt: skip
        assert (tmp_path / name).exists(), name
    predicted = (tmp_path / "predictions" / "results.jsonl").read_text().splitlines()
    assert len(predicted) == 3


@pytest.mark.slow
def test_the_reference_of_training(tmp_path):
    make_street_folder(tmp_path / "my_data", train=4, val=2, size=(96, 128))
    # The files of the first phase have all classes that count as hard: any of 21 is in a picture of 48 blocks.
    make_voc(tmp_path / "VOCdevkit" / "VOC2012", count=4, size=(64, 96))
    wild = "--optimizer sgd --lr 1e30 --clip 0 --warmup 0 --batch 2 --crop 64x64 --iterations 4 -o runs/wild"
    command = f"deeplab-train --config deeplabv3plus_mobilenetv2_streets --dataset folder --data my_data {wild}"
    assert "training has diverged" in run(shlex.split(command), tmp_path, "a batch that diverged", code=2)
    said = run_page("docs/training.md", tmp_path)
    second = next(text for line, text in said.items() if "paper-os8" in line)
    assert "batchnorm frozen" in second and "lr 0.001" in second
    assert (tmp_path / "diverged.png").exists() and (tmp_path / "mine.safetensors").exists()
    assert "contrast" in said["python"]


def table(page, heading):
    """Rows of the first table after a line that holds ``heading``, as cells without backticks."""
    lines = (ROOT / page).read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if heading in line)
    rows = []
    for line in lines[start:]:
        if line.startswith("|"):
            rows.append([cell.strip().replace("`", "") for cell in line.strip().strip("|").split("|")])
        elif rows:
            break
    return [rows[0], *rows[2:]]


def plain(value):
    return (
        "x".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def destinations():
    """Option -> its name in `TrainOptions`."""
    return {option: action.dest for action in train_options.build_parser()._actions for option in action.option_strings}


def test_the_table_of_recipes_is_the_code_s():
    header, *rows = table("docs/training.md", "## Recipes")
    assert header == ["option", *RECIPES]
    options = [TrainOptions(**values) for values in RECIPES.values()]
    names = destinations()
    for option, *cells in rows:
        field = names[option]
        assert [plain(getattr(one, field)) for one in options] == cells, option
    shown = {names[row[0]] for row in rows}
    assert {key for values in RECIPES.values() for key in values} <= shown, "a recipe sets what the table has not"
    assert {one.momentum for one in options} == {0.9} and {one.power for one in options} == {0.9}


def test_the_table_of_augmentations_is_the_code_s():
    header, *rows = table("docs/training.md", "### Augmentation")
    assert header[1:] == list(AUGMENTATIONS)
    cells = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}
    for name, one in AUGMENTATIONS.items():
        low, high = one.scales
        step = f" in steps of {one.scale_step:g}" if one.scale_step else ""
        assert cells["scale"][name] == (f"{low:g}" if low == high else f"{low:g} to {high:g}{step}")
        assert cells["mirrored"][name] == {0.5: "half", 0: "never"}[one.flip]
        assert cells["crop"][name].split(";")[0] == ("random" if one.random_position else "centre")
        assert (f"{one.crop_tries} times" in cells["crop"][name]) == (one.class_share < 1)
        assert ("as they are" in cells["colours"][name]) == (one.distortion == 0 and one.gain == (1, 1))
    assert "75 %" in cells["crop"]["reference"] and AUGMENTATIONS["reference"].class_share == 0.75
    assert cells["colours"]["streets"] == "gain 0.8 to 1.2, offset to 16"
    assert AUGMENTATIONS["streets"].gain == (0.8, 1.2) and AUGMENTATIONS["streets"].offset == (-16, 16)


def test_every_option_of_training_is_on_a_page():
    text = "".join((ROOT / page).read_text() for page in ("docs/training.md", "docs/finetune.md", "docs/datasets.md"))
    general = {"--help", "--version", "--verbose", "--quiet", "--output-dir"}
    # Of generated scenes, of COCO files, or of a checkpoint: --help has them.
    particular = {"--scenes", "--scene-size", "--val-scenes", "--val-size", "--annotations", "--val-annotations",
                  "--uncovered", "--trust-checkpoint", "--name", "--log-every", "--previews"}  # fmt: skip
    options = {option for option in destinations() if option.startswith("--")} - general - particular
    assert not sorted(option for option in options if not re.search(rf"{option}\b", text))


def test_the_pages_name_networks_that_exist():
    for page in ("docs/finetune.md", "docs/training.md"):
        for name in re.findall(r"\bdeeplabv3(?:plus)?_[\w-]+", (ROOT / page).read_text()):
            assert name in list_configs(), name
    for row in table("docs/finetune.md", "## 2. Choose")[1:]:
        for name in re.findall(r"deeplabv3plus_[\w-]+", row[1]):
            assert named_config(name).checkpoint, f"{name} has no official weights"


def test_quoted_messages_are_the_program_s():
    """The first column of "When something goes wrong": each quoted part is written somewhere in the sources."""
    sources = "\n".join(path.read_text() for path in (ROOT / "deeplab_infer").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)  # literals that are continued on the next line
    text = (ROOT / "docs/finetune.md").read_text()
    rows = text[text.index("## When something goes wrong") :].splitlines()
    quoted = [part for row in rows if row.startswith("| `") for part in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert len(quoted) > 8
    assert not [part for part in quoted if re.sub(r"\bchecked \w+ images", "checked {part} images", part) not in joined]
