"""Numbers in messages.

>>> counted(1, "symbol"), counted(1200, "symbol"), counted(2, "series", "series")
('1 symbol', '1,200 symbols', '2 series')
>>> rounded_down(94.96, 1), rounded_down(100 * (1 - 0.07), 1), rounded_down(99.999, 1)
('94.9', '93.0', '99.9')
"""

from __future__ import annotations

from math import floor


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """The number and the noun, in the plural unless it is one. plural: if not the noun with s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def rounded_down(value: float, digits: int) -> str:
    """The number with so many digits, never above itself: what misses a target is not shown as the
    target, and what is not complete not as 100 %.
    """
    unit = 10**digits
    return f"{floor(round(value * unit, 6)) / unit:.{digits}f}"
