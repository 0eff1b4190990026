"""Durations as users write them: 90s, 30m, 2h, 1d."""

from __future__ import annotations

import re
from datetime import timedelta

from enrichment.domain.errors import InvalidRequest

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(text: str, *, zero: bool = False) -> timedelta:
    """A whole number with the unit s, m, h or d.

    Raises InvalidRequest if it is malformed, or 0 although `zero` is not allowed.

    >>> parse_duration("90m")
    datetime.timedelta(seconds=5400)
    """
    match = re.fullmatch(r"([0-9]{1,5})([smhd])", text)
    if match is None or (int(match[1]) == 0 and not zero):
        raise InvalidRequest(f"{text!r}: write a number with s, m, h or d, such as 30m")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def duration_text(seconds: float | None) -> str:
    """A duration for people.

    >>> duration_text(3725), duration_text(61), duration_text(2.34), duration_text(None)
    ('1 h 02 min', '1 min 01 s', '2.3 s', '–')
    """
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
