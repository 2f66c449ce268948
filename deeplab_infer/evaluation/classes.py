# SPDX-License-Identifier: Apache-2.0
"""Whether a model's classes are a dataset's."""

from __future__ import annotations

from collections.abc import Sequence

from ..configs import DatasetSpec
from ..errors import DataError

_SHOWN = 3


def check_classes(model: str, classes: Sequence[str], spec: DatasetSpec, by_index: bool = False) -> None:
    """Refuse to score a model on a dataset of other classes.

    Names are equal if they differ only in case, blanks and underscores (ADE20K's ``"bed "``).

    Args:
        model: what the message calls the model.
        classes: the model's class names.
        spec: the dataset.
        by_index: accept other names where the number of classes agrees.

    Raises:
        DataError: another number of classes, or other names.
    """
    theirs = spec.classes
    if len(classes) != len(theirs):
        raise DataError(
            f"{model} has {len(classes)} classes ({_some(classes)}), dataset {spec.name!r} has {len(theirs)} "
            f"({_some(theirs)}); choose the dataset that the model was trained on, or a model with those classes"
        )
    differing = [i for i, pair in enumerate(zip(classes, theirs, strict=True)) if _key(pair[0]) != _key(pair[1])]
    if not differing or by_index:
        return
    shown = ", ".join(f"{i} is {classes[i]!r} and {theirs[i]!r}" for i in differing[:_SHOWN])
    more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
    same_names = sorted(map(_key, classes)) == sorted(map(_key, theirs))
    advice = (
        "the names are the same in another order, so the labels of one must be changed"
        if same_names
        else "if they mean the same, accept them by their numbers with --by-index"
    )
    raise DataError(f"{model} and dataset {spec.name!r} differ in the names of classes: {shown}{more}; {advice}")


def _key(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
