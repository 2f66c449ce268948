# SPDX-License-Identifier: Apache-2.0
"""The GPU machine's one command, rehearsed with stand-ins for Python and the driver's tools."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from deeplab_bench.command import build_parser

ROOT = Path(__file__).parents[2]
STEPS = (
    "build", "doctor", "tests", "kernels", "table", "train", "layers", "peers", "engine_models", "engines", "memcheck",
)  # fmt: skip
PYTHON = """#!/bin/sh
printf '%s\\n' "$*" >> "$CALLS"
case "$*" in *"$FAILS"*) echo "it failed"; exit 3;; esac
exit 0
"""


@pytest.fixture
def rehearse(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {
        "python": PYTHON,
        "nvidia-smi": "#!/bin/sh\nexit ${NO_GPU:-0}\n",
        "compute-sanitizer": '#!/bin/sh\nprintf "%s\\n" "sanitizer $*" >> "$CALLS"\n',
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    def run(**variables):
        environment = {
            **os.environ,
            "PATH": f"{folder}:{os.environ['PATH']}",
            "PYTHON": str(folder / "python"),
            "CALLS": str(tmp_path / "calls"),
            "FAILS": "nothing fails",
            **variables,
        }
        script = ["sh", str(ROOT / "scripts" / "gpu_check.sh"), str(tmp_path / "out")]
        done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False, timeout=60)
        calls = tmp_path / "calls"
        return done, calls.read_text().splitlines() if calls.exists() else []

    return run


def test_every_step_runs_and_its_benchmarks_have_options_that_exist(rehearse, tmp_path):
    done, calls = rehearse()
    assert done.returncode == 0, done.stdout + done.stderr
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert [line.partition(":")[0] for line in summary.splitlines()][: len(STEPS)] == list(STEPS)
    lines = [call.partition("deeplab_bench.command ")[2].split() for call in calls if "deeplab_bench" in call]
    assert {line[0] for line in lines} == {"kernels", "table", "train", "layers", "peers"}
    for line in lines:
        build_parser().parse_args(line)


def test_a_failure_is_shown_and_stops_nothing(rehearse, tmp_path):
    done, _ = rehearse(FAILS="-m pytest")
    assert done.returncode == 1
    assert "failed: tests" in done.stdout
    assert "it failed" in done.stdout
    assert "memcheck: exit 0" in (tmp_path / "out" / "summary.txt").read_text()


def test_what_there_is_no_time_for_is_said(rehearse, tmp_path):
    done, calls = rehearse(DEEPLAB_CHECK_SECONDS="200")
    assert done.returncode == 1
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert "tests: left out, no time" in summary
    assert "memcheck: exit 0" in summary
    assert not any("-m pytest" in call for call in calls)


def test_compiled_training_is_measured_only_with_the_time_that_is_left(rehearse, tmp_path):
    _, calls = rehearse()
    compiled = [call for call in calls if "plain+compiled" in call]
    assert len(compiled) == 1
    rehearse(DEEPLAB_CHECK_SECONDS="220")
    assert "train_compiled: skipped, less than 200 s" in (tmp_path / "out" / "summary.txt").read_text()


def test_without_a_gpu_nothing_is_started(rehearse):
    done, calls = rehearse(NO_GPU="9")
    assert done.returncode == 1
    assert "no NVIDIA GPU" in done.stdout
    assert calls == []


def test_packages_that_are_missing_are_skipped_aloud(rehearse):
    done, calls = rehearse(FAILS="import ")
    assert done.returncode == 0
    assert "peers: skipped, mmsegmentation cannot be imported" in done.stdout
    assert "engines: skipped" in done.stdout
    assert not any("check_engine" in call for call in calls)
