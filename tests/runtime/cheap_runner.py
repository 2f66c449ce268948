# SPDX-License-Identifier: Apache-2.0
"""A runner whose network is a few sums, for tests of what is done around it; nothing here imports torch."""

from dataclasses import replace

import numpy as np

from deeplab_infer import Segmenter
from deeplab_infer.configs import load_config
from deeplab_infer.manifest import Manifest
from deeplab_infer.ops.functional import upsample_argmax
from deeplab_infer.ops.fused import merge_windows
from deeplab_infer.runtime.windows import grid_of

ANY = (1, 64, 1 << 20)


class CheapRunner:
    """Logits at ``stride``: each class a fixed mix of the colours, and of a value that depends on the window."""

    name, device = "cheap", "cpu"

    def __init__(self, classes=4, stride=4, align_corners=False, **config):
        base = load_config("deeplabv3plus_mobilenetv2_streets")
        dataset = replace(base.dataset, classes=base.classes[:classes], palette=base.palette[:classes])
        made = base.replace(dataset=dataset, num_classes=classes, align_corners=align_corners, **config)
        self.manifest = Manifest(made, "uint8", "logits", "fp32", 17, (1, 4, 8), ANY, ANY)
        self.mix = np.random.default_rng(1).normal(0, 1, (classes, 3)).astype(np.float32)
        self.stride, self.windows, self.largest = stride, 0, 0

    def run(self, batch):
        self.windows += len(batch)
        self.largest = max(self.largest, batch[0].size)
        low = batch[:, :: self.stride, :: self.stride].astype(np.float32) / 64 - 2
        logits = np.einsum("ck,nhwk->nchw", self.mix, low)
        logits += low[:, :1, :1, :1] * self.mix[:, :1, None]  # windows that overlap do not agree
        return np.ascontiguousarray(logits, np.float32)

    def close(self):
        pass


class OnePassRunner(CheapRunner):
    """Also goes from windows to labels, as a GPU's runners do."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.maps = []

    def segment_windows(self, image, windows, size, *, batch, scores=False):
        grid, corners = grid_of(windows), self.manifest.config.align_corners
        assert grid.size == image.shape[:2]
        logits = np.concatenate([self.run(image[None, w.top : w.bottom, w.left : w.right]) for w in windows])
        merged = merge_windows(logits, grid.size, window=grid.window, stride=grid.stride, align_corners=corners)
        self.maps.append(merged.nbytes)
        found = upsample_argmax(merged, size, align_corners=corners, scores=scores)
        return found if scores else (found, None)


def open_cheap(monkeypatch, runner, **options):
    """A Segmenter on such a runner."""
    with monkeypatch.context() as patch:
        patch.setattr("deeplab_infer.segmenter.open_runner", lambda *_, **__: runner)
        return Segmenter("model.onnx", **{"mode": "slide", "threads": 1, **options})


class Drawn:
    """An image that is computed where it is sliced, uint8 [H, W, 3]."""

    dtype = np.dtype(np.uint8)

    def __init__(self, height, width):
        self.shape = (height, width, 3)
        self.read = 0  # pixels
        self.largest = 0

    def __getitem__(self, at):
        y, x = (np.arange(*part.indices(length)) for part, length in zip(at, self.shape, strict=False))
        self.read += len(y) * len(x)
        self.largest = max(self.largest, len(y) * len(x))
        made = np.empty((len(y), len(x), 3), np.uint8)
        for channel, (down, right) in enumerate([(7, 5), (11, 3), (13, 9)]):
            made[:, :, channel] = (y // down * 71 % 256)[:, None] ^ (x // right * 37 % 256)[None, :]
        return made
