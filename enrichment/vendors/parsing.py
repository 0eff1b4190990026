"""From decoded JSON to columns: numbers, decimals sent as text, and timestamps.

numpy would silently convert text and booleans to numbers, so the types are checked first. A value
of the wrong type or range is a MalformedResponse that names the field.

>>> to_floats([1, None], "open")
array([ 1., nan])
>>> to_timestamps([1_700_000_000], "t", "s")
array(['2023-11-14T22:13:20.000000'], dtype='datetime64[us]')
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from enrichment.domain.bars import Floats, Timestamps
from enrichment.domain.errors import MalformedResponse

_NUMBER_TYPES = {float, int, type(None)}
_UNITS_PER_SECOND = {"s": 1, "ms": 1000}
_EARLIEST, _LATEST = -2_208_988_800, 4_102_444_800  # the years 1900 to 2099, in seconds


def to_floats(values: Sequence[Any], field: str) -> Floats:
    """JSON numbers; null becomes NaN."""
    if not set(map(type, values)) <= _NUMBER_TYPES:
        raise MalformedResponse(f"'{field}' is not a number")
    try:
        return np.array(values, dtype=np.float64)
    except OverflowError:
        raise MalformedResponse(f"'{field}' is too large for a number") from None


def text_to_floats(values: Sequence[Any], field: str) -> Floats:
    """Numbers sent as text."""
    if not set(map(type, values)) <= {str}:
        raise MalformedResponse(f"'{field}' is not a number in quotes")
    try:
        return np.array(values, dtype=np.str_).astype(np.float64)
    except ValueError:
        raise MalformedResponse(f"'{field}' is not a number") from None


def to_timestamps(values: Sequence[Any], field: str, unit: Literal["s", "ms"]) -> Timestamps:
    """Whole seconds or milliseconds since 1970, UTC."""
    if not set(map(type, values)) <= {int}:
        raise MalformedResponse(f"'{field}' is not a whole number of {unit}")
    scale = _UNITS_PER_SECOND[unit]
    if values and (min(values) < _EARLIEST * scale or max(values) > _LATEST * scale):
        raise MalformedResponse(f"'{field}' lies outside the years 1900 to 2099")
    return np.array(values, np.int64).astype(f"datetime64[{unit}]").astype("datetime64[us]")
