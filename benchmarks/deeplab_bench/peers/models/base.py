# SPDX-License-Identifier: Apache-2.0
"""What every peer's network offers to the measurement, and the ways in which it may run."""

from __future__ import annotations

import abc
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...networks.lifelike import make_lifelike

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class PeerModel(abc.ABC):
    """One network of another project, used as its users use it.

    Attributes:
        model: the peer's own module.
        device: where it runs.
        channel_order: of the pixels that its users give it: ``"rgb"`` or ``"bgr"``.
        window: (height, width) of its sliding window; None for whole images.
    """

    channel_order = "rgb"
    window: tuple[int, int] | None = None

    def __init__(self, model: nn.Module, device: str) -> None:
        self.model = model.to(device).eval()
        self.device = device
        self._dtype = torch.float32
        self._network: Callable[[Tensor], Tensor] = self.network
        self._full: Callable[[Tensor], Tensor] = self.full

    # -- what a peer defines

    @property
    @abc.abstractmethod
    def classifier(self) -> nn.Conv2d:
        """The 1x1 convolution that gives the logits."""

    @abc.abstractmethod
    def normalisation(self) -> dict[str, Any]:
        """``mean`` and ``std`` of the network's channels, 0..255; ``swap``: whether they are the pixels' in reverse."""

    @abc.abstractmethod
    def to_input(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Pixels uint8 [H, W, 3] in host memory, normalised as the peer does it: float32 [1, 3, H, W] on the device."""

    @abc.abstractmethod
    def network(self, x: Tensor) -> Tensor:
        """Logits [1, C, h, w] at the network's stride."""

    @abc.abstractmethod
    def full(self, x: Tensor) -> Tensor:
        """Logits [1, C, H, W] at the size of the input."""

    @abc.abstractmethod
    def checkpoint(self) -> dict[str, Any]:
        """What the peer's users save."""

    @abc.abstractmethod
    def load_checkpoint(self, content: dict[str, Any]) -> None:
        """Take the weights of `checkpoint`."""

    def parts(self) -> list[nn.Module]:
        """Modules that compute in the lower precision."""
        return [self.model]

    def labels(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """The peer's way from pixels to labels [H, W], both in host memory."""
        with torch.inference_mode():
            full = self._full(self._cast(self.to_input(pixels)))
            return np.asarray(full.argmax(1)[0].cpu().numpy())

    # -- what is measured

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """From pixels in host memory to logits float32 [C, h, w] in host memory."""
        with torch.inference_mode():
            return np.asarray(self._network(self._cast(self.to_input(pixels)))[0].float().cpu().numpy())

    def in_view(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What one pass of the network sees: the image, or its first window."""
        return pixels if self.window is None else pixels[: self.window[0], : self.window[1]]

    # -- how it runs

    def use_precision(self, precision: str) -> None:
        """Compute in a lower precision, channels last: the layout of fp16 convolutions on GPUs."""
        self._dtype = DTYPES[precision]
        for part in self.parts():
            part.to(dtype=self._dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def compile(self, **options: Any) -> None:
        """Let torch compile the network, alone and with its resize; errors come at the first call."""
        self._network = torch.compile(self.network, dynamic=False, **options)
        self._full = torch.compile(self.full, dynamic=False, **options)

    def make_lifelike(self, pixels: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        """Give the random weights the statistics of trained ones, see `lifelike.make_lifelike`."""
        seen, wanted = self.in_view(pixels), self.in_view(labels)
        with torch.no_grad():
            make_lifelike(self.model, self.classifier, self.network, self.to_input(seen), wanted)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a checkpoint file as the peer's users have it."""
        torch.save(self.checkpoint(), path)

    def trace(self, path: str | os.PathLike[str], pixels: NDArray[np.uint8]) -> None:
        """Write the network as TorchScript for inputs of one size: normalised image to logits and full-size labels."""
        with torch.no_grad():
            traced = torch.jit.trace(_ForExport(self), self.to_input(pixels), check_trace=False)
        torch.jit.save(traced, str(path))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take the weights of a checkpoint that `save` wrote."""
        self.load_checkpoint(torch.load(path, map_location=self.device, weights_only=True))

    def _cast(self, x: Tensor) -> Tensor:
        if self._dtype == torch.float32:
            return x
        return x.to(dtype=self._dtype, memory_format=torch.channels_last)


class _ForExport(nn.Module):
    """What a peer's users give to `torch.onnx.export`."""

    def __init__(self, peer: PeerModel) -> None:
        super().__init__()
        self.model = peer.model
        self._peer = [peer]  # in a list: not a submodule

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [1, C, h, w], and the labels [1, H, W] of the logits at full size."""
        (peer,) = self._peer
        return peer.network(x), peer.full(x).argmax(1)


def pixels_to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 [H, W, 3] as a contiguous tensor [3, H, W], as every peer's data loader makes it."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def normalised(pixels: NDArray[np.uint8], mean: Tensor, std: Tensor) -> Tensor:
    """(pixels / 255 - mean) / std, computed where mean and std are, [3, 1, 1] each: float32 [1, 3, H, W]."""
    x = pixels_to_tensor(pixels).to(mean.device).float() / 255
    return ((x - mean) / std)[None]
