# SPDX-License-Identifier: Apache-2.0
"""Networks to measure: files, named configs, and random weights that behave like trained ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deeplab_infer.configs import ModelConfig
from deeplab_infer.data.synthetic_streets import generate_street
from deeplab_infer.preprocess import normalise

if TYPE_CHECKING:
    from deeplab_infer.models import DeepLab

RANDOM = "random:"
SCENE = 1  # the street that is measured, and to which random weights are fitted
_SIZE = (256, 512)


def load_model(text: str) -> Any:
    """What `Segmenter` takes: the text itself, or a network of random weights for ``random:NAME``."""
    if not text.startswith(RANDOM):
        return text
    from deeplab_infer.configs import load_config

    return random_network(load_config(text.removeprefix(RANDOM)), *generate_street(SCENE, *_SIZE))


def random_network(config: ModelConfig, image: NDArray[np.uint8], labels: NDArray[np.uint8], seed: int = 0) -> DeepLab:
    """A network with random weights that are fitted to one scene, see `make_lifelike`.

    Args:
        config: of the network.
        image: uint8 [H, W, 3] RGB, at the network's input size.
        labels: uint8 [H, W].
        seed: of the weights; the process's random state stays as it is.
    """
    import torch

    from deeplab_infer.models import build_model

    from .lifelike import make_lifelike

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = build_model(config).eval()
        make_lifelike(model, model.classifier, model, torch.from_numpy(normalise(image[None], config)), labels)
    return model
