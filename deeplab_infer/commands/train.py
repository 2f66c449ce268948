# SPDX-License-Identifier: Apache-2.0
"""``deeplab-train``: train a network on the synthetic streets."""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..configs import load_config
from ..errors import DataError
from ..files import atomic_write, require_writable_dir
from .cli import make_console, make_parser, run_command

if TYPE_CHECKING:
    from ..data.scenes import InMemory
    from ..models import DeepLab

PROG = "deeplab-train"
_EPILOG = """\
example:
  deeplab-train --config deeplabv3plus_mobilenetv2_streets --iterations 2600 --scenes 500 --seed 0 -o runs/streets

Writes last.safetensors (float32), best.safetensors (float16, the best mIoU on held-out scenes) and log.jsonl.
exit code: 0 done, 2 wrong use or error (a diverged loss, a full disk), 130 interrupted
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = make_parser(PROG, "Train a DeepLabV3 or DeepLabV3+ on generated street scenes.", _EPILOG)
    parser.add_argument(
        "--config", required=True, metavar="NAME|FILE", help="a named config, .yaml or mmsegmentation .py"
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], dest="overrides", help="change a config field"
    )
    parser.add_argument("--init", metavar="FILE", help="start from this checkpoint (default: random weights)")
    parser.add_argument("--iterations", type=int, default=2000, help="optimiser steps (default: 2000)")
    parser.add_argument("--batch", type=int, default=8, help="crops a step (default: 8)")
    parser.add_argument("--crop", default="256x256", metavar="HxW", help="size of a crop (default: 256x256)")
    parser.add_argument("--optimizer", choices=("adamw", "sgd"), default="adamw", help="default: adamw")
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate after the warm-up (default: 0.003)")
    parser.add_argument("--warmup", type=int, default=150, help="steps of rising learning rate (default: 150)")
    parser.add_argument("--scenes", type=int, default=500, help="generated training scenes (default: 500)")
    parser.add_argument("--scene-size", default="320x640", metavar="HxW", help="of a training scene (default: 320x640)")
    parser.add_argument("--val-scenes", type=int, default=24, help="held-out scenes (default: 24)")
    parser.add_argument("--val-size", default="384x768", metavar="HxW", help="of a held-out scene (default: 384x768)")
    parser.add_argument("--eval-every", type=int, default=400, help="steps between evaluations (default: 400)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and crops (default: 0)")
    parser.add_argument("--device", default="cpu", help="torch device (default: cpu)")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--no-fused", action="store_true", help="plain torch instead of the fused kernels")
    parser.add_argument("-o", "--output-dir", default="runs/train", metavar="DIR", help="default: runs/train")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_command(PROG, build_parser(), _run, argv)


def _run(arguments: argparse.Namespace) -> int:
    import torch

    from ..data.scenes import HELD_OUT_SEED, InMemory, StreetScenes
    from ..training import TrainOptions, train

    config = load_config(arguments.config, arguments.overrides)
    options = TrainOptions(
        iterations=arguments.iterations,
        batch=arguments.batch,
        crop=parse_size(arguments.crop),
        optimizer=arguments.optimizer,
        lr=arguments.lr,
        warmup=arguments.warmup,
        seed=arguments.seed,
        device=arguments.device,
        fused=not arguments.no_fused,
    )
    if arguments.eval_every < 1:
        raise DataError(f"--eval-every must be at least 1, got {arguments.eval_every}")
    folder = require_writable_dir(arguments.output_dir)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model = _start(config, arguments)
    print(f"drawing {arguments.scenes} + {arguments.val_scenes} scenes", file=sys.stderr)
    scenes = InMemory(StreetScenes(arguments.scenes, *parse_size(arguments.scene_size)))
    held_out = InMemory(StreetScenes(arguments.val_scenes, *parse_size(arguments.val_size), HELD_OUT_SEED))
    journal = _Journal(model, held_out, folder, arguments)
    with journal.progress(options.iterations) as report:
        train(model, scenes, options, report)
    print(f"best mIoU on {len(held_out)} held-out scenes: {journal.best:.4f} ({folder / 'best.safetensors'})")
    return 0


def _start(config: Any, arguments: argparse.Namespace) -> DeepLab:
    from .. import checkpoints
    from ..models import build_model

    return checkpoints.load(arguments.init, config) if arguments.init else build_model(config)


class _Journal:
    """Evaluates now and then, writes the log and the checkpoints, drives the progress bar."""

    def __init__(self, model: DeepLab, held_out: InMemory, folder: Path, arguments: argparse.Namespace) -> None:
        self.model, self.held_out, self.folder, self.arguments = model, held_out, folder, arguments
        self.best = -1.0
        self.lines: list[str] = []
        self.losses: list[float] = []

    def progress(self, total: int) -> Any:
        """A context that shows a bar with time left and yields the function called after each step."""
        import contextlib

        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (SpinnerColumn(), TextColumn("{task.completed}/{task.total} {task.description}"))
        clock = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())

        @contextlib.contextmanager
        def context() -> Any:
            console = make_console(stderr=True, quiet=self.arguments.quiet)
            with Progress(*columns, *clock, console=console) as bar:
                task = bar.add_task("", total=total)
                yield self._reporter(total, lambda step, text: bar.update(task, completed=step, description=text))

        return context()

    def _reporter(self, total: int, show: Callable[[int, str], None]) -> Callable[[int, float], None]:
        def report(step: int, loss: float) -> None:
            self.losses.append(loss)
            recent = sum(self.losses[-50:]) / len(self.losses[-50:])
            show(step, f"loss {recent:.3f}, best mIoU {max(self.best, 0):.3f}")
            if step % self.arguments.eval_every == 0 or step == total:
                self._evaluate(step, recent)

        return report

    def _evaluate(self, step: int, loss: float) -> None:
        from ..checkpoints import save
        from ..evaluation import evaluate
        from ..training import predict_labels

        scores = evaluate(lambda image: predict_labels(self.model, image), self.held_out).scores()
        entry = {"step": step, "loss": loss, **scores.to_dict()}
        self.lines.append(json.dumps(entry))
        with atomic_write(self.folder / "log.jsonl", "w") as stream:
            stream.write("\n".join(self.lines) + "\n")
        record = {**_record(self.arguments), "step": step, "scores": scores.to_dict()}
        save(self.model, self.folder / "last.safetensors", record=record)
        if scores.miou > self.best:
            self.best = scores.miou
            save(self.model, self.folder / "best.safetensors", half=True, record=record)


def _record(arguments: argparse.Namespace) -> dict[str, Any]:
    """What made the weights: options, versions, machine."""
    import numpy
    import torch

    options = {key: value for key, value in vars(arguments).items() if key not in ("verbose", "quiet", "output_dir")}
    return {
        "command": PROG,
        "options": options,
        "versions": {"torch": torch.__version__, "numpy": numpy.__version__, "python": platform.python_version()},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }


def parse_size(text: str) -> tuple[int, int]:
    """``"384x768"`` as (height, width).

    Raises:
        DataError: not two positive integers.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise DataError(f"{text!r} is not a size like 384x768 (height x width)")
    return int(parts[0]), int(parts[1])


if __name__ == "__main__":
    sys.exit(main())
