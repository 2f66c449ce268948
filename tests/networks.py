# SPDX-License-Identifier: Apache-2.0
"""Small networks with the statistics of a trained one, for tests that need one."""

import copy

import numpy as np
import torch

from deeplab_infer import build_model
from deeplab_infer.configs import load_config

STREETS = "deeplabv3plus_mobilenetv2_streets"


def make_network(name=STREETS, overrides=(), seed=0):
    torch.manual_seed(seed)
    model = build_model(load_config(name, overrides))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 2)
            with torch.no_grad():
                layer.weight.uniform_(0.6, 1.4)
                layer.bias.uniform_(-0.2, 0.2)
    return model.eval()


def random_images(batch, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def reference_logits(model, images, dtype=torch.float32):
    """Independent of the toolkit's preprocessing: float64 normalisation, then the network, computing in ``dtype``."""
    config = model.config
    pixels = images.astype(np.float64)
    if config.channel_order == "bgr":
        pixels = pixels[..., [2, 1, 0]]
    x = (pixels - np.array(config.mean)) / np.array(config.std)
    if dtype != torch.float32:
        model = copy.deepcopy(model).to(dtype)
    with torch.inference_mode():
        return model(torch.from_numpy(x.transpose(0, 3, 1, 2)).to(dtype)).numpy()
