# SPDX-License-Identifier: Apache-2.0
"""torchvision, segmentation_models_pytorch and timm."""

import pytest
import torch

from deeplab_infer import checkpoints

from .conftest import assert_close, need, randomise

pytestmark = pytest.mark.peer


def picture(height=128, width=160):
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ["deeplabv3_resnet50", "deeplabv3_resnet101"])
@pytest.mark.parametrize("aux", [True, False])
def test_torchvision(vision_operators, tmp_path, name, aux):
    import torchvision

    torch.manual_seed(0)
    build = getattr(torchvision.models.segmentation, name)
    peer = randomise(build(weights=None, weights_backbone=None, num_classes=21, aux_loss=aux))
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    ours = checkpoints.load(tmp_path / "peer.pth")
    assert ours.config.classes[0] == "background"
    x = picture(97, 129)
    with torch.inference_mode():
        logits = ours(x)
        full = torch.nn.functional.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=False)
        assert_close(f"torchvision {name}", full, peer(x)["out"])


@pytest.mark.parametrize(
    ("model", "encoder"),
    [
        ("DeepLabV3", "resnet18"),
        ("DeepLabV3", "mobilenet_v2"),
        ("DeepLabV3Plus", "resnet18"),
        ("DeepLabV3Plus", "resnet50"),
        ("DeepLabV3Plus", "mobilenet_v2"),
        ("DeepLabV3Plus", "tu-xception41"),
        ("DeepLabV3Plus", "tu-xception65"),
        ("DeepLabV3Plus", "tu-xception71"),
    ],
)
def test_segmentation_models_pytorch(vision_operators, tmp_path, model, encoder):
    need("segmentation_models_pytorch", "timm")
    import segmentation_models_pytorch

    torch.manual_seed(0)
    peer = randomise(getattr(segmentation_models_pytorch, model)(encoder, encoder_weights=None, classes=5))
    torch.save(peer.state_dict(), tmp_path / "peer.pth")
    ours = checkpoints.load(tmp_path / "peer.pth")
    x = picture()
    with torch.inference_mode():
        full = torch.nn.functional.interpolate(ours(x), size=x.shape[2:], mode="bilinear", align_corners=True)
        assert_close(f"smp {model} {encoder}", full, peer(x))


# timm dilates both convolutions of a basic block; ours follows mmsegmentation, so ResNet-18 is compared undilated.
@pytest.mark.parametrize(
    ("name", "stride"), [("resnet18", 32), ("resnet50", 8), ("xception41", 16), ("xception65", 16), ("xception71", 16)]
)
def test_timm_backbones(vision_operators, tmp_path, name, stride):
    need("timm")
    import timm

    torch.manual_seed(0)
    peer = randomise(timm.create_model(name, pretrained=False, output_stride=stride))
    torch.save(peer.state_dict(), tmp_path / f"{name}.pth")
    ours = checkpoints.load(tmp_path / f"{name}.pth")
    assert "backbone only" in ours.checkpoint_source
    ours = checkpoints.with_config(ours, ours.config.with_output_stride(stride))
    with torch.inference_mode():
        assert_close(f"timm {name}", ours.backbone(picture()).high, peer.forward_features(picture()))
