# SPDX-License-Identifier: Apache-2.0
"""The published table's own way of running a network, in plain torch: what every speed-up is measured against.

mmsegmentation 0.x, ``tools/benchmark.py``: batch 1, float32 (the table's fp16 row in float16), ``cudnn.benchmark`` off.
Timed: copy of the normalised image to the device, forward, both resizes of the logits, softmax, argmax, and the copy of
the int64 labels back. Not timed: reading, resizing and normalising the image. Windows run one at a time.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deeplab_infer.preprocess import Size, network_size, normalise, resize_image
from deeplab_infer.runtime.windows import Window, place_windows

if TYPE_CHECKING:
    import torch

    from deeplab_infer.models import DeepLab

WARMUP = 5
SAMPLES = 195  # the reference stops after 200 images, of which five are warm-up

DESCRIPTION: dict[str, Any] = {
    "source": "mmsegmentation 0.x tools/benchmark.py, whose figures the published table prints",
    "batch": 1,
    "precision": "float32 with TF32 off; the fp16 row in float16",
    "cudnn.benchmark": False,
    "timed": "copy to the device, forward, resizes of the logits, softmax, argmax, copy of int64 labels back",
    "not_timed": "reading, resizing and normalising the image",
    "windows": "one at a time",
    "warmup": WARMUP,
    "samples": f"{SAMPLES}, fewer where the time does not allow it; the reference quotes the mean, tables the median",
}


class ReferenceProtocol:
    """A network run as the reference runs it.

    Attributes:
        windows: places of the windows, one for the whole image.
    """

    def __init__(self, model: DeepLab, image: NDArray[np.uint8], device: str, half: bool = False) -> None:
        """Set up, outside of what is timed.

        Args:
            model: neither folded nor fused, in eval mode.
            image: uint8 [H, W, 3] RGB, at its original size.
            device: ``"cpu"`` or ``"cuda"``.
            half: float16 weights and input.
        """
        import torch

        config = model.config
        dtype = torch.float16 if half else torch.float32
        self._model = model.to(device=device, dtype=dtype).eval()
        self._device = torch.device(device)
        self._align_corners = config.align_corners
        self._classes = config.num_classes
        self._original: Size = (image.shape[0], image.shape[1])
        self._size = network_size(*self._original, config.test_scale)
        self.windows = _windows(self._size, config)
        normalised = normalise(resize_image(image, self._size)[None], config)
        self._host: torch.Tensor = torch.from_numpy(normalised).to(dtype)
        self._on_device = self._host.to(self._device)

    def forward(self) -> None:
        """The network alone, on data that is on the device, window by window; returns when it is done."""
        import torch

        with torch.inference_mode(), reference_settings():
            for window in self.windows:
                self._model(_crop(self._on_device, window))
            self.synchronise()

    def run(self) -> NDArray[np.int64]:
        """Everything that the reference times.

        Returns:
            labels int64 [H, W] at the original size.
        """
        import torch
        import torch.nn.functional as F

        with torch.inference_mode(), reference_settings():
            x = self._host.to(self._device)
            logits = self._logits(x)
            logits = F.interpolate(logits, self._original, mode="bilinear", align_corners=self._align_corners)
            labels = F.softmax(logits, dim=1).argmax(dim=1)
            found: NDArray[np.int64] = labels.cpu().numpy()[0]
            self.synchronise()
        return found

    def synchronise(self) -> None:
        """Wait for the device."""
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        """At the network's input size."""
        import torch
        import torch.nn.functional as F

        if len(self.windows) == 1 and self.windows[0].size == self._size:
            return F.interpolate(self._model(x), self._size, mode="bilinear", align_corners=self._align_corners)
        total = x.new_zeros((1, self._classes, *self._size))
        visits = x.new_zeros((1, 1, *self._size))
        for window in self.windows:
            logits = self._model(_crop(x, window))
            logits = F.interpolate(logits, window.size, mode="bilinear", align_corners=self._align_corners)
            right, below = self._size[1] - window.right, self._size[0] - window.bottom
            # The reference pads each window to the whole map before it adds.
            total += F.pad(logits, (window.left, right, window.top, below))
            visits[..., window.top : window.bottom, window.left : window.right] += 1
        return torch.div(total, visits)


def reference_settings() -> AbstractContextManager[None]:
    """True float32 and no autotuning inside, whatever the process has set; as it was afterwards."""
    from deeplab_infer.runtime.torch_precision import arithmetic

    return arithmetic(tf32=False, benchmark=False)


def _crop(x: torch.Tensor, window: Window) -> torch.Tensor:
    return x[:, :, window.top : window.bottom, window.left : window.right]


def _windows(size: Size, config: Any) -> list[Window]:
    if config.test_mode == "slide":
        return place_windows(*size, config.window, config.window_stride)
    return [Window(0, 0, *size)]
