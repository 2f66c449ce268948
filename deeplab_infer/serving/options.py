# SPDX-License-Identifier: Apache-2.0
"""What a server allows, and how it gathers images into batches."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import DeepLabError


@dataclass(frozen=True)
class ServeOptions:
    """Limits of one server process.

    Attributes:
        max_body: bytes of a request's body.
        max_pixels: pixels of an image, known from its header before it is decoded.
        queue: requests that are held at once, from the first byte of the body to the last of the answer.
        batch: images that enter the network at once; the model may allow fewer.
        latency_s: seconds that an image waits for others of its size.
        timeout_s: seconds that a request may take.
        codecs: images that are decoded or encoded at once.

    Raises:
        DeepLabError: a value that makes no sense.
    """

    max_body: int = 32 << 20
    max_pixels: int = 1 << 24
    queue: int = 16
    batch: int = 8
    latency_s: float = 0.005
    timeout_s: float = 30.0
    codecs: int = 2

    def __post_init__(self) -> None:
        for name in ("max_body", "max_pixels", "queue", "batch", "codecs"):
            if getattr(self, name) < 1:
                raise DeepLabError(f"{_option(name)} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.latency_s < self.timeout_s < float("inf"):
            raise DeepLabError(
                f"--latency must be at least 0 and below --timeout, got {self.latency_s * 1e3:g} ms and "
                f"{self.timeout_s:g} s"
            )


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
