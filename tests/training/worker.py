# SPDX-License-Identifier: Apache-2.0
"""One of the processes of tests/training/test_processes.py; prints its losses and what its weights add up to."""

import json
import sys

import torch

from deeplab_infer.training import joined_processes
from tests.training.runs import losses_of, make_model, make_training


def main():
    options = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    with joined_processes("cpu") as processes:
        training = make_training(make_model(["dropout=0"]).double(), processes=processes, scenes=4, **options)
        losses = losses_of(training)
        state = training.step.model.state_dict()
        sums = {key: value.double().abs().sum().item() for key, value in state.items()}
        counts = processes.add_counts(torch.ones(3, dtype=torch.int64).numpy()).tolist()
        if processes.is_first:
            print(json.dumps({"losses": losses, "sums": sums, "counts": counts, "world": processes.world}))


main()
