"""Stocks' trades before and after the regular session, 04:00 to 20:00 in New York, as simulated.

Regular five-minute bars come from the series; those around them are seeded, close to the last
regular price. Longer bars start on the clock, so the one at 09:00 holds trades of both.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np

from enrichment.domain.bars import Bars, Floats, Timestamps, between, to_datetime
from enrichment.domain.calendars import bar_starts, local_midnights, session_hours
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox.counter_rng import normal, random_bits, seed_of, uniform
from enrichment.sandbox.generator import EPOCH
from enrichment.sandbox.series import TICKS, SandboxSeries, aggregate
from enrichment.sandbox.share_actions import ShareActions

_MINUTE = np.timedelta64(1, "m").astype("timedelta64[us]")
_FIRST, _LAST, _STEP = 240 * _MINUTE, 1200 * _MINUTE, 5 * _MINUTE
_MARGIN = timedelta(days=2)  # between a day's label and its last trades in UTC
_WEEK = timedelta(days=7)  # holds the session before any other
_OPENS, _CLOSES, _VOLUMES = range(3)  # streams of random bits
_SIGMA = 0.004


def extended_starts(timeframe: Timeframe, window: Window, now: datetime) -> Timestamps:
    """Starts of the intraday bars in the window that have begun by `now`."""
    start, end = max(window.start, EPOCH), min(window.end, now)
    if start >= end:
        return np.empty(0, "datetime64[us]")
    days = bar_starts(AssetClass.STOCK, Timeframe.D1, start - _MARGIN, end + _MARGIN)
    return between(_slots(days, np.timedelta64(timeframe.duration)), start, end)


def extended_bars(
    ticker: str, series: SandboxSeries, timeframe: Timeframe, window: Window, now: datetime
) -> Bars:
    """The window's bars, of trades that have been reported by `now`."""
    starts = extended_starts(timeframe, window, now)
    if len(starts) == 0:
        return Bars.empty()
    end = to_datetime(starts[-1]) + timeframe.duration
    regular = series.bars(Timeframe.M5, Window(to_datetime(starts[0]) - _WEEK, end), now)
    bars = regular.concat(_outside_sessions(ticker, series, regular, starts, now))
    order = np.argsort(bars.ts)
    order = order[(bars.ts[order] >= starts[0]) & (bars.ts[order] < np.datetime64(_naive(end)))]
    bars = bars.take(order)
    return aggregate(bars, starts[np.searchsorted(starts, bars.ts, side="right") - 1])


def _shares(series: SandboxSeries, ts: Timestamps) -> Floats:
    """What one share of before all splits has become on the days in New York."""
    days = np.array(list(series.splits), "datetime64[us]")
    midnights = local_midnights(AssetClass.STOCK, days)
    return ShareActions(dict(zip(midnights, series.splits.values(), strict=True))).shares(ts)


def _naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)


def _slots(days: Timestamps, step: np.timedelta64) -> Timestamps:
    midnights = local_midnights(AssetClass.STOCK, days)
    return np.asarray((midnights[:, None] + np.arange(_FIRST, _LAST, step)).ravel())


def _outside_sessions(
    ticker: str, series: SandboxSeries, regular: Bars, starts: Timestamps, now: datetime
) -> Bars:
    """Five-minute bars of the starts' days outside the sessions, once they have ended."""
    first, last = to_datetime(starts[0]) - _MARGIN, to_datetime(starts[-1]) + _MARGIN
    days = bar_starts(AssetClass.STOCK, Timeframe.D1, first, last)
    ts = _slots(days, _STEP)
    opens, closes = (np.repeat(h, len(ts) // len(days)) for h in session_hours(days))
    outside = ((ts < opens) | (ts >= closes)) & (ts + _STEP <= np.datetime64(_naive(now)))
    ts = ts[outside]
    known = np.searchsorted(regular.ts, ts) - 1
    ts, known = ts[known >= 0], known[known >= 0]
    shares = _shares(series, ts)
    seed, counter = seed_of(ticker, "extended hours"), ts.astype(np.int64) // 300_000_000
    volume = np.rint(50 + 900 * uniform(random_bits(seed, _VOLUMES, counter), 0))
    open_, close = (
        np.rint(
            regular.close[known]
            * (_shares(series, regular.ts[known]) / shares)
            * np.exp(_SIGMA * normal(random_bits(seed, stream, counter)))
            * TICKS
        )
        for stream in (_OPENS, _CLOSES)
    )
    high, low = np.maximum(open_, close), np.minimum(open_, close)
    return Bars.of(
        ts,
        open_ / TICKS,
        high / TICKS,
        low / TICKS,
        close / TICKS,
        np.rint(volume * shares),
        vwap=np.rint((open_ + close) / 2) / TICKS,
        trades=1 + volume // 100,
        taker_buy_volume=np.rint(volume * shares / 2),
    )
