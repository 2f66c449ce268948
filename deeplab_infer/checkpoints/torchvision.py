# SPDX-License-Identifier: Apache-2.0
"""torchvision's ``deeplabv3_resnet50`` and ``deeplabv3_resnet101``."""

from __future__ import annotations

from torch import Tensor

from ..configs import ModelConfig, dataset_spec, generic_dataset
from ..errors import CheckpointError
from .reading import Checkpoint
from .renaming import Rules, pool_first, rename, resnet_depth

_RULES: Rules = (
    (r"classifier\.0\.convs\.4\.1\.", "aspp.image_pool.conv."),
    (r"classifier\.0\.convs\.4\.2\.", "aspp.image_pool.bn."),
    (r"classifier\.0\.convs\.(\d)\.0\.", r"aspp.branches.\1.conv."),
    (r"classifier\.0\.convs\.(\d)\.1\.", r"aspp.branches.\1.bn."),
    (r"classifier\.0\.project\.0\.", "aspp.project.conv."),
    (r"classifier\.0\.project\.1\.", "aspp.project.bn."),
    (r"classifier\.1\.", "post_aspp.0.conv."),
    (r"classifier\.2\.", "post_aspp.0.bn."),
    (r"classifier\.4\.", "classifier."),
    (r"aux_classifier\.0\.", "auxiliary.block.conv."),
    (r"aux_classifier\.1\.", "auxiliary.block.bn."),
    (r"aux_classifier\.4\.", "auxiliary.classifier."),
)


def matches(state: dict[str, Tensor]) -> bool:
    """Whether the names are those of torchvision's DeepLabV3."""
    return "classifier.4.weight" in state and "classifier.0.convs.0.0.weight" in state


def convert(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our names and our order of the ASPP's branches."""
    return pool_first(rename(state, _RULES), config.aspp_channels)


def infer_config(checkpoint: Checkpoint) -> ModelConfig:
    """The network that torchvision builds: output stride 8, rates 12, 24, 36; VOC's classes where there are 21.

    Raises:
        CheckpointError: the backbone is not a ResNet (MobileNetV3 is not supported).
    """
    state = checkpoint.state
    depth = resnet_depth(state, "backbone.")
    if depth is None:
        raise CheckpointError(f"{checkpoint.path}: torchvision's DeepLabV3 is supported on ResNet-50 and -101 only")
    classes = state["classifier.4.weight"].shape[0]
    return ModelConfig(
        name=f"deeplabv3_resnet{depth}_torchvision",
        dataset=dataset_spec("voc12aug") if classes == 21 else generic_dataset(classes),
        architecture="deeplabv3",
        depth=depth,
        stem="v1",
        aspp_channels=256,
        aspp_separable=False,
        projection_kernel=1,
        post_aspp_convs=1,
        auxiliary="aux_classifier.4.weight" in state,
        resize_logits_twice=False,
        test_scale=None,
    )
