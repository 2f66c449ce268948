# SPDX-License-Identifier: Apache-2.0
"""Folding changes nothing that comes out."""

import pytest
import torch

from deeplab_infer import build_model
from deeplab_infer.configs import load_config
from deeplab_infer.optimize import fold_batchnorm

NAMES = [
    "deeplabv3plus_r18-d8_4xb2-80k_cityscapes-512x1024",
    "deeplabv3plus_r50b-d8_4xb2-80k_cityscapes-512x1024",
    "deeplabv3_resnet50-beta_block5",
    "deeplabv3plus_xception65",
    "deeplabv3plus_mobilenetv2_streets",
]


@pytest.mark.parametrize("name", NAMES)
def test_same_logits_in_float64_without_normalisation(name):
    torch.manual_seed(0)
    model = build_model(load_config(name, ["separable_bn=after"] if "streets" in name else [])).double()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.1, 3)
            with torch.no_grad():
                layer.weight.uniform_(-1.5, 1.5)
                layer.bias.uniform_(-0.5, 0.5)
    model.eval()
    folded = fold_batchnorm(model)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    x = torch.randn(1, 3, 49, 65, dtype=torch.float64)
    with torch.inference_mode():
        expected, found = model(x), folded(x)
    assert (found - expected).abs().max() <= 1e-10 * (expected.max() - expected.min())


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="eval mode"):
        fold_batchnorm(build_model("deeplabv3plus_mobilenetv2_streets"))
