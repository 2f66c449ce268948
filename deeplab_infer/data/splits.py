# SPDX-License-Identifier: Apache-2.0
"""Names of splits, and the split of a data set that comes without one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from ..configs.suggest import suggest
from ..errors import DataError

VAL_SHARE = 0.1
# A user's word for a split, and the names of folders and files that mean it.
SPLIT_WORDS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
ALL = "all"
HASH_RULE = f"val is every name whose SHA-256 is in the lowest {VAL_SHARE:.0%} of its range, train the rest"


def words_of(split: str) -> tuple[str, ...]:
    """Folder names that mean a split; the name itself for splits of the user's own."""
    return SPLIT_WORDS.get(split, (split,))


def hash_split(stems: Iterable[str], split: str) -> list[str]:
    """The stems of ``"train"`` or ``"val"`` where nothing says which is which; ``"all"`` keeps every one.

    A stem is in val if the first 32 bits of its SHA-256 are below a tenth of their range: the same on every machine,
    and unchanged when images are added. If that leaves val empty, the stem with the lowest hash goes there.

    Raises:
        DataError: another split.
    """
    ordered = list(stems)
    if split == ALL:
        return ordered
    if split not in ("train", "val"):
        known = ("train", "val", ALL)
        raise DataError(f"there is no split {split!r}{suggest(split, known)} (splits: {', '.join(known)})")
    held_out = {stem for stem in ordered if _hash(stem) < VAL_SHARE * 2**32}
    if not held_out and len(ordered) > 1:
        held_out = {min(ordered, key=_hash)}
    return [stem for stem in ordered if (stem in held_out) == (split == "val")]


def _hash(stem: str) -> int:
    return int.from_bytes(hashlib.sha256(stem.encode("utf-8", "surrogateescape")).digest()[:4], "big")
