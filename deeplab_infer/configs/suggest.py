# SPDX-License-Identifier: Apache-2.0
"""Near misses of a name, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def suggest(word: str, known: Iterable[str], count: int = 3) -> str:
    """``; did you mean 'a' or 'b'?`` for near misses, an empty string where nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=count, cutoff=0.55)
    return f"; did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
