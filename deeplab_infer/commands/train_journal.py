# SPDX-License-Identifier: Apache-2.0
"""What a run leaves behind: logs, checkpoints, pictures."""

from __future__ import annotations

import csv
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from ..errors import DeepLabError
from ..files import atomic_write

if TYPE_CHECKING:
    from ..data.base import LabelledImages
    from ..evaluation import Scores
    from ..models import DeepLab
    from ..training import Training
    from ..training.step import StepResult

_log = logging.getLogger(__name__)
STATE = "state.pt"
# What --overwrite removes.
RUN_FILES = (STATE, "log.csv", "log.jsonl", "run.json", "best.safetensors", "last.safetensors")
RUN_FOLDERS = ("previews", "tensorboard")
_COLUMNS = ("step", "loss", "lr", "gradient_norm", "images_per_s", "memory_gib", "seconds")


class Journal:
    """Evaluates now and then, writes logs, checkpoints and pictures.

    Only the first of several processes writes; all evaluate their share.

    Attributes:
        folder: where everything goes.
        last_loss: mean since the last line of the log.
        best: highest mIoU so far; -1 before the first evaluation.
    """

    def __init__(
        self,
        training: Training,
        validation: LabelledImages | None,
        folder: Path,
        record: dict[str, Any],
        *,
        eval_every: int,
        log_every: int,
        previews: int,
        tensorboard: bool,
        say: Callable[[str], None],
    ) -> None:
        """Open the logs; those of a resumed run are cut to its step.

        Args:
            training: the run.
            validation: images to evaluate on, or None.
            folder: exists already.
            record: how the weights are made; goes into each checkpoint.
            eval_every, log_every: steps.
            previews: pictures an evaluation.
            tensorboard: also write TensorBoard's event files.
            say: prints a line.

        Raises:
            DeepLabError: TensorBoard is not installed.
        """
        self.training, self.validation, self.folder, self.record = training, validation, folder, record
        self.last_loss = math.nan
        self._eval_every, self._log_every, self._previews, self._say = eval_every, log_every, previews, say
        self._writes = training.processes.is_first
        self._losses: list[float] = []
        self._seconds = 0.0
        self._since = perf_counter()
        self._unsaved: OSError | None = None
        step = training.progress.step
        self._board: Any = _open_board(folder, step) if tensorboard and self._writes else None
        if self._writes:
            kept = _kept_rows(folder / "log.csv", step)
            self._seconds = float(kept[-1]["seconds"]) if kept else 0.0
            _write_rows(folder / "log.csv", kept)
        self._evaluations = _kept_entries(folder / "log.jsonl", step) if self._writes else []

    @property
    def best(self) -> float:
        """Highest mIoU so far."""
        return self.training.progress.best

    def after_step(self, result: StepResult) -> None:
        """Log, evaluate and save where it is time."""
        step = self.training.progress.step
        self._losses.append(result.loss)
        self.last_loss = sum(self._losses) / len(self._losses)
        if result.skipped:
            _log.info("step %d: fp16 overflowed, the update was left out", step)
        is_last = step == self.training.options.iterations
        if step % self._log_every == 0 or is_last:
            self._log(result)
        if step % self._eval_every == 0 or is_last:
            self.evaluate()
            self._since = perf_counter()

    def evaluate(self) -> Scores | None:
        """Evaluate, then save weights and state."""
        training = self.training
        network = training.network()
        scores = None
        if self.validation is not None:
            scores = _evaluate(network, self.validation, training)
            self._show_previews(network)
        is_best = scores is not None and scores.miou > training.progress.best
        if is_best:
            assert scores is not None
            training.progress.best = scores.miou
        if self._writes:
            self._note(scores)
            self._save(network, scores, is_best)
        return scores

    def save_state(self) -> None:
        """Write what a resumed run needs; a full disk is a warning, the run goes on and tries again later."""
        from ..training import save_state

        if not self._writes:
            return
        training = self.training
        self._try(lambda: save_state(self.folder / STATE, training.step, training.average, training.progress))

    def close(self) -> None:
        """End the logs.

        Raises:
            OSError: the last checkpoint could not be written.
        """
        if self._board is not None:
            self._board.close()
        if self._unsaved is not None:
            raise self._unsaved

    # -- logs

    def _log(self, result: StepResult) -> None:
        now, count = perf_counter(), len(self._losses)
        options, step = self.training.options, self.training.progress.step
        seconds = now - self._since
        self._seconds += seconds
        images = count * options.batch * options.accumulate * self.training.processes.world
        row = {
            "step": step,
            "loss": f"{self.last_loss:.6g}",
            "lr": f"{result.lr:.6g}",
            "gradient_norm": f"{result.gradient_norm:.6g}",
            "images_per_s": f"{images / seconds:.4g}" if seconds > 0 else "",
            "memory_gib": _memory(self.training),
            "seconds": f"{self._seconds:.1f}",
        }
        if self._writes:
            self._try(lambda: _append_row(self.folder / "log.csv", row))
            if self._board is not None:
                for name in ("loss", "lr", "gradient_norm", "images_per_s"):
                    if row[name]:
                        self._board.add_scalar(f"train/{name}", float(str(row[name])), step)
        self._say(
            f"step {step}/{options.iterations}  loss {row['loss']}  lr {row['lr']}  {row['images_per_s']} images/s"
        )
        self._losses.clear()
        self._since = now

    def _note(self, scores: Scores | None) -> None:
        step = self.training.progress.step
        entry: dict[str, Any] = {"step": step, "loss": self.last_loss}
        if scores is not None:
            entry |= scores.to_dict()
            self._say(f"step {step}: mIoU {scores.miou:.2%}, pixel accuracy {scores.aacc:.2%}, best {self.best:.2%}")
            if self._board is not None:
                for name in ("miou", "macc", "aacc"):
                    self._board.add_scalar(f"val/{name}", getattr(scores, name), step)
        if self.training.skipped:
            entry["skipped"] = self.training.skipped
        self._evaluations.append(entry)
        self._try(lambda: _write_entries(self.folder / "log.jsonl", self._evaluations))

    # -- checkpoints

    def _save(self, network: DeepLab, scores: Scores | None, is_best: bool) -> None:
        from ..checkpoints import save

        record = {**self.record, "step": self.training.progress.step}
        if scores is not None:
            record["scores"] = scores.to_dict()
        self._unsaved = None
        if is_best:
            self._try(lambda: save(network, self.folder / "best.safetensors", half=True, record=record))
        self._try(lambda: save(network, self.folder / "last.safetensors", record=record))
        self.save_state()

    def _try(self, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            if self._unsaved is None:
                _log.warning(
                    "cannot write to %s: %s; training goes on, files from before are whole, and the next evaluation "
                    "tries again: free some space",
                    self.folder,
                    error.strerror or error,
                )
            self._unsaved = error

    # -- pictures

    def _show_previews(self, network: DeepLab) -> None:
        if not self._previews or not self._writes or self.validation is None:
            return
        from ..evaluation import EvenlySpread

        chosen = EvenlySpread(self.validation, self._previews)
        folder = self.folder / "previews"
        step = self.training.progress.step

        def write() -> None:
            folder.mkdir(exist_ok=True)
            with _segmenter(network, self.training) as segmenter:
                for index in range(len(chosen)):
                    image, truth = chosen[index]
                    picture = _side_by_side(image, truth, segmenter.predict(image))
                    with atomic_write(folder / f"{index}_step_{step:06d}.jpg") as stream:
                        Image.fromarray(picture).save(stream, "JPEG", quality=90)
                    if self._board is not None:
                        self._board.add_image(f"preview/{index}", picture, step, dataformats="HWC")

        self._try(write)


def draw_samples(
    images: np.ndarray, labels: np.ndarray, palette: Any, ignore_index: int, columns: int | None = None
) -> np.ndarray:
    """Crops above their labels, ``columns`` side by side (default: all): uint8 [2 rows h, columns w, 3].

    Args:
        images: uint8 [N, h, w, 3].
        labels: uint8 [N, h, w].
        palette: a colour a class.
        ignore_index: drawn white.
        columns: the last row is filled up with black.
    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    table[ignore_index] = 255
    count, height, width = labels.shape
    columns = min(columns or count, count)
    pairs = np.zeros((-(-count // columns) * columns, 2 * height, width, 3), np.uint8)
    pairs[:count] = np.concatenate([images, table[labels]], 1)
    grid = pairs.reshape(-1, columns, 2 * height, width, 3).swapaxes(1, 2)
    return np.ascontiguousarray(grid).reshape(-1, columns * width, 3)


def _side_by_side(image: np.ndarray, truth: np.ndarray, result: Any) -> np.ndarray:
    """Image, true labels, prediction; at most 1536 pixels wide."""
    pair = np.stack([truth, result.labels.astype(np.uint8)])
    colours = draw_samples(np.stack([image, image]), pair, result.palette, 255)[image.shape[0] :]
    picture = np.concatenate([image, colours], 1)
    share = 1536 / picture.shape[1]
    # By area: a thin pole must not fall between the pixels that are kept.
    return picture if share >= 1 else cv2.resize(picture, None, fx=share, fy=share, interpolation=cv2.INTER_AREA)


def _segmenter(network: DeepLab, training: Training) -> Any:
    from ..segmenter import Segmenter

    return Segmenter(
        network,
        backend="torch",
        device=str(training.step.device),
        fused=training.options.fused,
        cuda_graphs=False,
    )


def _evaluate(network: DeepLab, validation: LabelledImages, training: Training) -> Scores:
    """Scores under the config's own test protocol, each process with its share of the images."""
    from ..data.subset import Subset
    from ..evaluation import ConfusionMatrix, evaluate

    share = Subset(validation, range(training.processes.rank, len(validation), training.processes.world))
    matrix = ConfusionMatrix(validation.spec.classes, validation.spec.ignore_index)
    if len(share):
        with _segmenter(network, training) as segmenter:
            found = evaluate(
                lambda image: segmenter.predict(image).labels, share, skip_unreadable=training.options.skip_limit
            )
        for name in found.unreadable:
            _log.warning("left out of the evaluation: %s", name)
        matrix = found.matrix
    matrix.counts = training.processes.add_counts(matrix.counts)
    return matrix.scores()


def _memory(training: Training) -> str:
    import torch

    if training.step.device.type != "cuda":
        return ""
    return f"{torch.cuda.max_memory_allocated(training.step.device) / 2**30:.2f}"


def _open_board(folder: Path, step: int) -> Any:
    """A writer whose files show nothing after the step from which a run goes on."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise DeepLabError(
            f"--tensorboard needs the tensorboard package ({error}); run: pip install 'deeplab-infer[tensorboard]'"
        ) from error
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def _kept_rows(path: Path, step: int) -> list[dict[str, str]]:
    """Lines of an earlier log up to a step."""
    if step == 0 or not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if row.get("step", "").isdigit() and int(row["step"]) <= step]


def _kept_entries(path: Path, step: int) -> list[dict[str, Any]]:
    if step == 0 or not path.is_file():
        return []
    entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [entry for entry in entries if entry["step"] <= step]


def _write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with atomic_write(path, "w") as stream:
        writer = csv.DictWriter(stream, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def _append_row(path: Path, row: dict[str, Any]) -> None:
    with open(path, "a", newline="", encoding="utf-8") as stream:
        csv.DictWriter(stream, _COLUMNS).writerow(row)


def _write_entries(path: Path, entries: list[dict[str, Any]]) -> None:
    with atomic_write(path, "w") as stream:
        stream.writelines(json.dumps(entry) + "\n" for entry in entries)
