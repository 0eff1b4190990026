"""Corporate actions: what happened to an instrument's shares, and the factors that follow from it.

Bars are stored as they were traded. A reader who wants them on another basis multiplies by factors
that are constant between two actions:

    split:  price × ∏ 1 / ratio of all later splits, volume × ∏ ratio
    total:  price also × ∏ (1 - dividend / close before the ex-date) of all later dividends

The second is CRSP's method of total return, "Data Definitions and Coding Schemes", factor to adjust
price.

>>> import numpy as np
>>> days = np.array(["2020-08-28", "2020-08-31"], "datetime64[us]")
>>> splits = Splits.of([(date(2020, 8, 31), 4.0)], Timeframe.D1)
>>> splits.shares(days).tolist()  # one share of 28 August is four of today
[4.0, 1.0]
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Self

import numpy as np

from enrichment.domain.bars import PRICES, Bars, Floats, Timestamps, to_datetime, to_datetime64
from enrichment.domain.calendars import Market, local_midnights
from enrichment.domain.model import AssetClass, Timeframe

_WEEK_END = np.timedelta64(6, "D")  # a weekly bar is on the basis of its last day
_MAX_RATIO = 1e5

# New shares for an old one, as companies choose them; reverse splits are the inverse whole ones.
_WHOLE = np.array([2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 25, 30, 40, 50, 100], dtype=float)
USUAL_RATIOS = np.sort(np.concatenate([1 / _WHOLE, [1.5], _WHOLE]))
_MIDPOINTS = (
    np.log(USUAL_RATIOS)[1:] + np.log(USUAL_RATIOS)[:-1]
) / 2  # between neighbours' logarithms
_RATIO_TOLERANCE = 0.02

Split = tuple[date, float]
"""The first day on the new basis, and the new shares for one old."""


class ActionKind(StrEnum):
    """Of `corporate_actions`."""

    SPLIT = "split"
    STOCK_DIVIDEND = "stock_dividend"
    CASH_DIVIDEND = "cash_dividend"
    SPECIAL_DIVIDEND = "special_dividend"
    SPIN_OFF = "spin_off"
    RENAME = "rename"
    DELISTING = "delisting"

    @property
    def changes_shares(self) -> bool:
        """Whether it has a ratio, by which prices of before are divided."""
        return self in (ActionKind.SPLIT, ActionKind.STOCK_DIVIDEND)

    @property
    def pays(self) -> bool:
        """Whether it has an amount, which total return takes off the prices of before."""
        return self in (
            ActionKind.CASH_DIVIDEND,
            ActionKind.SPECIAL_DIVIDEND,
            ActionKind.SPIN_OFF,
        )


class Adjustment(StrEnum):
    """The basis on which prices are read."""

    NONE = "none"  # as traded
    SPLIT = "split"  # on today's share basis
    TOTAL = "total"  # also as if dividends had been reinvested


@dataclass(frozen=True, slots=True)
class CorporateAction:
    """One source's account of an action."""

    symbol: str
    kind: ActionKind
    effective_date: date  # of a split the first day on the new basis, of a dividend the ex-date
    source: str
    ratio: float | None = None  # new shares for one old
    amount: float | None = None  # for one share of the effective date, in `currency`
    currency: str | None = None  # None: that of the prices
    declared_date: date | None = None
    record_date: date | None = None
    pay_date: date | None = None
    vendor_id: str | None = None
    new_symbol: str | None = None  # of a rename

    @property
    def rejection(self) -> str | None:
        """Why it can't be applied, in one sentence; None if it can.

        >>> action = CorporateAction("AAPL", ActionKind.SPLIT, date(2020, 8, 31), "polygon", 0.0)
        >>> action.rejection
        'a ratio of 0 is none: it must be above 0 and at most 100000'
        """
        name, value = ("ratio", self.ratio) if self.kind.changes_shares else ("amount", self.amount)
        if not (self.kind.changes_shares or self.kind.pays):
            return None
        if value is None:
            return f"the {name} is missing"
        if not (math.isfinite(value) and 0 < value <= _MAX_RATIO):
            what = f"{'a' if name == 'ratio' else 'an'} {name} of {value:g}"
            return f"{what} is none: it must be above 0 and at most {_MAX_RATIO:.0f}"
        return None

    @property
    def doubt(self) -> str | None:
        """What contradicts itself in the account, in one sentence; it is applied all the same."""
        dates = {
            "declared": self.declared_date,
            "effective": self.effective_date,
            "paid": self.pay_date,
        }
        known = [(name, day) for name, day in dates.items() if day is not None]
        for (earlier, first), (later, second) in pairwise(known):
            if first > second:
                return f"{earlier} on {first}, after it was {later} on {second}"
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Splits:
    """The splits of one instrument as a step function of a bar's start.

    n splits divide time into n + 1 parts; `_shares[i]` shares of the newest basis are one share of
    part i.
    """

    first_ts: Timestamps  # first possible start of a bar on the basis after each split, ascending
    ratios: Floats  # new shares for one old

    @classmethod
    def of(
        cls,
        splits: Iterable[Split],
        timeframe: Timeframe,
        market: Market = AssetClass.STOCK,
    ) -> Self:
        """Splits by the date on which they take effect, as bars of a timeframe meet them."""
        ascending = sorted(splits)
        ts = np.array([day for day, _ in ascending], "datetime64[us]")
        ratios = np.array([ratio for _, ratio in ascending], dtype=float)
        return cls(first_starts(ts, timeframe, market), ratios)

    def shares(self, ts: Timestamps, *, adjusted_until: datetime | None = None) -> Floats:
        """Shares of the newest basis that one share at each bar's start has become.

        adjusted_until: bars from before are on the basis of this moment already.
        """
        if len(self.ratios) == 0:
            return np.ones(len(ts))
        if adjusted_until is not None:
            ts = np.maximum(ts, to_datetime64(adjusted_until))
        after = np.append(np.cumprod(self.ratios[::-1])[::-1], 1.0)
        return np.asarray(after[self.first_ts.searchsorted(ts, side="right")])

    def up_to(self, ts: np.datetime64) -> Splits:
        """Those that took effect at or before a bar's start."""
        count = int(self.first_ts.searchsorted(ts, side="right"))
        return Splits(self.first_ts[:count], self.ratios[:count])


NO_SPLITS = Splits(np.empty(0, "datetime64[us]"), np.empty(0))


def first_starts(
    days: Timestamps, timeframe: Timeframe, market: Market = AssetClass.STOCK
) -> Timestamps:
    """The first start that a bar of the timeframe on the basis of each day can have.

    A weekly bar is on the basis of its last day.
    """
    if timeframe is Timeframe.W1:
        return np.asarray(days - _WEEK_END)
    return local_midnights(market, days) if timeframe.intraday and len(days) else days


def within(
    splits: Iterable[Split], newest: datetime | None, adjusted_until: datetime | None
) -> list[Split]:
    """The splits that bars up to `newest` show, ascending: those after `adjusted_until`."""
    if newest is None:
        return []
    first = date.min if adjusted_until is None else adjusted_until.date()
    return [split for split in sorted(splits) if first < split[0] <= newest.date()]


def union(splits: Iterable[Split], *others: Iterable[Split]) -> list[Split]:
    """Splits of several sources, ascending; the first one's account of a day counts."""
    by_day = {day: ratio for source in reversed([splits, *others]) for day, ratio in source}
    return sorted(by_day.items())


def reported_splits(actions: Iterable[CorporateAction], today: date) -> list[Split]:
    """The splits among reported actions that have taken effect and can be applied."""
    return [
        (action.effective_date, action.ratio)
        for action in actions
        if action.kind.changes_shares and action.ratio is not None and action.rejection is None
        if action.effective_date <= today
    ]


def scaled(bars: Bars, shares: Floats) -> Bars:
    """Bars on another share basis: prices ÷ shares, volumes × shares (one number a bar)."""
    if len(bars) == 0 or (shares == 1.0).all():
        return bars
    prices = {name: getattr(bars, name) / shares for name in (*PRICES, "vwap")}
    volumes = {name: getattr(bars, name) * shares for name in ("volume", "taker_buy_volume")}
    return replace(bars, **prices, **volumes)


def implied_splits(ts: Timestamps, close: Floats, adjusted_close: Floats) -> dict[datetime, float]:
    """Splits that a column of adjusted closes implies: session → new shares for an old one.

    adjusted_close / close steps by the ratio of a split, or by that of a dividend, which is small:
    steps within 2 % of a usual ratio are splits.
    """
    steps = np.diff(np.log(adjusted_close / close))
    ratios = nearest_split_ratio(steps)
    rows = np.flatnonzero(np.abs(steps - np.log(ratios)) <= _RATIO_TOLERANCE)
    return {to_datetime(ts[row + 1]): float(ratios[row]) for row in rows}


def nearest_split_ratio(log_steps: Floats) -> Floats:
    """The usual ratio whose logarithm is nearest to each step.

    >>> nearest_split_ratio(np.log([1.9, 0.34, 1.0])).round(3).tolist()
    [2.0, 0.333, 1.5]
    """
    return np.asarray(USUAL_RATIOS[np.searchsorted(_MIDPOINTS, log_steps)])
