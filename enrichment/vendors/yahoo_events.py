"""Splits and dividends in Yahoo's charts, and prices put back to what was traded.

A chart's prices are adjusted for every split up to today, also for those after its window, but it
lists the events of its window only: so charts of shares are asked for up to now. Dividends are for
one share of today, too.

>>> events = {"splits": {"1": {"date": 1598880600, "numerator": 4, "denominator": 1}}}
>>> [(action.effective_date.isoformat(), action.ratio) for action in parse(events, "AAPL", "USD")]
[('2020-08-31', 4.0)]
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np

from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.calendars import Market, canonical
from enrichment.domain.corporate_actions import (
    ActionKind,
    CorporateAction,
    Splits,
    reported_splits,
    scaled,
)
from enrichment.domain.errors import MalformedResponse
from enrichment.domain.exchanges import exchange_of
from enrichment.domain.model import Timeframe
from enrichment.vendors.base import to_timestamps


def parse(
    events: Mapping[str, Any], symbol: str, currency: str | None, source: str = "yahoo"
) -> list[CorporateAction]:
    """The actions of a chart's `events`, with amounts for one share of their day, ascending.

    Raises MalformedResponse for an event that can't be read.
    """
    splits = [
        CorporateAction(symbol, ActionKind.SPLIT, day, source, _ratio(event))
        for day, event in _dated(events.get("splits"), exchange_of(symbol))
    ]
    dividends = [
        CorporateAction(
            symbol, ActionKind.CASH_DIVIDEND, day, source, amount=amount, currency=currency
        )
        for day, event in _dated(events.get("dividends"), exchange_of(symbol))
        if (amount := _number(event.get("amount"))) is not None
    ]
    shares = Splits.of(reported_splits(splits, date.max), Timeframe.D1)
    on_their_day = [
        replace(action, amount=action.amount * float(shares.shares(_day(action))[0]))
        for action in dividends
        if action.amount is not None
    ]
    return sorted([*splits, *on_their_day], key=lambda action: action.effective_date)


def as_traded(
    bars: Bars, actions: list[CorporateAction], timeframe: Timeframe, market: Market
) -> Bars:
    """Bars adjusted for all splits of these actions as they were traded."""
    shares = Splits.of(reported_splits(actions, date.max), timeframe, market).shares(bars.ts)
    return scaled(bars, 1 / shares)


def _day(action: CorporateAction) -> np.ndarray[Any, np.dtype[np.datetime64]]:
    return np.array([action.effective_date], "datetime64[us]")


def _dated(entries: Any, market: Market) -> Iterator[tuple[date, Mapping[str, Any]]]:
    """The events of one kind with their dates at the exchange; two on one day stay two."""
    if entries is None:
        return
    if not isinstance(entries, Mapping) or not all(isinstance(e, dict) for e in entries.values()):
        raise MalformedResponse("'events' does not hold objects")
    for event in entries.values():
        stamp = to_timestamps([event.get("date")], "date of an event", "s")
        day = canonical(market, Timeframe.D1, stamp)[0]
        yield to_datetime(day).date(), event


def _ratio(event: Mapping[str, Any]) -> float | None:
    """New shares for one old; None where the event does not say."""
    new, old = _number(event.get("numerator")), _number(event.get("denominator"))
    return None if new is None or not old else new / old


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
