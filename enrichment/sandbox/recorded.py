"""Recorded series: real bars, shifted so that they end at the last session before the anchor.

Each recorded bar is assigned to one session of the calendar, in order, with its prices and volume
unchanged. After the anchor a seeded walk continues from the last recorded close, so that a
long-lived installation gets a new bar every session and never a changed one.
"""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache, partial
from importlib.resources import files

import numpy as np

from enrichment.domain.bars import Bars, Floats, Timestamps, to_datetime, to_datetime64
from enrichment.domain.calendars import Market, bar_starts, last_complete, monday_of
from enrichment.domain.corporate_actions import implied_splits
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox.counter_rng import seed_of
from enrichment.sandbox.generator import continuation
from enrichment.sandbox.series import aggregate, within

EURUSD = "C:EURUSD"
_HOUR = np.timedelta64(1, "h").astype("timedelta64[us]")
_DAY = 24 * _HOUR
_WEEK = 7 * _DAY
_MIN_YIELD, _MAX_YIELD = 1e-3, 0.2  # a smaller step is noise, a larger one a split
_FX_OPEN, _FX_CLOSE = 22, 141  # hours of the week: Sunday 22:00 to Friday 21:00 UTC

LastComplete = Callable[[datetime], np.datetime64]


@lru_cache(maxsize=1)
def recordings() -> dict[str, Bars]:
    """Ticker → its recorded bars on their original dates."""
    columns = ("open", "high", "low", "close", "volume")
    rows: dict[str, list[list[str]]] = defaultdict(list)
    for row in _rows("us_stocks_daily.csv.gz"):
        rows[row["symbol"]].append([row["date"], *(row[c] for c in columns)])
    for row in _rows("eurusd_hourly.csv.gz"):
        rows[EURUSD].append([row["timestamp"], *(row[c] for c in columns)])
    return {ticker: _bars(cells) for ticker, cells in rows.items()}


@lru_cache(maxsize=1)
def adjusted_closes() -> dict[str, Floats]:
    """Ticker → its recorded closes adjusted for splits and dividends."""
    closes: dict[str, list[float]] = defaultdict(list)
    for row in _rows("us_stocks_daily.csv.gz"):
        closes[row["symbol"]].append(float(row["adj_close"]))
    return {ticker: np.array(values) for ticker, values in closes.items()}


def _rows(name: str) -> list[dict[str, str]]:
    compressed = files("enrichment.sandbox").joinpath("data", name).read_bytes()
    return list(csv.DictReader(gzip.decompress(compressed).decode().splitlines()))


def _bars(cells: list[list[str]]) -> Bars:
    ts, *columns = zip(*cells, strict=True)
    numbers = [np.array(column, dtype=np.float64) for column in columns]
    return Bars.of(np.array(ts, dtype="datetime64[us]"), *numbers)


class RecordedSeries:
    """Bars of one native timeframe, and longer ones aggregated from them.

    Args:
        aggregations: Timeframe → function from native bar starts to those of that timeframe.
        later_starts: (after, last) → the native bar starts in (after, last]; None: the series ends
            with its recording.
        last_complete: (now) → the start of the last native bar that has ended by then.
        continuation: (starts, last close) → bars that continue the recording.
        splits: Start of the first bar after each split → new shares for an old one.
        dividends: Start of the bar of each ex-date → amount for one share of that day.
    """

    simulated = False

    def __init__(
        self,
        asset_class: AssetClass,
        recorded: Bars,
        aggregations: dict[Timeframe, Callable[[Timestamps], Timestamps]],
        later_starts: Callable[[np.datetime64, np.datetime64], Timestamps] | None,
        last_complete: LastComplete,
        continuation: Callable[[Timestamps, float], Bars],
        splits: Mapping[np.datetime64, float] | None = None,
        dividends: Mapping[np.datetime64, float] | None = None,
    ) -> None:
        self.asset_class = asset_class
        self.market: Market = asset_class
        self.splits, self.dividends = splits or {}, dividends or {}
        self._recorded, self._aggregations = recorded, aggregations
        self._later_starts, self._last_complete = later_starts, last_complete
        self._continuation = continuation
        self._until: Callable[[Timeframe, np.datetime64], Bars] = lru_cache(maxsize=8)(
            self._computed
        )

    def starts(self, timeframe: Timeframe, window: Window, now: datetime) -> Timestamps:
        return self.bars(timeframe, window, now).ts

    def bars(self, timeframe: Timeframe, window: Window, now: datetime) -> Bars:
        if timeframe not in self._aggregations:
            return Bars.empty()
        return within(self._until(timeframe, self._last_complete(now)), window)

    def _computed(self, timeframe: Timeframe, last: np.datetime64) -> Bars:
        native = self._recorded
        if self._later_starts is not None:
            later = self._later_starts(native.ts[-1], last)
            native = native.concat(self._continuation(later, float(native.close[-1])))
        native = native.take(native.ts <= last)
        return aggregate(native, self._aggregations[timeframe](native.ts))


def recorded_series(ticker: str, anchor: datetime, *, shifted: bool, seed: int) -> RecordedSeries:
    """The replay of a recorded ticker; if not shifted, it has its original dates only."""
    recorded, key = recordings()[ticker], seed_of(seed, ticker)
    if ticker == EURUSD:
        return _forex(recorded, anchor, shifted, key)
    return _stock(recorded, adjusted_closes()[ticker], anchor, shifted, key)


def _stock(
    recorded: Bars, adjusted: Floats, anchor: datetime, shifted: bool, key: int
) -> RecordedSeries:
    if shifted:
        last = to_datetime(last_complete(AssetClass.STOCK, Timeframe.D1, anchor))
        since = last - timedelta(days=len(recorded) * 3 // 2 + 30)
        until = last + timedelta(days=1)
        sessions = bar_starts(AssetClass.STOCK, Timeframe.D1, since, until)
        recorded = _with_starts(recorded, sessions[-len(recorded) :])
    volume = float(np.median(recorded.volume[-250:]))
    splits = implied_splits(recorded.ts, recorded.close, adjusted)
    return RecordedSeries(
        AssetClass.STOCK,
        recorded,
        {Timeframe.D1: lambda ts: ts, Timeframe.W1: monday_of},
        _sessions_between if shifted else None,
        partial(last_complete, AssetClass.STOCK, Timeframe.D1),
        partial(continuation, key=key, sigma=0.015, volume=volume, decimals=2),
        {to_datetime64(day): ratio for day, ratio in splits.items()},
        _implied_dividends(recorded, adjusted),
    )


def _implied_dividends(bars: Bars, adjusted: Floats) -> dict[np.datetime64, float]:
    """The dividends that adjusted closes imply: adjusted / close steps by 1 - amount / close."""
    factor = adjusted / bars.close
    steps = 1 - factor[:-1] / factor[1:]
    rows = np.flatnonzero((steps > _MIN_YIELD) & (steps < _MAX_YIELD))
    amounts = np.round(steps * bars.close[:-1], 4)
    return {bars.ts[row + 1]: float(amounts[row]) for row in rows}


def _sessions_between(after: np.datetime64, last: np.datetime64) -> Timestamps:
    start, end = to_datetime(after) + timedelta(days=1), to_datetime(last) + timedelta(days=1)
    return bar_starts(AssetClass.STOCK, Timeframe.D1, start, max(start, end))


def _forex(recorded: Bars, anchor: datetime, shifted: bool, key: int) -> RecordedSeries:
    if shifted:
        weeks = (to_datetime64(anchor) - _HOUR - recorded.ts[-1]) // _WEEK
        recorded = _with_starts(recorded, recorded.ts + weeks * _WEEK)
    return RecordedSeries(
        AssetClass.CRYPTO,  # Polygon stamps currencies in UTC, as it does crypto
        recorded,
        {
            Timeframe.H1: lambda ts: ts,
            Timeframe.H4: lambda ts: _floor(ts, 4 * _HOUR),
            Timeframe.D1: lambda ts: _floor(ts, _DAY),
        },
        _trading_hours if shifted else None,
        _last_hour,
        partial(
            continuation,
            key=key,
            sigma=0.001,
            volume=float(np.median(recorded.volume)),
            decimals=5,
        ),
    )


def _last_hour(now: datetime) -> np.datetime64:
    hour: np.datetime64 = to_datetime64(now.replace(minute=0, second=0, microsecond=0)) - _HOUR
    return hour


def _trading_hours(after: np.datetime64, last: np.datetime64) -> Timestamps:
    hours = np.arange(after + _HOUR, max(last, after) + _HOUR, _HOUR)
    hours = hours[hours <= last]
    sunday = monday_of(hours + _DAY) - _DAY
    hour_of_week = (hours - sunday) // _HOUR
    return np.asarray(hours[(hour_of_week >= _FX_OPEN) & (hour_of_week < _FX_CLOSE)])


def _floor(ts: Timestamps, step: np.timedelta64) -> Timestamps:
    return np.asarray(ts - (ts - np.datetime64(0, "us")) % step)


def _with_starts(bars: Bars, ts: Timestamps) -> Bars:
    return Bars.of(ts, bars.open, bars.high, bars.low, bars.close, bars.volume)
