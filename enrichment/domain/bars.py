"""Bars: the columns of one OHLCV series as numpy arrays of equal length n.

Timestamps are `datetime64[us]` in UTC and mark a bar's start. Daily bars carry their session's date
at 00:00 UTC and weekly bars the Monday of their week at 00:00 UTC, whatever the vendor's own
convention, so that bars of different vendors have the same keys.

>>> import numpy as np
>>> ts = np.array(["2024-01-02", "2024-01-03"], "datetime64[us]")
>>> close = np.array([10.0, 11.0])
>>> bars = Bars.of(ts, close, close, close, close, volume=np.array([500.0, 0.0]))
>>> bars.take(bars.volume > 0).close.tolist()
[10.0]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Timestamps = NDArray[np.datetime64]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

PRICES = ("open", "high", "low", "close")
# Beyond these bounds, which no market reaches, ratios and sums of a feature could overflow.
_MIN_PRICE, _MAX_VALUE = 1e-50, 1e50


def to_datetime64(moment: datetime) -> np.datetime64:
    """A timezone-aware datetime as `datetime64[us]` in UTC."""
    return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")


def to_datetime(ts: np.datetime64) -> datetime:
    """A `datetime64` as a timezone-aware datetime in UTC."""
    moment: datetime = ts.astype("datetime64[us]").item()
    return moment.replace(tzinfo=UTC)


def no_timestamps() -> Timestamps:
    """An empty column of timestamps."""
    return np.empty(0, "datetime64[us]")


def isin_sorted(ts: Timestamps, ascending: Timestamps) -> Mask:
    """Whether each timestamp is one of the ascending ones: `numpy.isin` by binary search."""
    return ascending.searchsorted(ts, side="right") > ascending.searchsorted(ts)


def between(ascending: Timestamps, start: datetime, end: datetime) -> Timestamps:
    """The timestamps with start ≤ ts < end."""
    bounds = ascending.searchsorted([to_datetime64(start), to_datetime64(end)])
    return ascending[slice(*bounds)]


def safe_divide(numerator: Floats, denominator: Floats) -> Floats:
    """numerator / denominator where the denominator is positive, else NaN."""
    out = np.full(len(numerator), np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Columns of one OHLCV series, each of length n.

    Raises ValueError on construction if the columns differ in length.
    """

    ts: Timestamps  # start of each bar, UTC
    open: Floats  # prices are in the instrument's currency
    high: Floats
    low: Floats
    close: Floats
    volume: Floats  # units traded
    vwap: Floats  # volume-weighted average price; NaN where the vendor does not send it
    trades: Floats  # number of trades; NaN likewise
    taker_buy_volume: Floats  # units bought by market orders; NaN likewise

    def __post_init__(self) -> None:
        if len(set(map(len, _columns(self)))) != 1:
            raise ValueError("the columns of Bars must be of equal length")

    def __len__(self) -> int:
        return len(self.ts)

    @classmethod
    def of(
        cls,
        ts: Timestamps,
        open: Floats,
        high: Floats,
        low: Floats,
        close: Floats,
        volume: Floats,
        *,
        vwap: Floats | None = None,
        trades: Floats | None = None,
        taker_buy_volume: Floats | None = None,
    ) -> Self:
        """Bars of the given columns; the optional ones default to NaN."""
        missing = np.full(len(ts), np.nan)
        columns = (open, high, low, close, volume, vwap, trades, taker_buy_volume)
        return cls(
            ts.astype("datetime64[us]", copy=False),
            *[missing if c is None else np.ascontiguousarray(c, np.float64) for c in columns],
        )

    @classmethod
    def empty(cls) -> Self:
        """Bars without a row."""
        return cls.of(no_timestamps(), *[np.empty(0)] * 5)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Name → column, `ts` first."""
        return dict(zip(self.__slots__, _columns(self), strict=True))

    def take(self, rows: Mask | NDArray[np.intp] | slice) -> Self:
        """The rows of a mask, an index or a slice."""
        return type(self)(*[column[rows] for column in _columns(self)])

    def between(self, start: datetime, end: datetime) -> Self:
        """The rows with start ≤ ts < end, in whatever order they are."""
        return self.take((self.ts >= to_datetime64(start)) & (self.ts < to_datetime64(end)))

    def concat(self, *others: Bars) -> Self:
        """These rows, then those of the others."""
        columns = zip(_columns(self), *map(_columns, others), strict=True)
        return type(self)(*map(np.concatenate, columns))

    def ascending(self) -> Self:
        """The rows sorted by start; rows with the same start keep their order."""
        return self.take(np.argsort(self.ts, kind="stable"))

    def missing_from(self, other: Bars) -> Mask:
        """Whether the start of each row occurs nowhere in `other`, which is ascending."""
        return ~isin_sorted(self.ts, other.ts)

    def overlaid_by(self, other: Bars) -> Self:
        """The union of both by start; where both have a row, the other's. Both are ascending."""
        if len(other) == 0 or len(self) == 0:
            return self if len(self) else type(self)(*_columns(other))
        first = int(np.searchsorted(self.ts, other.ts[0]))
        rest = self.take(slice(first, None))
        kept = rest.missing_from(other)
        overlaid = rest.take(kept).concat(other).ascending() if kept.any() else other
        return self.take(slice(first)).concat(overlaid)

    def intersect(self, other: Bars) -> tuple[Self, Bars]:
        """The rows of both with the same starts, ascending; neither may repeat a start."""
        _, mine, theirs = np.intersect1d(self.ts, other.ts, assume_unique=True, return_indices=True)
        return self.take(mine), other.take(theirs)

    def equal_rows(self, other: Bars) -> Mask:
        """Whether each row has the values of the other's row in the same place; NaN equals NaN."""
        equal = np.ones(len(self), dtype=bool)
        for mine, theirs in zip(_columns(self), _columns(other), strict=True):
            same = mine == theirs
            if not same.all():
                same |= (mine != mine) & (theirs != theirs)
            equal &= same
        return equal

    def usable_rows(self) -> Mask:
        """Whether each row can enter a computation: finite prices above 0, a finite volume ≥ 0."""
        usable = (self.volume >= 0) & (self.volume <= _MAX_VALUE)
        for price in (self.open, self.high, self.low, self.close):
            usable &= (price >= _MIN_PRICE) & (price <= _MAX_VALUE)
        return usable


_columns: Callable[[Bars], tuple[NDArray[Any], ...]] = attrgetter(*Bars.__slots__)


def overlay(stored: Bars, fetched: Bars) -> tuple[Bars, int]:
    """The stored bars overlaid by the fetched ones, and the first row that is new or differs.

    Both are ascending and unique. The row is len(merged) where nothing changed.

    >>> close = np.array([10.0, 11.0, 12.0])
    >>> bars = Bars.of(np.arange(3).astype("datetime64[D]"), close, close, close, close, close)
    >>> merged, first_changed = overlay(bars.take(slice(2)), bars)
    >>> merged.close.tolist(), first_changed
    ([10.0, 11.0, 12.0], 2)
    """
    if len(fetched) == 0 or len(stored) == 0:
        return (stored, len(stored)) if len(stored) else (fetched, 0)
    merged = stored.overlaid_by(fetched)
    first = int(np.searchsorted(stored.ts, fetched.ts[0]))
    after, before = merged.take(slice(first, None)), stored.take(slice(first, None))
    same = isin_sorted(after.ts, before.ts)
    counterparts = np.searchsorted(before.ts, after.ts[same])
    same[same] = after.take(same).equal_rows(before.take(counterparts))
    changed = np.flatnonzero(~same)
    return merged, first + int(changed[0]) if len(changed) else len(merged)
