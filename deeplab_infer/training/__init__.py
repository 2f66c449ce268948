# SPDX-License-Identifier: Apache-2.0
"""Training: options and recipes, the loop, a run's state."""

from .loop import Training, train
from .options import RECIPES, TrainOptions, recipe_options, train_options_note
from .processes import Processes, joined_processes
from .state import check_same_run, read_state, save_state

__all__ = [
    "RECIPES",
    "Processes",
    "TrainOptions",
    "Training",
    "check_same_run",
    "joined_processes",
    "read_state",
    "recipe_options",
    "save_state",
    "train",
    "train_options_note",
]
