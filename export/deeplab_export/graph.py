# SPDX-License-Identifier: Apache-2.0
"""What is traced: the network between an image and its logits or labels, as one explicit module."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from deeplab_infer.errors import ExportError
from deeplab_infer.models import DeepLab
from deeplab_infer.models.blocks import resize
from deeplab_infer.optimize import REWRITES, optimise, unfuse

MAX_UINT8_CLASSES = 256
# Half precision and the placing of Q/DQ expect convolutions without normalisation behind them.
ALWAYS_REWRITTEN = ("remove_training_parts", "fold_batchnorm")

Range = tuple[int, int, int]


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of the exported file.

    Attributes:
        input: ``"uint8"`` [N, H, W, 3] RGB, normalised inside, or ``"float"`` [N, 3, H, W], normalised outside.
        output: ``"logits"`` at the network's stride, or ``"labels"`` at the input's size.
        batch, height, width: (min, typical, max); equal values fix the dimension in the graph.
    """

    input: str = "uint8"
    output: str = "logits"
    batch: Range = (1, 1, 8)
    height: Range = (1, 512, 8192)
    width: Range = (1, 1024, 8192)

    def __post_init__(self) -> None:
        for name, allowed in (("input", ("uint8", "float")), ("output", ("logits", "labels"))):
            if getattr(self, name) not in allowed:
                raise ExportError(f"{name} {getattr(self, name)!r} is not one of {', '.join(map(repr, allowed))}")
        for name in ("batch", "height", "width"):
            low, typical, high = getattr(self, name)
            if not 1 <= low <= typical <= high:
                raise ExportError(
                    f"{name} {low}:{typical}:{high} is not min:typical:max with 1 <= min <= typical <= max"
                )

    @property
    def dynamic(self) -> dict[str, bool]:
        """Which dimensions are open."""
        return {name: getattr(self, name)[0] < getattr(self, name)[2] for name in ("batch", "height", "width")}

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """(height, width) where neither is open, else None."""
        dynamic = self.dynamic
        return None if dynamic["height"] or dynamic["width"] else (self.height[1], self.width[1])


class DeploymentGraph(nn.Module):
    """A network in float32 with its input normalisation and, on request, resize and argmax.

    BGR networks get RGB pixels through a swapped first kernel.

    Attributes:
        rewrites: what became of each exact rewrite.
    """

    def __init__(self, model: DeepLab, signature: Signature, *, rewrites: bool = True) -> None:
        """Take a rewritten copy of a network; without ``rewrites`` only `ALWAYS_REWRITTEN` are applied."""
        super().__init__()
        self.signature = signature
        self.config = model.config
        plain = copy.deepcopy(model).cpu().float().eval()
        skip = () if rewrites else [one.name for one in REWRITES if one.name not in ALWAYS_REWRITTEN]
        network, self.rewrites = optimise(plain, size=signature.fixed_size, skip=skip)
        unfuse(network)
        mean, std = torch.tensor(self.config.mean), torch.tensor(self.config.std)
        if self.config.channel_order == "bgr" and signature.input == "uint8":
            first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
            first.weight = nn.Parameter(first.weight.flip(1).contiguous())
            mean, std = mean.flip(0), std.flip(0)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """``image`` to ``logits`` or ``labels``, as the signature says."""
        x = image
        if self.signature.input == "uint8":
            x = ((image.to(torch.float32) - self.mean) / self.std).permute(0, 3, 1, 2)
        logits: Tensor = self.network(x)
        if self.signature.output == "logits":
            return logits
        size = image.shape[1:3] if self.signature.input == "uint8" else image.shape[2:4]
        labels = resize(logits, size, self.config.align_corners).argmax(1)
        if self.config.num_classes > MAX_UINT8_CLASSES:
            return labels.to(torch.int32)
        # TensorRT makes uint8 only from floating point.
        return labels.to(torch.float32).to(torch.uint8)

    def example(self) -> Tensor:
        """An input of typical, small size to trace with; open dimensions are neither 0 nor 1."""
        sizes = []
        for name, stand_in in (("batch", 2), ("height", 97), ("width", 129)):
            low, typical, _ = getattr(self.signature, name)
            sizes.append(max(stand_in, low) if self.signature.dynamic[name] else typical)
        if self.signature.input == "uint8":
            return torch.zeros(sizes[0], sizes[1], sizes[2], 3, dtype=torch.uint8)
        return torch.zeros(sizes[0], 3, sizes[1], sizes[2])
