# SPDX-License-Identifier: Apache-2.0
"""The network itself, in torch: the one runner that needs it."""

from __future__ import annotations

import logging
import os
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import BackendError
from ..manifest import Manifest
from ..models import DeepLab
from ..ops.tensors import preprocess
from ..optimize import FusionReport, fold_batchnorm, fuse, unfuse
from ..preprocess import normalise
from .base import check_batch

_log = logging.getLogger(__name__)
_ANY = (1, 1, 1 << 20)


class TorchRunner:
    """A float32 network without batch normalisation, on the CPU or a GPU, on the fused kernels unless told otherwise.

    Attributes:
        fusion: what runs on fused kernels; None without them.
    """

    name = "torch"

    def __init__(self, model: DeepLab, device: str, fused: bool = True) -> None:
        self.device = device
        self._model: DeepLab | None = unfuse(fold_batchnorm(model)).to(device)
        self.fusion: FusionReport | None = fuse(self._model) if fused else None
        for part in self.fusion.left if self.fusion else ():
            _log.warning("%s runs on plain torch: %s", part.name, part.reason)
        self.manifest = Manifest(
            config=model.config,
            input_kind="uint8",
            output_kind="logits",
            precision="fp32",
            opset=0,
            batch=_ANY,
            height=_ANY,
            width=_ANY,
            checkpoint_sha256=model.checkpoint_sha256,
            checkpoint_source=model.checkpoint_source,
            tools={"torch": torch.__version__},
        )

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """See `Runner.run`."""
        check_batch(batch, self.manifest)
        assert self._model is not None
        x = self._input(batch)
        with torch.inference_mode():
            return np.ascontiguousarray(self._model(x).float().cpu().numpy())

    def _input(self, batch: NDArray[Any]) -> torch.Tensor:
        config = self.manifest.config
        if self.device == "cpu":
            return torch.from_numpy(normalise(batch, config))
        pixels = torch.from_numpy(batch).to(self.device)  # a quarter of the bytes of normalised floats
        return preprocess(pixels, config.mean, config.std, reverse_channels=config.channel_order == "bgr")

    def close(self) -> None:
        """Drop the network."""
        self._model = None


def open_model(model: Any, device: str, threads: int | None, fused: bool = True) -> TorchRunner:
    """A runner of a network, a checkpoint file, or a config's name with its official or bundled weights."""
    if isinstance(model, (str, os.PathLike)):
        model = _load(os.fspath(model))
    if not isinstance(model, DeepLab):
        raise BackendError(
            f"cannot run a {type(model).__name__}; give an .onnx file, a checkpoint, a config's name or a DeepLab"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise BackendError(f"the torch backend has no device {device!r}; use auto, cpu or cuda")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BackendError("this machine has no CUDA GPU that torch can use; use --device cpu")
    if threads is not None:
        torch.set_num_threads(threads)
    was_training = model.training
    runner = TorchRunner(model.eval(), device, fused)
    model.train(was_training)
    return runner


def _load(source: str) -> DeepLab:
    from .. import checkpoints
    from ..configs import list_configs, load_config

    if source in list_configs():
        return checkpoints.load("auto", load_config(source))
    return checkpoints.load(source)
