# SPDX-License-Identifier: Apache-2.0
"""Loading the peers beside a CPU build of torch; none of this is needed by the product."""

import importlib.util

import numpy as np
import pytest
import torch
from deeplab_bench.peers.models.imports import import_mmseg_models, import_torchvision

INSTALL = "`make parity` installs the peers and runs this"


def need(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; {INSTALL}")


@pytest.fixture(scope="session")
def vision_operators():
    """torchvision, made importable beside a CPU build of torch."""
    need("torchvision")
    return import_torchvision()


@pytest.fixture(scope="session")
def mmseg_models(vision_operators):
    """mmsegmentation's model registry, without mmcv's compiled extension."""
    need("mmseg", "mmengine", "mmcv")
    return import_mmseg_models()


def randomise(module, seed=0):
    """Weights and statistics as a trained network has them; fresh ones would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            shape = layer.running_mean.shape
            layer.running_mean.copy_(torch.rand(shape, generator=generator) * 0.4 - 0.2)
            layer.running_var.copy_(torch.rand(shape, generator=generator) * 1.5 + 0.5)
            with torch.no_grad():
                layer.weight.copy_(torch.rand(shape, generator=generator) * 0.8 + 0.6)
                layer.bias.copy_(torch.rand(shape, generator=generator) * 0.4 - 0.2)
    return module.eval()


def assert_close(name, ours, theirs, limit=1e-4):
    """Largest difference over the range of the peer's output; printed, so that `pytest -s` shows the figures."""
    assert ours.shape == theirs.shape
    theirs = np.asarray(theirs, np.float64)
    difference = np.abs(np.asarray(ours, np.float64) - theirs).max() / (theirs.max() - theirs.min())
    print(f"PARITY {name}: {difference:.2e}")
    assert difference <= limit
