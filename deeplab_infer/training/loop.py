# SPDX-License-Identifier: Apache-2.0
"""The training loop: iteration-based, the same for a seed, resumable at any step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch

from ..data.base import LabelledImages
from ..data.loading import Batch, TrainingBatches
from ..data.transforms import Augmentation, named_augmentation
from ..errors import DataError
from ..models import DeepLab, build_model
from .ema import WeightAverage
from .failures import diverged, is_out_of_memory, out_of_memory
from .options import TrainOptions
from .processes import Processes, torch_device
from .state import Progress, restore_random_state, restore_state
from .step import NotFinite, StepResult, TrainingStep

_log = logging.getLogger(__name__)


class Training:
    """A run: a network, its data and how far it has come.

    Attributes:
        options: how it trains.
        step: the network that trains, its optimiser and scaler.
        average: running average of the weights, or None.
        progress: steps done and best mIoU so far.
        skipped: files that could not be read, and why.
        stop: set it to end the run after the step that is being made.
    """

    def __init__(
        self,
        model: DeepLab,
        dataset: LabelledImages,
        options: TrainOptions,
        *,
        augmentation: Augmentation | None = None,
        order: Sequence[int] | None = None,
        processes: Processes | None = None,
        state: dict[str, Any] | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            model: the network; it trains in place. Its classes must be those of the data set.
            dataset: images with labels.
            options: see `TrainOptions`.
            augmentation: of crops; None is the one that the options name, for the network's config.
            order: positions in the data set that make an epoch (see `hard_class_order`); None for each once.
            processes: those that train together; each gives ``options.batch`` crops to a step.
            state: what `read_state` read, to go on from there.
            data: what the state says of the data.

        Raises:
            DataError: the classes differ, or the device is not there.
        """
        check_classes(model, dataset, options)
        self.options, self.dataset = options, dataset
        self.processes = processes or Processes()
        self._augmentation = augmentation or named_augmentation(options.augmentation, model.config)
        self._order = order
        device = torch_device(options.device, self.processes.local)
        self.average = WeightAverage(model.to(device), options.ema) if options.ema else None
        self.step = TrainingStep(model, options, device, self.processes)
        self.progress = Progress(data=data or {})
        self.skipped: dict[str, str] = {}
        self.stop = False
        self._random_state: Callable[[], object] | None = lambda: torch.manual_seed(options.seed + self.processes.rank)
        if state is not None:
            self.progress = restore_state(state, self.step, self.average)
            self._random_state = lambda: restore_random_state(state, device)

    def network(self) -> DeepLab:
        """A copy of the network to evaluate and save, in eval mode: the running average where there is one."""
        source = self.step.model if self.average is None else self.average.model
        network = build_model(source.config)
        network.load_state_dict(source.state_dict())
        network.checkpoint_source = f"step {self.progress.step} of a training run"
        return network.eval()

    def run(self, after_step: Callable[[StepResult], None] | None = None) -> None:
        """Train from where the run is to its end, or until `stop`.

        Args:
            after_step: called after each step; `progress.step` counts it already.

        Raises:
            Diverged: the loss stopped being a number; the weights are those before that step.
            OutOfMemory: a step did not fit; the message says what would make it smaller.
            DataError: too many files cannot be read, or a process that cuts crops died.
        """
        options = self.options
        # At the start of the run: whatever its caller has drawn since must not change it.
        if self._random_state is not None:
            self._random_state()
            self._random_state = None
        with self._batches() as batches:
            source = iter(batches)
            while self.progress.step < options.iterations and not self.processes.any(self.stop):
                result = self._one(_take(source, options.accumulate))
                self.progress.step += 1
                self.skipped = batches.skipped
                if self.average is not None:
                    self.average.update(self.step.model)
                if after_step is not None:
                    after_step(result)

    def first_batch(self) -> Batch:
        """The crops of the next step, to look at."""
        with self._batches(workers=0) as batches:
            return next(iter(batches))

    def _batches(self, workers: int | None = None) -> TrainingBatches:
        options, processes = self.options, self.processes
        return TrainingBatches(
            self.dataset,
            self._augmentation,
            options.crop,
            options.batch,
            seed=options.seed,
            steps=options.iterations * options.accumulate,
            start=self.progress.step * options.accumulate,
            rank=processes.rank,
            world=processes.world,
            workers=options.workers if workers is None else workers,
            order=self._order,
            skip_limit=options.skip_limit,
            pin_memory=self.step.device.type == "cuda",
        )

    def _one(self, batches: list[Batch]) -> StepResult:
        step = self.progress.step
        try:
            return self.step(batches, step)
        except NotFinite as error:
            raise diverged(error.value, error.batch, step + 1, self.options) from error
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise out_of_memory(error, self.options) from error
            raise


def check_classes(model: DeepLab, dataset: LabelledImages, options: TrainOptions) -> None:
    """Refuse data or weights of other classes than the network's.

    Raises:
        DataError: their number differs.
    """
    count, found = model.config.num_classes, len(dataset.spec.classes)
    if count != found:
        raise DataError(
            f"config {model.config.name!r} has {count} classes, dataset {dataset.spec.name!r} has {found}; "
            f"use --set num_classes={found}"
        )
    weights = len(options.class_weights)
    if weights not in (0, count):
        raise DataError(f"class_weights has {weights} values for {count} classes")


def train(
    model: DeepLab,
    dataset: LabelledImages,
    options: TrainOptions,
    report: Callable[[int, float], None] | None = None,
) -> DeepLab:
    """Train a network in place; `Training` is the form with more say.

    Args:
        model: the network; its classes must be those of the dataset.
        dataset: images with labels.
        options: see `TrainOptions`.
        report: called after each step with (steps done, loss).

    Returns:
        The same network, in eval mode; with ``options.ema`` it has the averaged weights.

    Raises:
        DataError: classes differ, the loss stopped being a number, or memory is full.
    """
    training = Training(model, dataset, options)

    def after_step(result: StepResult) -> None:
        if report is not None:
            report(training.progress.step, result.loss)

    training.run(after_step)
    if training.average is not None:
        model.load_state_dict(training.average.model.state_dict())
    return model.eval()


def _take(source: Iterator[Batch], count: int) -> list[Batch]:
    return list(islice(source, count))
