# SPDX-License-Identifier: Apache-2.0
"""The ASPP's image-pooling branch folded into the projection.

The pooled branch is one value a channel, so its convolution by the projection needs no map. A 1x1 projection sees the
same vector at every pixel: a bias an image. A zero-padded 3x3 projection sees it at those of its nine taps that lie
inside the map, which depends only on whether the pixel is in the first or last row and column: a bias an image and
border region. The projection then runs over the other branches alone (2048 instead of 2560 channels).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models import DeepLab
from ..models.aspp import Aspp
from ..models.blocks import ConvBnRelu

# Rows of a map by what their neighbours are: 0 both inside, 1 first, 2 last, 3 the only one; taps above, on, below.
_INSIDE = ((1.0, 1.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (0.0, 1.0, 0.0))


def fold_image_pooling(model: DeepLab) -> DeepLab:
    """A copy of an eval-mode network whose projection takes the pooled branch as a bias a border region.

    Exact for maps of any size, open sizes included.

    Raises:
        ValueError: `why_no_pooling_to_fold` has a reason.
    """
    reason = why_no_pooling_to_fold(model)
    if reason:
        raise ValueError(f"fold_image_pooling: {reason}")
    folded = copy.deepcopy(model)
    assert folded.aspp is not None
    folded.aspp = FoldedAspp(folded.aspp).eval()
    return folded


def why_no_pooling_to_fold(model: DeepLab) -> str:
    """Why `fold_image_pooling` cannot be applied; empty where it can."""
    aspp = getattr(model, "aspp", None)
    if model.training:
        return "the network is in training mode"
    if not isinstance(aspp, Aspp):
        return "no ASPP"
    if isinstance(aspp, FoldedAspp):
        return "the image pooling is folded already"
    if aspp.image_pool is None:
        return "no image pooling"
    if not isinstance(aspp.project, ConvBnRelu):
        return "the projection is no plain convolution any more"
    conv = aspp.project.conv
    plain = conv.stride == conv.dilation == (1, 1) and conv.groups == 1 and conv.padding_mode == "zeros"
    if not plain or (conv.kernel_size, conv.padding) not in (((1, 1), (0, 0)), ((3, 3), (1, 1))):
        return "the projection is no plain 1x1 or zero-padded 3x3 convolution"
    return ""


class FoldedAspp(Aspp):
    """An ASPP whose projection does not read the pooled branch as a map; same names, same result."""

    def __init__(self, aspp: Aspp) -> None:
        """Take over the parts of ``aspp``."""
        nn.Module.__init__(self)
        assert aspp.image_pool is not None
        self.image_pool, self.branches, self.fused = aspp.image_pool, aspp.branches, aspp.fused
        self.project: FoldedProjection = FoldedProjection(aspp.project)  # type: ignore[assignment]

    def _project(self, parts: list[Tensor], pooled: Tensor | None) -> Tensor:
        assert pooled is not None
        return self.project(torch.cat(parts, 1), pooled)


class FoldedProjection(nn.Module):
    """``[N, rest, h, w], [N, width, 1, 1] -> [N, width, h, w]``: the branches' projection and the pooled branch's."""

    def __init__(self, project: ConvBnRelu) -> None:
        """Split the projection's weights; the pooled branch has the first ``width`` input channels."""
        super().__init__()
        whole = project.conv
        width, kernel = whole.out_channels, whole.kernel_size[0]
        rest = whole.in_channels - width
        self.conv = nn.Conv2d(rest, width, kernel, padding=kernel // 2, bias=whole.bias is not None, device="meta")
        self.conv.weight = nn.Parameter(whole.weight[:, width:].detach().clone())
        if whole.bias is not None:
            self.conv.bias = whole.bias
        self.bn = project.bn
        self.kernel = kernel
        self.pooled_weight = nn.Parameter(  # [width * kernel * kernel, width]
            whole.weight[:, :width].detach().permute(0, 2, 3, 1).reshape(-1, width).clone()
        )
        self.inside: Tensor
        if kernel == 3:
            self.register_buffer("inside", self.pooled_weight.new_tensor(_INSIDE), persistent=False)

    def forward(self, branches: Tensor, pooled: Tensor) -> Tensor:
        taps = F.linear(pooled.flatten(1), self.pooled_weight)
        if self.kernel == 1:
            term = taps[:, :, None, None]
        else:
            term = self._by_region(taps.unflatten(1, (-1, 3, 3)), branches.shape[2], branches.shape[3])
        return F.relu(self.bn(self.conv(branches) + term))

    def _by_region(self, taps: Tensor, height: int, width: int) -> Tensor:
        """[N, C, 3, 3], what each tap adds, to [N, C, height, width], the sum of those inside the map."""
        regions = self.inside @ taps @ self.inside.T
        # Columns first: then whole rows are copied.
        return regions.index_select(3, _regions(width, taps)).index_select(2, _regions(height, taps))


def _regions(side: int, like: Tensor) -> Tensor:
    """int64 [side]: the row of `_INSIDE` of every position along an axis."""
    position = torch.arange(side, device=like.device)
    return (position == 0).long() + 2 * (position == side - 1).long()
