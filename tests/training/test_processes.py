# SPDX-License-Identifier: Apache-2.0
"""Two processes on gloo train as one does, on the same samples."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from deeplab_infer.training.batchnorm import HostSyncBatchNorm, synchronise

from .runs import make_model

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]


def run(world, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*RUN, str(world), "-m", "tests.training.worker", json.dumps(options)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=ROOT,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.parametrize("mode", ["sync", "frozen"])
@pytest.mark.parametrize("average", ["all", "labelled"])
def test_two_processes_are_one_with_twice_the_batch(mode, average):
    options = {"batchnorm": mode, "loss_average": average, "iterations": 3, "optimizer": "sgd"}
    one = run(1, batch=4, **options)
    two = run(2, batch=2, **options)
    assert (one["world"], two["world"]) == (1, 2)
    assert two["counts"] == [2, 2, 2]
    # In float64 (pixels are normalised in float32 in both): sums in another order, grown by three updates.
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-9)
    for key, value in one["sums"].items():
        assert two["sums"][key] == pytest.approx(value, rel=1e-7, abs=1e-9), key


def test_synchronised_normalisation_alone_is_plain_normalisation(rng):
    x = torch.from_numpy(rng.normal(size=(3, 5, 4, 6)))
    plain, ours = nn.BatchNorm2d(5).double(), HostSyncBatchNorm(5).double()
    for training in (True, False):
        plain.train(training)
        ours.train(training)
        assert torch.equal(plain(x), ours(x))
    assert torch.equal(plain.running_var, ours.running_var)


def test_every_normalisation_is_replaced_and_keeps_its_weights():
    model = make_model()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    synchronise(model, torch.device("cpu"))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
