# SPDX-License-Identifier: Apache-2.0
"""``deeplab-train``: train or fine-tune a network."""

from __future__ import annotations

import argparse
import contextlib
import logging
import platform
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ..configs import ModelConfig, load_config
from ..errors import DataError
from ..files import atomic_write, require_writable_dir
from ..signals import handling
from .cli import INTERRUPTED, make_console, run_command
from .train_data import TrainingData, adopt_classes, check_data, class_weights, open_data
from .train_journal import RUN_FILES, RUN_FOLDERS, STATE, Journal, draw_samples
from .train_options import PROG, build_parser, check_arguments, train_options

if TYPE_CHECKING:
    from ..models import DeepLab
    from ..training import Processes, Training, TrainOptions
    from ..training.step import StepResult

_log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(PROG, build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    import torch

    from ..training import joined_processes

    check_arguments(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with joined_processes(arguments.device) as processes:
        if not processes.is_first:
            arguments.quiet = True
            logging.getLogger("deeplab_infer").setLevel(logging.ERROR)
        return _run_here(arguments, processes)


def _run_here(arguments: argparse.Namespace, processes: Processes) -> int:
    import torch

    from ..training import Training, train_options_note
    from ..training.options import default_recipe

    named = load_config(arguments.config, arguments.overrides)
    if arguments.output_stride:
        named = named.with_output_stride(arguments.output_stride)
    # What can be wrong with the options is said before scenes are drawn or images read.
    train_options(arguments, named, arguments.recipe, 0, ())
    folder = _output_folder(arguments, processes)
    data = open_data(arguments, named)
    config = adopt_classes(named, data, arguments.name, arguments.overrides)
    recipe = arguments.recipe
    if recipe == "auto":
        recipe = default_recipe(named) if config.classes == named.classes else "finetune"
    notes = _start_notes(arguments, recipe)
    weights = class_weights(arguments.class_weights, data, arguments.quiet)
    options = train_options(arguments, named, recipe, data.workers, weights)
    checked = check_data(data, arguments.check, arguments.quiet) if processes.is_first else {}
    state = _read_state(arguments, folder, config, options, data)
    torch.manual_seed(arguments.seed)
    model = _start(config, named, arguments)
    training = Training(
        model, data.training, options, order=data.order, processes=processes, state=state, data=data.description
    )
    record = _record(arguments, options, recipe, config, data, checked, processes)
    if processes.is_first and not arguments.quiet:
        notes += train_options_note(config, options, processes.world)
        _show_plan(record, data, training, notes)
    if arguments.dry_run:
        return _dry_run(training, folder, arguments)
    return _train(training, data, folder, record, arguments)


def _start_notes(arguments: argparse.Namespace, recipe: str) -> list[str]:
    """Where the start and the recipe are seldom meant together."""
    if arguments.resume:
        return []
    if recipe == "finetune" and not arguments.init:
        return ["note: the recipe finetune, but no --init: it starts from random weights"]
    if arguments.init and arguments.recipe == "auto" and recipe != "finetune":
        return [f"note: the rates of recipe {recipe} are for a new network; for one trained before: --recipe finetune"]
    return []


def _output_folder(arguments: argparse.Namespace, processes: Processes) -> Path:
    folder = require_writable_dir(arguments.output_dir)
    found = folder / STATE
    processes.wait()
    if found.exists() and not (arguments.resume or arguments.overwrite or arguments.dry_run):
        raise DataError(
            f"{folder} holds a run already; add --resume to go on with it, --overwrite to discard it, or choose "
            "another --output-dir"
        )
    processes.wait()
    if arguments.overwrite and processes.is_first:
        for name in RUN_FILES:
            (folder / name).unlink(missing_ok=True)
        for name in RUN_FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
    return folder


def _read_state(
    arguments: argparse.Namespace, folder: Path, config: ModelConfig, options: TrainOptions, data: TrainingData
) -> dict[str, Any] | None:
    from ..training import check_same_run, read_state

    if not arguments.resume:
        return None
    path = folder / STATE
    content = read_state(path)
    check_same_run(content, config, options, data.description, str(path))
    return content


def _start(config: ModelConfig, named: ModelConfig, arguments: argparse.Namespace) -> DeepLab:
    from .. import checkpoints
    from ..models import build_model

    if not arguments.init or arguments.resume:
        return build_model(config)
    source = arguments.init
    if source == "auto":
        if not named.checkpoint:
            raise DataError(f"config {named.name!r} has no official weights; give --init FILE, or leave it out")
        source = named.checkpoint
    return checkpoints.load(
        source, config, trust=arguments.trust_checkpoint, progress=not arguments.quiet, other_classes=True
    )


def _train(
    training: Training, data: TrainingData, folder: Path, record: dict[str, Any], arguments: argparse.Namespace
) -> int:
    options = training.options
    every = arguments.eval_every or max(1, options.iterations // 10)
    with _progress(training, arguments) as (show, say):
        journal = Journal(
            training,
            data.validation,
            folder,
            record,
            eval_every=every,
            log_every=arguments.log_every,
            previews=arguments.previews,
            tensorboard=arguments.tensorboard,
            say=say,
        )
        if training.processes.is_first:
            _write_json(folder / "run.json", record)

        def after_step(result: StepResult) -> None:
            journal.after_step(result)
            show(journal)

        with _stopped_by_signals(training):
            _run_to_the_end(training, journal, after_step, folder)
        journal.close()
    if training.progress.step < options.iterations:
        print(f"stopped at step {training.progress.step}; --resume goes on from there", file=sys.stderr)
        return INTERRUPTED
    if training.processes.is_first:
        best = "no evaluation" if journal.best < 0 else f"best mIoU on {len(data.validation or ())} held-out images: "
        best += "" if journal.best < 0 else f"{journal.best:.4f} ({folder / 'best.safetensors'})"
        print(best if journal.best >= 0 else f"{best}; weights: {folder / 'last.safetensors'}")
    return 0


def _run_to_the_end(
    training: Training, journal: Journal, after_step: Callable[[StepResult], None], folder: Path
) -> None:
    """Train; whatever ends it early, what was reached is saved."""
    from ..training.failures import Diverged, OutOfMemory, save_batch

    try:
        training.run(after_step)
    except Diverged as error:
        path = save_batch(folder / f"diverged_step_{training.progress.step + 1}.npz", error.batch)
        raise DataError(f"{error}. The batch is in {path}: {', '.join(error.batch.names)}") from error
    except OutOfMemory:
        raise
    except DataError:
        # Files or a process that reads them: the network is whole, at the end of its last step.
        journal.save_state()
        raise
    if training.progress.step < training.options.iterations:
        journal.save_state()


@contextlib.contextmanager
def _stopped_by_signals(training: Training) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run after its step; the second one at once."""

    def stop(number: int, frame: Any) -> None:
        if training.stop:
            raise KeyboardInterrupt
        training.stop = True

    with handling(stop, signal.SIGINT, signal.SIGTERM):
        yield


@contextlib.contextmanager
def _progress(
    training: Training, arguments: argparse.Namespace
) -> Iterator[tuple[Callable[[Journal], None], Callable[[str], None]]]:
    """A bar with time left on a terminal, lines elsewhere."""
    console = make_console(stderr=True, quiet=arguments.quiet)
    if not console.is_terminal:
        yield lambda journal: None, lambda text: console.print(text, highlight=False, markup=False)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (BarColumn(20), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(
        *columns, TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=True), console=console
    ) as bar:
        task = bar.add_task("", total=training.options.iterations, completed=training.progress.step)

        def show(journal: Journal) -> None:
            text = f"loss {journal.last_loss:.3f}" + (f", best mIoU {journal.best:.3f}" if journal.best >= 0 else "")
            bar.update(task, completed=training.progress.step, description=text)

        yield show, lambda text: bar.console.print(text, highlight=False, markup=False) if "mIoU" in text else None


def _dry_run(training: Training, folder: Path, arguments: argparse.Namespace) -> int:
    """One step, timed, and a picture of its crops."""
    import numpy as np
    from PIL import Image

    batch = training.first_batch()
    config = training.step.model.config
    picture = draw_samples(
        batch.images.numpy(), batch.labels.numpy(), np.asarray(config.palette), config.dataset.ignore_index, columns=4
    )
    if training.processes.is_first:
        with atomic_write(folder / "dry_run.png") as stream:
            Image.fromarray(picture).save(stream, "PNG")
    seconds: list[float] = []

    def after_step(result: StepResult) -> None:
        seconds.append(perf_counter() - started)
        training.stop = True
        print(f"one step: loss {result.loss:.4f}, {seconds[0]:.2f} s, the first one slower than later ones")

    started = perf_counter()
    training.run(after_step)
    if training.step.device.type == "cuda":
        import torch

        print(f"peak memory: {torch.cuda.max_memory_allocated(training.step.device) / 2**30:.2f} GiB")
    print(f"crops as the network sees them: {folder / 'dry_run.png'}")
    return 0


def _show_plan(record: dict[str, Any], data: TrainingData, training: Training, notes: Sequence[str]) -> None:
    model, options = training.step.model, record["options"]
    parameters = sum(p.numel() for p in model.parameters())
    held_out = "no evaluation" if data.validation is None else f"{len(data.validation)} to evaluate"
    lines = [
        f"network: {model.config.name}, {parameters / 1e6:.1f} M parameters, {model.config.num_classes} classes",
        f"data: {data.source}, {len(data.training)} images to train, {held_out}",
        f"start: {record['init'] or 'random weights'}",
        *(f"checked {part}: {_found(report)}" for part, report in record["checked"].items()),
        f"recipe {record['recipe']}: "
        + ", ".join(f"{k} {_plain(v)}" for k, v in options.items() if k not in _NOT_SHOWN),
        f"device: {training.step.device}, {training.processes.world} process(es)",
        *notes,
    ]
    for line in lines:
        print(line, file=sys.stderr)


def _found(report: dict[str, Any]) -> str:
    """A data set's report in a line."""
    sizes = ", ".join(f"{size['height']}x{size['width']} ({size['images']})" for size in report["sizes"][:3])
    absent = [one["name"] for one in report["classes"] if not one["pixels"]]
    without = f"; without {', '.join(absent[:6])}" + (", ..." if len(absent) > 6 else "") if absent else ""
    return f"{report['checked']} of {report['images']} images, height x width {sizes}{without}"


_NOT_SHOWN = ("device", "class_weights", "workers", "skip_limit", "power", "momentum", "nesterov", "ohem_threshold")


def _plain(value: Any) -> str:
    return (
        "x".join(map(str, value))
        if isinstance(value, list)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _record(
    arguments: argparse.Namespace,
    options: TrainOptions,
    recipe: str,
    config: ModelConfig,
    data: TrainingData,
    checked: dict[str, Any],
    processes: Processes,
) -> dict[str, Any]:
    """What makes the weights: options, data, versions, machine."""
    import numpy
    import torch

    from .. import __version__

    init = Path(arguments.init).name if arguments.init else None
    return {
        "command": PROG,
        "config": config.name,
        "init": init,
        "recipe": recipe,
        "options": options.to_dict(),
        "data": data.description,
        "checked": checked,
        "processes": processes.world,
        "versions": {
            "deeplab-infer": __version__,
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "python": platform.python_version(),
        },
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    import json

    with atomic_write(path, "w") as stream:
        json.dump(content, stream, indent=1)
        stream.write("\n")


if __name__ == "__main__":
    sys.exit(main())
