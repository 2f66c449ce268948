# SPDX-License-Identifier: Apache-2.0
"""The ways of training that are compared, as data: no torch is needed to name them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """A way of training.

    Attributes:
        name: as results call it.
        fused: through our kernels.
        whole_batch_loss: logits of the whole batch resized to the labels, then cross entropy, as everyone writes it;
            else ours, image by image.
        recompute: what is computed again for the gradient, as in `TrainOptions`.
        compiled: through ``torch.compile``: the network, and a whole batch's loss.
    """

    name: str
    fused: bool = False
    whole_batch_loss: bool = False
    recompute: str = "none"
    compiled: bool = False


BASELINE = "plain"
VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(BASELINE, whole_batch_loss=True),
        Variant("fused", fused=True),
        Variant("fused+activations", fused=True, recompute="activations"),
        Variant("fused+units", fused=True, recompute="units"),
        Variant("plain+compiled", whole_batch_loss=True, compiled=True),
        Variant("fused+compiled", fused=True, compiled=True),
    )
}
