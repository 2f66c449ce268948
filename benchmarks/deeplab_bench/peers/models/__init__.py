# SPDX-License-Identifier: Apache-2.0
"""Other projects' DeepLab, built and used as their users do.

Runs in the environment of those projects: nothing here may import `deeplab_infer`, which need not be installed there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import PeerModel

# peer -> (distribution, module that is imported first)
PEERS = {
    "mmsegmentation": ("mmsegmentation", "mmseg"),
    "smp": ("segmentation_models_pytorch", "segmentation_models_pytorch"),
    "torchvision": ("torchvision", "torchvision"),
}


def build(peer: str, network: str, device: str) -> PeerModel:
    """A network of a peer with random weights, in eval mode.

    Args:
        peer: one of `PEERS`.
        network: as that peer calls it: a config's name (mmsegmentation), ``ARCHITECTURE:ENCODER`` (smp), or the
            builder's name (torchvision).
        device: ``"cpu"`` or ``"cuda"``.

    Raises:
        ImportError: the peer is not installed, or cannot be imported here.
        ValueError: the peer has no such network.
    """
    module = importlib.import_module(f".{peer}", __package__)
    made: PeerModel = module.build(network, device)
    return made
