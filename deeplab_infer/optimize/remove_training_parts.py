# SPDX-License-Identifier: Apache-2.0
"""What only training needs, removed: the auxiliary head and dropout."""

from __future__ import annotations

import copy

from torch import nn

from ..models import DeepLab


def remove_training_parts(model: DeepLab) -> DeepLab:
    """A copy of an eval-mode network without auxiliary head and dropout, whose weights and calls are gone.

    Raises:
        ValueError: the network is in training mode.
    """
    if model.training:
        raise ValueError("remove_training_parts needs a network in eval mode; call model.eval() first")
    bare = copy.deepcopy(model, {id(getattr(model, "auxiliary", None)): None})  # weights that go are not copied
    bare.auxiliary = None
    for module in list(bare.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout | nn.Dropout2d):
                setattr(module, name, nn.Identity())
    return bare


def why_nothing_to_remove(model: DeepLab) -> str:
    """Why `remove_training_parts` changes nothing; empty where it does."""
    if getattr(model, "auxiliary", None) is not None:
        return ""
    if any(isinstance(layer, nn.Dropout | nn.Dropout2d) for layer in model.modules()):
        return ""
    return "no auxiliary head and no dropout"
