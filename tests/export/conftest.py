# SPDX-License-Identifier: Apache-2.0
"""Small networks of every family, with the statistics of a trained one."""

import pytest
from deeplab_export.calibration import Calibration
from deeplab_export.graph import Signature
from deeplab_export.onnx_export import TracedNetwork

from ..networks import make_network
from .tiny import SIZE, TinyNetwork

CITYSCAPES = "deeplabv3plus_{}_4xb2-80k_cityscapes-{}"
FAMILIES = {
    "v3plus-r18": (CITYSCAPES.format("r18-d8", "512x1024"), []),
    "v3plus-r18b": (CITYSCAPES.format("r18b-d8", "512x1024"), []),
    "v3plus-r18-align-corners": (CITYSCAPES.format("r18-d8", "769x769"), []),
    "v3plus-d16-mg124": (CITYSCAPES.format("r101-d16-mg124", "512x1024"), ["depth=50"]),
    "v3-r18": ("deeplabv3_r18-d8_4xb2-80k_cityscapes-512x1024", []),
    "torchvision-like": (
        "deeplabv3_r18b-d8_4xb2-80k_cityscapes-512x1024",
        ["projection_kernel=1", "post_aspp_convs=1", "resize_logits_twice=false"],
    ),
    "smp-like": (
        CITYSCAPES.format("r18b-d8", "512x1024"),
        ["separable_bn=after", "projection_kernel=1", "post_aspp_convs=1", "post_aspp_separable=true", "decoder_convs=1",
         "basic_block_dilation=both", "contract_dilation=false", "align_corners=true"],
    ),
    "xception41": ("deeplabv3plus_xception65", ["depth=41"]),
    "mobilenet": ("deeplabv3plus_mobilenetv2_streets", []),
    "cascade": ("deeplabv3_resnet50-beta_block5", []),
}  # fmt: skip


@pytest.fixture(scope="session")
def streets():
    """The smallest network."""
    return make_network("deeplabv3plus_mobilenetv2_streets")


def trace(network, output="logits"):
    """At one small size: open sizes take five times as long to trace."""
    signature = Signature("uint8", output, (1, 1, 1), (SIZE[0],) * 3, (SIZE[1],) * 3)
    return TracedNetwork(network, signature, calibration=Calibration(count=4))


@pytest.fixture(scope="session")
def tiny():
    return trace(TinyNetwork())


@pytest.fixture(scope="session")
def tiny_labels():
    return trace(TinyNetwork(), "labels")
