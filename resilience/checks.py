"""Checks of arguments.

>>> whole_number("rate", 0)
Traceback (most recent call last):
    ...
ValueError: rate must be a whole number of at least 1, got 0
"""

from __future__ import annotations

import math

from resilience.clock import to_ns


def finite(
    name: str, value: float, *, above: float | None = None, maximum: float = math.inf
) -> float:
    """`value` if it is finite, at most `maximum`, and above `above` or (None) at least 0.

    Raises:
        ValueError: It is not; the message says what is allowed.
    """
    valid = isinstance(value, int | float) and math.isfinite(value) and value <= maximum
    if valid and (value >= 0 if above is None else value > above):
        return value
    lower = "at least 0" if above is None else f"above {above:g}"
    upper = "" if maximum == math.inf else f" and at most {maximum:g}"
    raise ValueError(f"{name} must be a finite number {lower}{upper}, got {value!r}")


def whole_number(name: str, value: int, minimum: int = 1) -> int:
    """`value` as int if it is whole and at least `minimum`.

    Raises:
        ValueError: It is not; the message says what is allowed.
    """
    if isinstance(value, int | float) and value % 1 == 0 and value >= minimum:
        return int(value)
    raise ValueError(f"{name} must be a whole number of at least {minimum}, got {value!r}")


def duration_ns(name: str, seconds: float) -> int:
    """Seconds above 0 as nanoseconds, at least 1."""
    return max(1, to_ns(finite(name, seconds, above=0)))


def optional_duration_ns(name: str, seconds: float | None) -> int | None:
    """Like `duration_ns`; None for None."""
    return None if seconds is None else duration_ns(name, seconds)
