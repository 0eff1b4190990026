"""From decoded JSON to columns: numbers, decimals sent as text, and moments, checked by type first.

numpy would take text for numbers and truth values for ones, so types are looked at before it sees
them. What does not fit is a MalformedResponse that names the field.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from enrichment.domain.bars import Floats, Timestamps
from enrichment.domain.errors import MalformedResponse

_NUMBER = {float, int, type(None)}
_PER_SECOND = {"s": 1, "ms": 1000}
_EARLIEST, _LATEST = -2_208_988_800, 4_102_444_800  # the years 1900 to 2099, in seconds


def numbers(values: Sequence[Any], field: str) -> Floats:
    """JSON numbers; null becomes NaN."""
    if not set(map(type, values)) <= _NUMBER:
        raise MalformedResponse(f"'{field}' is not a number")
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        raise MalformedResponse(f"'{field}' is beyond all numbers") from None


def decimals(values: Sequence[Any], field: str) -> Floats:
    """Numbers sent as text."""
    if not set(map(type, values)) <= {str}:
        raise MalformedResponse(f"'{field}' is not a number in quotes")
    try:
        return np.array(values, dtype=np.str_).astype(np.float64)
    except ValueError:
        raise MalformedResponse(f"'{field}' is not a number") from None


def moments(values: Sequence[Any], field: str, unit: Literal["s", "ms"]) -> Timestamps:
    """Whole seconds or milliseconds since 1970, UTC."""
    if not set(map(type, values)) <= {int}:
        raise MalformedResponse(f"'{field}' is not a whole number of {unit}")
    scale = _PER_SECOND[unit]
    if values and (min(values) < _EARLIEST * scale or max(values) > _LATEST * scale):
        raise MalformedResponse(f"'{field}' lies outside the years 1900 to 2099")
    return np.array(values, np.int64).astype(f"datetime64[{unit}]").astype("datetime64[us]")
