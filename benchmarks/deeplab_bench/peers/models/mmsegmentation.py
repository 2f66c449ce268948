# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation's DeepLabs, from the configs in its package."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from .base import PeerModel, pixels_to_tensor
from .imports import import_mmseg_models


def build(network: str, device: str) -> PeerModel:
    """A config's network, as `mmseg.apis.init_model` builds it."""
    return MmsegModel(read_config(network), device)


def read_config(network: str) -> Any:
    """The config of that name in mmsegmentation's package.

    Raises:
        ValueError: it has none.
    """
    from mmengine import Config

    folder = Path(import_mmseg_models().__file__).parents[1] / ".mim" / "configs"
    found = sorted(folder.rglob(f"{network}.py"))
    if not found:
        raise ValueError(f"mmsegmentation has no config {network!r}")
    return Config.fromfile(found[0])


class MmsegModel(PeerModel):
    """An ``EncoderDecoder`` with its data preprocessor, whole or sliding inference and post-processing."""

    channel_order = "bgr"

    def __init__(self, config: Any, device: str) -> None:
        from mmengine.model.utils import revert_sync_batchnorm
        from mmengine.registry import MODELS

        settings = copy.deepcopy(config.model)
        settings.pretrained = None
        settings.train_cfg = None
        self._config = config
        super().__init__(revert_sync_batchnorm(MODELS.build(settings)), device)
        model: Any = self.model
        self._segmentor = model
        if model.test_cfg.get("mode") == "slide":
            self.window = tuple(model.test_cfg.crop_size)

    @property
    def classifier(self) -> nn.Conv2d:
        """See `PeerModel`."""
        layer: nn.Conv2d = self._segmentor.decode_head.conv_seg
        return layer

    def normalisation(self) -> dict[str, Any]:
        """See `PeerModel`."""
        prepare = self._segmentor.data_preprocessor
        return {
            "mean": prepare.mean.flatten().tolist(),
            "std": prepare.std.flatten().tolist(),
            "swap": bool(prepare.channel_conversion),
        }

    def to_input(self, pixels: NDArray[np.uint8]) -> Tensor:
        """See `PeerModel`; the model's own data preprocessor."""
        made: Tensor = self._segmentor.data_preprocessor({"inputs": [pixels_to_tensor(pixels)]}, False)["inputs"]
        return made

    def network(self, x: Tensor) -> Tensor:
        """See `PeerModel`."""
        logits: Tensor = self._segmentor(x, mode="tensor")
        return logits

    def full(self, x: Tensor) -> Tensor:
        """See `PeerModel`."""
        meta = {"img_shape": tuple(x.shape[2:])}
        logits: Tensor = self._segmentor.decode_head.predict_by_feat(self.network(x), [meta])
        return logits

    def parts(self) -> list[nn.Module]:
        """See `PeerModel`; normalisation stays float32."""
        return [self._segmentor.backbone, self._segmentor.decode_head]

    def labels(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """See `PeerModel`; what `mmseg.apis.inference_model` does after its pipeline."""
        from mmseg.structures import SegDataSample

        size = pixels.shape[:2]
        meta = {"ori_shape": size, "img_shape": size, "pad_shape": size}
        data = {"inputs": [pixels_to_tensor(pixels)], "data_samples": [SegDataSample(metainfo=meta)]}
        with torch.inference_mode():
            (result,) = self._segmentor.test_step(data)
            return np.asarray(result.pred_sem_seg.data[0].cpu().numpy())

    def use_precision(self, precision: str) -> None:
        """See `PeerModel`."""
        super().use_precision(precision)
        self._use_own_pass()

    def compile(self, **options: Any) -> None:
        """See `PeerModel`."""
        super().compile(**options)
        self._use_own_pass()

    def _use_own_pass(self) -> None:
        """Whole and sliding inference stay the peer's; a pass (network and resize) is cast and compiled."""
        self._segmentor.encode_decode = lambda inputs, batch_img_metas: self._full(self._cast(inputs))

    def checkpoint(self) -> dict[str, Any]:
        """See `PeerModel`."""
        state = {key: value.cpu() for key, value in self.model.state_dict().items()}
        return {"meta": {"cfg": self._config.pretty_text}, "state_dict": state}

    def load_checkpoint(self, content: dict[str, Any]) -> None:
        """See `PeerModel`."""
        self.model.load_state_dict(content["state_dict"])
