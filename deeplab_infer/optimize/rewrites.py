# SPDX-License-Identifier: Apache-2.0
"""The exact rewrites in the order in which they are applied: the same function of the image for less work."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from ..models import DeepLab
from .drop_void_taps import drop_void_taps, why_no_void_taps
from .fold_batchnorm import fold_batchnorm, why_nothing_to_fold
from .fold_image_pooling import fold_image_pooling, why_no_pooling_to_fold
from .remove_training_parts import remove_training_parts, why_nothing_to_remove

Size = tuple[int, int]


@dataclass(frozen=True)
class Rewrite:
    """One exact rewrite of a network in eval mode.

    Attributes:
        name: a Python name.
        summary: what it does, in one line.
        why_not: of a network and its fixed input (height, width), None where sizes are open: empty where the rewrite
            applies, else the reason in a few words.
        apply: of the same: a new network; the one given stays as it is.
    """

    name: str
    summary: str
    why_not: Callable[[DeepLab, Size | None], str]
    apply: Callable[[DeepLab, Size | None], DeepLab]


@dataclass(frozen=True)
class AppliedRewrite:
    """What became of one rewrite: applied, or the reason why not."""

    name: str
    summary: str
    applied: bool
    reason: str = ""


def applied_names(report: Iterable[AppliedRewrite]) -> tuple[str, ...]:
    """Names of the rewrites that were applied, in their order; a manifest keeps these."""
    return tuple(rewrite.name for rewrite in report if rewrite.applied)


REWRITES: tuple[Rewrite, ...] = (
    Rewrite(
        "remove_training_parts",
        "auxiliary head and dropout removed",
        lambda model, size: why_nothing_to_remove(model),
        lambda model, size: remove_training_parts(model),
    ),
    Rewrite(
        "fold_batchnorm",
        "batch normalisation folded into the convolutions",
        lambda model, size: why_nothing_to_fold(model),
        lambda model, size: fold_batchnorm(model),
    ),
    Rewrite(
        "fold_image_pooling",
        "image-pooling branch folded into the projection, as a bias a border region",
        lambda model, size: why_no_pooling_to_fold(model),
        lambda model, size: fold_image_pooling(model),
    ),
    Rewrite(
        "drop_void_taps",
        "taps that see only padding at this size dropped from atrous convolutions",
        why_no_void_taps,
        drop_void_taps,
    ),
)


def optimise(
    model: DeepLab, *, size: Size | None = None, skip: Collection[str] = ()
) -> tuple[DeepLab, tuple[AppliedRewrite, ...]]:
    """Apply every rewrite that a network allows.

    Args:
        model: in eval mode; stays as it is.
        size: (height, width) of its input where that is fixed; None leaves it open.
        skip: names of rewrites that are not wanted.

    Returns:
        The new network, and one entry a rewrite. Its logits differ only by the rounding of sums in another order.

    Raises:
        ValueError: the network is in training mode, or an unknown name in ``skip``.
    """
    unknown = sorted(set(skip) - {rewrite.name for rewrite in REWRITES})
    if unknown:
        names = ", ".join(rewrite.name for rewrite in REWRITES)
        raise ValueError(f"skip: there is no rewrite {unknown[0]!r}; there are {names}")
    if model.training:
        raise ValueError("optimise needs a network in eval mode; call model.eval() first")
    report, network = [], model
    for rewrite in REWRITES:
        reason = "switched off" if rewrite.name in skip else rewrite.why_not(network, size)
        if not reason:
            network = rewrite.apply(network, size)
        report.append(AppliedRewrite(rewrite.name, rewrite.summary, not reason, reason))
    return copy.deepcopy(model) if network is model else network, tuple(report)
