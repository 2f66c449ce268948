# SPDX-License-Identifier: Apache-2.0
"""Small training runs that tests share."""

import torch

from deeplab_infer import build_model
from deeplab_infer.configs import load_config
from deeplab_infer.data.scenes import StreetScenes
from deeplab_infer.training import Training, TrainOptions

from ..networks import STREETS

SMALL = {"iterations": 6, "batch": 2, "crop": (64, 64), "warmup": 2, "lr": 1e-3}


def make_model(overrides=(), seed=0, name=STREETS):
    torch.manual_seed(seed)
    return build_model(load_config(name, overrides))


def make_training(model=None, scenes=3, state=None, processes=None, order=None, **options):
    model = make_model() if model is None else model
    return Training(
        model,
        StreetScenes(scenes, 64, 96),
        TrainOptions(**{**SMALL, **options}),
        state=state,
        processes=processes,
        order=order,
    )


def losses_of(training, until=None):
    found = []

    def after_step(result):
        found.append(result.loss)
        training.stop = training.progress.step == until

    training.run(after_step)
    return found


def same_tensors(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
