"""Bars: the columns of one OHLCV series as numpy arrays of equal length n.

Timestamps are `datetime64[us]` in UTC and mark a bar's start. Daily bars carry their session's date
at 00:00 UTC and weekly bars the Monday of their week at 00:00 UTC, whatever the vendor's own
convention, so that series of different vendors meet on the same keys.
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


def to_datetime64(moment: datetime) -> np.datetime64:
    """A timezone-aware moment as `datetime64[us]` in UTC."""
    return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")


def to_datetime(ts: np.datetime64) -> datetime:
    """A `datetime64` as a timezone-aware UTC moment."""
    moment: datetime = ts.astype("datetime64[us]").item()
    return moment.replace(tzinfo=UTC)


def isin_sorted(ts: Timestamps, ascending: Timestamps) -> NDArray[np.bool_]:
    """Whether each moment is one of the ascending ones."""
    return ascending.searchsorted(ts, side="right") > ascending.searchsorted(ts)


def safe_divide(above: Floats, below: Floats) -> Floats:
    """above / below where below > 0, else NaN."""
    out = np.full(len(above), np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        np.divide(above, below, out=out, where=below > 0)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Bars:
    """Columns of one OHLCV series, each of length n.

    ts: UTC start of each bar. Prices are in the instrument's currency, volume in units traded.
    vwap, trades and taker_buy_volume are NaN where the vendor does not give them.
    """

    ts: Timestamps
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    vwap: Floats
    trades: Floats
    taker_buy_volume: Floats

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
        unknown = np.full(len(ts), np.nan)
        return cls(
            ts.astype("datetime64[us]"),
            *(np.ascontiguousarray(c, np.float64) for c in (open, high, low, close, volume)),
            *(
                unknown if c is None else np.ascontiguousarray(c, np.float64)
                for c in (vwap, trades, taker_buy_volume)
            ),
        )

    @classmethod
    def empty(cls) -> Self:
        return cls.of(np.empty(0, "datetime64[us]"), *(np.empty(0) for _ in range(5)))

    def columns(self) -> dict[str, NDArray[Any]]:
        """Name → column, `ts` first."""
        return dict(zip(self.__slots__, _columns(self), strict=True))

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp] | slice) -> Self:
        """The chosen rows, by mask, index or slice."""
        return type(self)(*[column[rows] for column in _columns(self)])

    def concat(self, *others: Bars) -> Self:
        """These rows, then the others'."""
        rows = zip(_columns(self), *map(_columns, others), strict=True)
        return type(self)(*map(np.concatenate, rows))

    def ascending(self) -> Self:
        """The rows in the order of their starts; rows of one start keep theirs."""
        return self.take(np.argsort(self.ts, kind="stable"))

    def missing_from(self, other: Bars) -> NDArray[np.bool_]:
        """Whether each row's start is none of the other's, which are ascending."""
        return ~isin_sorted(self.ts, other.ts)

    def overlaid_by(self, other: Bars) -> Self:
        """These ascending rows with the other's laid over them, whose row stays on equal starts."""
        first = int(np.searchsorted(self.ts, other.ts[0])) if len(other) else len(self)
        rest = self.take(slice(first, None))
        alone = rest.missing_from(other)
        over = rest.take(alone).concat(other).ascending() if alone.any() else other
        return self.take(slice(first)).concat(over)

    def intersect(self, other: Bars) -> tuple[Self, Bars]:
        """The rows of both with the same starts, ascending; neither may repeat a start."""
        _, mine, theirs = np.intersect1d(self.ts, other.ts, assume_unique=True, return_indices=True)
        return self.take(mine), other.take(theirs)


_columns: Callable[[Bars], tuple[NDArray[Any], ...]] = attrgetter(*Bars.__slots__)
