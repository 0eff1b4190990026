"""Argument checks whose messages say what is allowed."""

from __future__ import annotations

import math

from resilience.clock import to_ns


def number(what: str, value: float, *, above: float | None = None, most: float = math.inf) -> float:
    """`value`, if finite and 0 ≤ value (or above < value) ≤ most; else ValueError saying so."""
    fine = isinstance(value, int | float) and math.isfinite(value) and value <= most
    if fine and (value >= 0 if above is None else value > above):
        return value
    allowed = "at least 0" if above is None else f"above {above:g}"
    upper = "" if most == math.inf else f" and at most {most:g}"
    raise ValueError(f"{what} must be a finite number {allowed}{upper}, got {value!r}")


def whole(what: str, value: int, least: int = 1, most: float = math.inf) -> int:
    """`value` as int, if it is whole and in the range; else ValueError saying so."""
    if isinstance(value, int | float) and value % 1 == 0 and least <= value <= most:
        return int(value)
    upper = "" if most == math.inf else f" and at most {most:g}"
    raise ValueError(f"{what} must be a whole number of at least {least}{upper}, got {value!r}")


def span(what: str, seconds: float) -> int:
    """A length of time above 0 s, in ns (at least one)."""
    return max(1, to_ns(number(what, seconds, above=0)))


def optional_span(what: str, seconds: float | None) -> int | None:
    """`span`, or None for None."""
    return None if seconds is None else span(what, seconds)
