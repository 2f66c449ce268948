# SPDX-License-Identifier: Apache-2.0
"""Loading the peers beside a CPU build of torch; none of this is needed by the product."""

import importlib.util
import sys
import types

import numpy as np
import pytest
import torch

INSTALL = "`make parity` installs the peers and runs this"


def need(*packages):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed; {INSTALL}")


@pytest.fixture(scope="session")
def vision_operators():
    """torchvision's wheels are CUDA builds; its Python part imports once two of its operators are declared."""
    need("torchvision")
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


@pytest.fixture(scope="session")
def mmseg_models(vision_operators):
    """mmsegmentation's model registry, without mmcv's compiled extension."""
    need("mmseg", "mmengine", "mmcv")

    def missing(name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*arguments, **keywords):
            raise RuntimeError(f"mmcv._ext.{name} is not compiled")

        return call

    stub = types.ModuleType("mmcv._ext")
    stub.__getattr__ = missing
    sys.modules["mmcv._ext"] = stub
    import mmseg.models
    from mmengine.registry import init_default_scope

    del sys.modules["mmcv._ext"]
    init_default_scope("mmseg")
    return mmseg.models


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
