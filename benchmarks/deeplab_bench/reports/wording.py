# SPDX-License-Identifier: Apache-2.0
"""How figures are written in tables."""

from __future__ import annotations

from .reading import NO_VALUE


def figure(value: float | None) -> str:
    """Three digits that mean something, without an exponent."""
    if value is None:
        return NO_VALUE
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{digits}f}"


def milliseconds(value: float | None) -> str:
    """As `figure`; the unit stands in the title."""
    return figure(value)


def ratio_text(value: float | None) -> str:
    """Such as ``1.25x``; more digits close to 1, where a per cent counts."""
    if value is None:
        return NO_VALUE
    return f"{value:.3f}x" if 0.9 <= value <= 1.1 else f"{figure(value)}x"


def share(value: float | None, digits: int = 2) -> str:
    """Per cent; never rounded up to a whole that it is not."""
    if value is None:
        return NO_VALUE
    text = f"{value:.{digits}%}"
    return f"> {1 - 10 ** -(digits + 2):.{digits}%}" if value < 1 and float(text[:-1]) == 100 else text


def mebibytes(value: float | None) -> str:
    """Whole ones; the unit stands in the title."""
    return NO_VALUE if value is None else f"{value:.0f}"
