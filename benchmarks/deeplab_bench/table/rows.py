# SPDX-License-Identifier: Apache-2.0
"""Rows of the published table as things to measure: sizes, weights, exported files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from deeplab_infer.configs import ModelConfig, ReferenceRow, load_config
from deeplab_infer.data.synthetic_streets import generate_street
from deeplab_infer.errors import BackendError
from deeplab_infer.preprocess import Size, network_size
from deeplab_infer.runtime.windows import place_windows

from ..work.image_sizes import IMAGE_SIZES
from .paths import RunPath

_MOST_WINDOWS = 8  # at once
_FIRST = ("R-50-D8", "R-101-D8", "R-18-D8")


def network_of(row: ReferenceRow) -> tuple[object, ...]:
    """What decides a row's speed and memory: rows that differ in the schedule only share a measurement."""
    return (row.method, row.backbone, row.dataset, row.network_input, row.test_mode, row.fp16, row.crop)


def order_of_worth(rows: list[ReferenceRow]) -> list[ReferenceRow]:
    """One row a network, the ones to measure first in front: R-18, R-50 and R-101 at 1024x2048, then printed fps."""

    def worth(row: ReferenceRow) -> tuple[bool, bool]:
        first = row.backbone in _FIRST and row.network_input == (1024, 2048) and not row.fp16
        return (not first, row.fps is None)

    found: dict[tuple[object, ...], ReferenceRow] = {}
    for row in sorted(rows, key=worth):
        found.setdefault(network_of(row), row)
    return list(found.values())


@dataclass(frozen=True)
class Workload:
    """One row at one scale, with a folder for its files.

    Attributes:
        row: of the published table.
        scale: 1 for the row's own sizes; a CPU takes a fraction, of image, limits, window and stride alike.
        folder: for weights, labels and exported files.
        checkpoints: folder with official checkpoint files, or None for random weights.
    """

    row: ReferenceRow
    scale: float
    folder: Path
    checkpoints: Path | None = None

    @cached_property
    def config(self) -> ModelConfig:
        """The row's config at this scale."""
        config = load_config(self.row.name)
        if self.scale == 1:
            return config
        limits = config.test_scale
        changed: dict[str, object] = {"test_scale": limits and self._scaled(limits)}
        if config.test_mode == "slide":
            assert config.window is not None and config.window_stride is not None
            changed |= {"window": self._scaled(config.window), "window_stride": self._scaled(config.window_stride)}
        return config.replace(**changed)

    @property
    def image_size(self) -> Size:
        """Of the image, before the network's resize."""
        return self._scaled(IMAGE_SIZES[self.row.dataset])

    @property
    def input_size(self) -> Size:
        """Of one forward pass: the resized image, or a window."""
        if self.config.test_mode == "slide":
            size = network_size(*self.image_size, self.config.test_scale)
            return place_windows(*size, self.config.window, self.config.window_stride)[0].size  # type: ignore[arg-type]
        return network_size(*self.image_size, self.config.test_scale)

    @property
    def windows(self) -> int:
        """Forward passes an image."""
        if self.config.test_mode != "slide":
            return 1
        size = network_size(*self.image_size, self.config.test_scale)
        return len(place_windows(*size, self.config.window, self.config.window_stride))  # type: ignore[arg-type]

    @property
    def labels_file(self) -> Path:
        """Image and float32 labels, written by the reference's measurement."""
        return self.folder / "labels.npz"

    def weights(self) -> Path:
        """A checkpoint of the row's network: the official one where there is a folder of them, else random weights.

        Raises:
            CheckpointError: the official file is not in the folder, or does not fit.
        """
        path = self.folder / "weights.safetensors"
        if path.exists():
            return path
        from deeplab_infer import checkpoints
        from deeplab_infer.checkpoints.ours import save_checkpoint

        from ..networks.load import SCENE, random_network

        self.folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoints is None:
            # Fitted at half the size: a quarter of the work for the same statistics.
            height, width = (max(64, side // 2) for side in self.input_size)
            model = random_network(self.config, *generate_street(SCENE, height, width))
        else:
            official = self.checkpoints / self.row.checkpoint_url.rpartition("/")[2]
            model = checkpoints.load(official, self.config)
        save_checkpoint(model, path)
        return path

    def exported(self, path: RunPath) -> Path:
        """The file that a path runs, made with deeplab-export as a user makes it; the checkpoint where it needs none.

        Raises:
            BackendError: the export failed; the sentence is its last.
        """
        if not path.file:
            return self.weights()
        suffix = {"onnx": ".onnx", "engine": ".engine", "openvino": ".xml"}[path.file]
        name = f"{path.precision}_{path.file}"
        made = self.folder / f"{name}{suffix}"
        if made.exists():
            return made
        height, width = self.input_size
        windows = min(self.windows, _MOST_WINDOWS)
        command = [sys.executable, "-m", "deeplab_export.command", "--checkpoint", str(self.weights())]
        command += ["--precision", path.precision, "--format", path.file, "--no-verify", "--force", "-q"]
        command += ["--height", str(height), "--width", str(width), "-o", str(self.folder), "--name", name]
        command += ["--batch", "1" if windows == 1 else f"1:{windows}:{windows}"]
        command += ["--calibration-images", "2"] if path.precision == "int8" else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or not made.exists():
            said = (done.stderr or done.stdout).strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
            raise BackendError(f"deeplab-export failed: {said[0]}")
        return made

    def clear(self) -> None:
        """Remove the row's files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _scaled(self, size: Size) -> Size:
        """Odd sizes stay odd: with align_corners a side has a whole number of steps, and one end."""
        if self.scale == 1:
            return size
        first, second = (max(32, round((side - side % 2) * self.scale)) + side % 2 for side in size)
        return first, second
