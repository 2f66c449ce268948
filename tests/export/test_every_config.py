# SPDX-License-Identifier: Apache-2.0
"""An engine of every named config, really built. Configs that differ only in classes, data or testing share one."""

import importlib.util
import json

import pytest
import torch
from deeplab_export.engine import build_engine
from deeplab_export.graph import Signature
from deeplab_export.onnx_export import TracedNetwork
from deeplab_export.precision import choose_precision

from deeplab_infer import build_model
from deeplab_infer.configs import list_configs, load_config

if importlib.util.find_spec("tensorrt_rtx") is None:
    pytest.skip("tensorrt_rtx is not installed", allow_module_level=True)

# Small: what is built is the graph, which does not depend on the size.
SIZES = Signature(batch=(1, 1, 1), height=(64, 64, 64), width=(96, 96, 96))
NOT_IN_THE_GRAPH = {
    "name", "dataset", "num_classes", "mean", "std", "channel_order", "checkpoint", "checkpoint_sha256", "crop_size",
    "test_mode", "window", "window_stride", "test_scale", "dropout", "auxiliary", "auxiliary_channels", "bn_momentum",
    "resize_logits_twice",
}  # fmt: skip


def distinct():
    """One config of each network."""
    networks = {}
    for name in list_configs():
        values = load_config(name).to_dict()
        key = json.dumps({k: v for k, v in values.items() if k not in NOT_IN_THE_GRAPH}, sort_keys=True)
        networks.setdefault(key, name)
    return sorted(networks.values())


@pytest.mark.parametrize("name", distinct())
def test_engine(tmp_path, name):
    torch.manual_seed(0)
    model = build_model(load_config(name, ["auxiliary=false"])).eval()
    TracedNetwork(model, SIZES).write(tmp_path / "model.onnx", choose_precision("fp16"))
    built = build_engine(tmp_path / "model.onnx", tmp_path / "model.engine")
    convolutions = [layer for layer in built.layers if layer.kind == "CONVOLUTION"]
    assert len(convolutions) == sum(isinstance(layer, torch.nn.Conv2d) for layer in model.modules())
    assert {layer.type for layer in convolutions} == {"half"}
