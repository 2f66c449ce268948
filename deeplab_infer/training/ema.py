# SPDX-License-Identifier: Apache-2.0
"""A running average of the weights, which is evaluated and saved in their place."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from ..models import DeepLab


class WeightAverage:
    """Exponential moving average of a network's weights.

    Running statistics of batch normalisation are copied, not averaged: they are averages already.
    """

    def __init__(self, model: DeepLab, decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self.model = copy.deepcopy(model).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, model: DeepLab) -> None:
        """Take one step's weights in; the first steps weigh more, so that random weights are soon forgotten."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        mine = [p.data for p in self.model.parameters()]
        theirs = [p.data for p in model.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - decay)
        for buffer, other in zip(self.model.buffers(), model.buffers(), strict=True):
            buffer.copy_(other)

    def state_dict(self) -> dict[str, Tensor | int]:
        """Tensors by name and the count of steps."""
        return {"steps": self._steps, **self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Go on from `state_dict`."""
        tensors = {key: value for key, value in state.items() if key != "steps"}
        self._steps = int(state["steps"])
        self.model.load_state_dict(tensors)
