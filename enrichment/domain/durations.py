"""Lengths of time as people write them: 90s, 30m, 2h, 1d."""

from __future__ import annotations

import re
from datetime import timedelta

from enrichment.domain.errors import InvalidRequest

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def parse_duration(text: str, *, zero: bool = False) -> timedelta:
    """A whole number with s, m, h or d, positive unless `zero`; InvalidRequest says how to write
    it.
    """
    found = re.fullmatch(r"([0-9]{1,5})([smhd])", text)
    if found is None or (int(found[1]) == 0 and not zero):
        raise InvalidRequest(f"{text!r}: write a number with s, m, h or d, such as 30m")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
