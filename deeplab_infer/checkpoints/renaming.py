# SPDX-License-Identifier: Apache-2.0
"""Renaming state dicts by rules, and what several origins share."""

from __future__ import annotations

import re

import torch
from torch import Tensor

Rules = tuple[tuple[str, str], ...]


def rename(state: dict[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    """Each name through the first rule (pattern, replacement) that matches its start; other names stay."""
    compiled = [(re.compile(pattern), replacement) for pattern, replacement in rules]
    renamed = {}
    for key, value in state.items():
        for pattern, replacement in compiled:
            if pattern.match(key):
                key = pattern.sub(replacement, key, count=1)
                break
        renamed[key] = value
    return renamed


def pool_first(state: dict[str, Tensor], channels: int) -> dict[str, Tensor]:
    """Reorder the projection of an ASPP that concatenates its image pooling last; ours has it first."""
    key = "aspp.project.conv.weight"
    weight = state.get(key)
    if weight is None or weight.ndim != 4 or weight.shape[1] <= channels:
        return state
    return {**state, key: torch.cat([weight[:, -channels:], weight[:, :-channels]], 1)}


def count_units(state: dict[str, Tensor], prefix: str) -> tuple[int, ...]:
    """Residual units in each of the four stages of a ResNet whose names start with ``prefix``."""
    counts = []
    for stage in range(1, 5):
        pattern = re.compile(rf"{re.escape(prefix)}layer{stage}\.(\d+)\.")
        counts.append(len({found[1] for key in state if (found := pattern.match(key))}))
    return tuple(counts)


def resnet_depth(state: dict[str, Tensor], prefix: str) -> int | None:
    """Depth of a ResNet by its unit counts and block kind; None where it is none of ours."""
    bottleneck = f"{prefix}layer1.0.conv3.weight" in state
    depths: dict[tuple[tuple[int, ...], bool], int] = {
        ((2, 2, 2, 2), False): 18,
        ((3, 4, 6, 3), False): 34,
        ((3, 4, 6, 3), True): 50,
        ((3, 4, 23, 3), True): 101,
        ((3, 8, 36, 3), True): 152,
    }
    return depths.get((count_units(state, prefix), bottleneck))


def xception_depth(state: dict[str, Tensor], prefix: str) -> int | None:
    """Depth of an aligned Xception by its number of modules; None where it is none of ours."""
    pattern = re.compile(rf"{re.escape(prefix)}blocks[._](\d+)\.stack\.")
    modules = len({found[1] for key in state if (found := pattern.match(key))})
    return {13: 41, 21: 65, 23: 71}.get(modules)
