"""Numbers with their noun, in messages.

>>> counted(1, "symbol"), counted(1200, "symbol"), counted(2, "series", "series")
('1 symbol', '1,200 symbols', '2 series')
"""

from __future__ import annotations


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """The number and the noun, in the plural unless it is one. plural: if not the noun with s."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"
