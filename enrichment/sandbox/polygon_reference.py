"""Polygon's reference data over the sandbox's series: whole days, splits, dividends, tickers."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, Mapping
from datetime import date, datetime, timedelta
from operator import eq, ge, gt, itemgetter, le, lt
from typing import Any

import numpy as np

from enrichment.domain.bars import to_datetime, to_datetime64
from enrichment.domain.calendars import session_hours
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox.counter_rng import seed_of
from enrichment.sandbox.data_faults import with_faults
from enrichment.sandbox.faults import Fault
from enrichment.sandbox.market import SHARE_CLASSES, Market
from enrichment.sandbox.polygon_query import BadQueryError, integer
from enrichment.sandbox.series import split_adjusted
from enrichment.sandbox.share_actions import in_force

_DAY = timedelta(days=1)
_EVER = Window(to_datetime(np.datetime64("1990-01-01")), to_datetime(np.datetime64("2100-01-01")))
_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "": eq,
    ".gte": ge,
    ".gt": gt,
    ".lte": le,
    ".lt": lt,
}
_MAX_LIMIT = 5000
_NAMES = {
    "AAPL": "Apple Inc.",
    "IBM": "International Business Machines Corporation",
    "MSFT": "Microsoft Corp",
    "GOOG": "Alphabet Inc. Class C Capital Stock",
    "FB": "Meta Platforms, Inc. Class A Common Stock",
    "BRK.B": "BERKSHIRE HATHAWAY Class B",
    "BACpL": "Bank of America Corporation Preferred Stock Series L",
}
Row = dict[str, Any]


def grouped_day(
    market: Market,
    day: datetime,
    now: datetime,
    faults: Callable[[str], list[Fault]],
    *,
    adjusted: bool,
) -> list[Row]:
    """The rows of all listed stocks on one day, stamped at its close.

    Args:
        day: 00:00 UTC of the date.
        faults: Ticker → the data faults in its bars.
        adjusted: Whether for all splits since.
    """
    rows: list[Row] = []
    for ticker, series in market.listed():
        bars = series.bars(Timeframe.D1, Window(day, day + _DAY), now)
        bars = split_adjusted(bars, series.splits, now) if adjusted else bars
        bars = with_faults(bars, faults(ticker), bars.ts)
        _, closes = session_hours(bars.ts)
        columns = [bars.open, bars.high, bars.low, bars.close, bars.volume, bars.vwap, bars.trades]
        for close, *values in zip(closes, *(column.tolist() for column in columns), strict=True):
            stamp = int(close.astype("datetime64[ms]").astype(np.int64))
            row = dict(zip(("o", "h", "l", "c", "v", "vw", "n"), values, strict=True))
            rows.append({"T": ticker, "t": stamp, **{k: v for k, v in row.items() if v == v}})
    return rows


def splits(market: Market, until: datetime) -> Iterator[Row]:
    """Every split of every stock up to a moment, in no order."""
    for ticker, series in market.with_actions():
        factor = 1.0
        for day, ratio in sorted(_known(series.splits, until), reverse=True):
            factor /= ratio
            new, old = (ratio, 1.0) if ratio >= 1 else (1.0, 1 / ratio)
            yield {
                "id": _id("S", ticker, day),
                "ticker": ticker,
                "execution_date": _iso(day),
                "adjustment_type": "forward_split" if ratio >= 1 else "reverse_split",
                "split_from": old,
                "split_to": new,
                "historical_adjustment_factor": factor,
            }


def dividends(market: Market, until: datetime) -> Iterator[Row]:
    """Every dividend of every stock up to a moment, in no order; their factors may be null."""
    for ticker, series in market.with_actions():
        for day, amount in _known(series.dividends, until):
            ratio = np.prod([r for split, r in _known(series.splits, until) if split > day])
            yield {
                "id": _id("D", ticker, day),
                "ticker": ticker,
                "cash_amount": amount,
                "currency": "USD",
                "declaration_date": _iso(day - np.timedelta64(14, "D")),
                "ex_dividend_date": _iso(day),
                "record_date": _iso(day + np.timedelta64(1, "D")),
                "pay_date": _iso(day + np.timedelta64(14, "D")),
                "frequency": 4,
                "distribution_type": "recurring",
                "historical_adjustment_factor": None,
                "split_adjusted_cash_amount": float(amount / ratio),
            }


def _known(
    events: Mapping[np.datetime64, float], until: datetime
) -> ItemsView[np.datetime64, float]:
    return in_force(events, to_datetime64(until)).items()


def ticker_details(market: Market, ticker: str, now: datetime) -> Row | None:
    """What Polygon says of a ticker; None if it does not list it, or did not at that time."""
    series = market.series(ticker)
    if series is None:
        return None
    first = series.starts(Timeframe.D1, _EVER, now)[:1]
    if len(first) == 0:
        return None
    crypto = series.asset_class is AssetClass.CRYPTO
    details: Row = {
        "ticker": ticker,
        "name": _NAMES.get(ticker, f"{ticker} (simulated)"),
        "market": "crypto" if crypto else "stocks",
        "locale": "global" if crypto else "us",
        "active": True,
        "currency_name": "usd",
    }
    if not crypto:
        details |= {
            "primary_exchange": "XNAS",
            "type": "PFD" if ticker in SHARE_CLASSES and "p" in ticker else "CS",
            "cik": f"{seed_of(ticker, 'cik') % 10**10:010d}",
            "composite_figi": f"BBG{seed_of(ticker, 'figi') % 10**9:09d}",
            "list_date": _iso(first[0]),
        }
    return details


def selected(
    rows: Iterator[Row], date_field: str, arguments: Mapping[str, str], earliest: date | None
) -> tuple[list[Row], int | None]:
    """The page of rows that the filters ask for, and where the next page starts.

    Args:
        earliest: Rows before it are left out, as the plan demands.

    Raises:
        BadQueryError: A limit or position is no number, or the order is not one of a field.
    """
    field, _, order = arguments.get("sort", f"{date_field}.desc").partition(".")
    if field not in (date_field, "ticker") or order not in ("", "asc", "desc"):
        raise BadQueryError(f"Could not sort by '{arguments['sort']}'")
    limit = integer(arguments.get("limit", "100"), "limit", 1, _MAX_LIMIT)
    start = integer(arguments.get("cursor", "0"), "cursor", 0)
    matching = [row for row in rows if _matches(row, date_field, arguments)]
    if earliest is not None:
        matching = [row for row in matching if row[date_field] >= earliest.isoformat()]
    matching.sort(key=itemgetter(field, "ticker"), reverse=order == "desc")
    end = start + limit
    return matching[start:end], end if end < len(matching) else None


def _matches(row: Row, date_field: str, arguments: Mapping[str, str]) -> bool:
    tickers = arguments.get("ticker.any_of")
    if tickers is not None and row["ticker"] not in tickers.split(","):
        return False
    return all(
        compare(row[field], arguments[field + suffix])
        for field in (date_field, "ticker")
        for suffix, compare in _COMPARISONS.items()
        if field + suffix in arguments
    )


def _id(kind: str, ticker: str, day: np.datetime64) -> str:
    return f"{kind}{seed_of(kind, ticker, _iso(day)):016x}"


def _iso(day: np.datetime64) -> str:
    return str(day.astype("datetime64[D]"))


def day_of(text: str) -> datetime:
    """00:00 UTC of a date; BadQueryError if it is none."""
    try:
        return to_datetime(to_datetime64(datetime.fromisoformat(f"{text}T00:00:00+00:00")))
    except ValueError:
        raise BadQueryError("Could not parse the date: use YYYY-MM-DD") from None
