"""Simulated series: seeded, endless, the same bar whatever the request.

A reflected random walk gives every day's closing level; a Brownian bridge leads through the day's
five-minute points to it. All longer bars are the exact aggregation of the five-minute ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Floats, Timestamps, to_datetime
from enrichment.domain.calendars import bar_starts, last_complete
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox.counter_rng import draw, normal, seed_of, uniform
from enrichment.sandbox.series import TICKS, aggregate, within

EPOCH = datetime(2000, 1, 3, tzinfo=UTC)
_FIRST_DAY = 10_950  # days since 1970, before the epoch
_SATURDAY = 2  # 3 January 1970
_AHEAD = 400  # days that a walk goes on beyond the one asked for
_REACH = np.log(3.0)  # a price stays between a third and three times its base
_SLOTS = 288  # five-minute bars in the longest day
_STEP = timedelta(minutes=5)
_MICROSECOND = timedelta(microseconds=1)
_SHORT = timedelta(days=400)  # a window that is made by itself, not cut from whole years
_DAILY, _ACTIVITY, _OVERNIGHT, _PATH, _BAR, _CHARACTER = range(6)

Days = NDArray[np.int64]
Make = Callable[[], Bars]
# Bars that will not change, for the key of what was asked: as made, or as they are remembered.
Recall = Callable[[tuple[object, ...], Make], Bars]


def reflected(level: Floats) -> Floats:
    """A walk folded at ± ln 3: steps keep their size, prices stay plausible for ever."""
    y = np.mod(level + _REACH, 4 * _REACH)
    return np.asarray(np.where(y > 2 * _REACH, 4 * _REACH - y, y) - _REACH)


class SimulatedSeries:
    """A ticker's simulated bars from 2000 on.

    recall: where short answers may be remembered; default: nowhere.
    """

    simulated = True
    splits: Mapping[np.datetime64, float] = MappingProxyType({})

    def __init__(self, ticker: str, seed: int, recall: Recall = lambda asked, make: make()) -> None:
        self._ticker, self._recall = ticker, recall
        self._key = key = seed_of(seed, ticker)
        crypto = ticker.startswith("X:")
        self.asset_class = AssetClass.CRYPTO if crypto else AssetClass.STOCK
        low, high = (5.0, 40_000.0) if crypto else (20.0, 400.0)
        level, nerves, turnover, lot = map(float, uniform(draw(key, _CHARACTER, np.arange(4)), 0))
        self._base = np.log(low) + np.log(high / low) * level
        self._sigma = (0.04 if crypto else 0.015) * (0.7 + 0.6 * nerves)
        self._gap = 0.0 if crypto else 0.4 * self._sigma
        self._daily_volume = 5e7 * 100.0**turnover / np.exp(self._base)
        self._lot = 20 + int(180 * lot)
        self._walk = np.empty(0)
        self._year: Callable[[Timeframe, int], Bars] = lru_cache(maxsize=16)(self._make_year)

    def starts(self, timeframe: Timeframe, window: Window, now: datetime) -> Timestamps:
        start, end = max(window.start, EPOCH), min(window.end, now)
        if start >= end:
            return np.empty(0, "datetime64[us]")
        return bar_starts(self.asset_class, timeframe, start, end)

    def bars(self, timeframe: Timeframe, window: Window, now: datetime) -> Bars:
        if timeframe.intraday:
            return self._made(timeframe, window, now)
        forming = to_datetime(last_complete(self.asset_class, timeframe, now)) + _MICROSECOND
        if window.end - window.start < _SHORT:
            if window.end > forming:
                return self._made(timeframe, window, now)
            asked = (self._ticker, timeframe, window)
            return self._recall(asked, lambda: self._made(timeframe, window, now))
        start = max(window.start, EPOCH)
        years = range(start.year, min(window.end, forming).year + 1)
        whole = Bars.empty()
        for year in years:
            whole = whole.concat(self._year(timeframe, year))
        done = within(whole, Window(start, min(window.end, forming)))
        return done.concat(self._made(timeframe, Window(max(start, forming), window.end), now))

    def _make_year(self, timeframe: Timeframe, year: int) -> Bars:
        start, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
        return self._made(timeframe, Window(start, end), end + timedelta(weeks=2))

    def _made(self, timeframe: Timeframe, window: Window, now: datetime) -> Bars:
        """Bars of the window from five-minute bars that have ended by `now`."""
        starts = self.starts(timeframe, window, now)
        if len(starts) == 0:
            return Bars.empty()
        end = min(to_datetime(starts[-1]) + timeframe.duration, now - _STEP + _MICROSECOND)
        base = within(self._whole_days(starts[0], end), Window(to_datetime(starts[0]), end))
        if timeframe is Timeframe.M5:
            return base
        return aggregate(base, starts[np.searchsorted(starts, base.ts, side="right") - 1])

    def _whole_days(self, first: np.datetime64, end: datetime) -> Bars:
        """Five-minute bars of every day from the first on that starts before the end."""
        start = to_datetime(first.astype("datetime64[D]"))
        after = end.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        if start >= end:
            return Bars.empty()
        ts = bar_starts(self.asset_class, Timeframe.M5, start, after)
        return self._five_minutes(ts) if len(ts) else Bars.empty()

    def _five_minutes(self, ts: Timestamps) -> Bars:
        day = ts.astype("datetime64[D]").astype(np.int64)
        first = np.concatenate([[0], np.flatnonzero(day[1:] != day[:-1]) + 1])
        counts = np.diff(np.append(first, len(ts)))
        slots = np.arange(counts.max())
        present = slots < counts[:, None]
        prices = self._paths(day[first], counts)
        bits = draw(self._key, _BAR, day[first][:, None] * _SLOTS + slots)[present]
        wick = np.repeat(self._day_sigma(day[first]) / np.sqrt(counts), counts)
        opens, closes = prices[:, :-1][present], prices[:, 1:][present]
        highs = np.rint(np.maximum(opens, closes) * (1 + wick * uniform(bits, 0)))
        lows = np.rint(np.minimum(opens, closes) * (1 - wick * uniform(bits, 1)))
        volume = self._volume(
            day[first], counts, np.broadcast_to(slots, present.shape)[present], bits
        )
        return Bars.of(
            ts,
            opens / TICKS,
            highs / TICKS,
            lows / TICKS,
            closes / TICKS,
            volume,
            vwap=np.rint((opens + highs + lows + closes) / 4) / TICKS,
            trades=1 + volume // self._lot,
            taker_buy_volume=np.rint(volume * (0.3 + 0.4 * uniform(bits, 3))),
        )

    def _paths(self, days: Days, counts: Days) -> Floats:
        """Each day's price points in ticks: a bridge from the opening to the closing level."""
        slots = np.arange(counts.max())
        steps = normal(draw(self._key, _PATH, days[:, None] * _SLOTS + slots))
        steps *= (self._day_sigma(days) / np.sqrt(counts))[:, None]
        walk = np.zeros((len(days), len(slots) + 1))
        np.cumsum(steps, axis=1, out=walk[:, 1:])
        opening, closing = self._openings(days), self._level(days)
        row, last = np.arange(len(days)), counts
        drift = (closing - opening - walk[row, last])[:, None]
        walk += opening[:, None] + drift * (np.arange(len(slots) + 1) / counts[:, None])
        walk[row, last] = closing
        return np.asarray(np.rint(np.exp(walk) * TICKS))

    def _level(self, days: Days) -> Floats:
        """Log price at the days' closes."""
        steps, walk = days - _FIRST_DAY, self._walk
        if (last := int(steps.max())) >= len(walk):
            walk = self._walk = self._walked(last + _AHEAD)
        return np.asarray(self._base + reflected(walk[steps]))

    def _openings(self, days: Days) -> Floats:
        gap = self._gap * normal(draw(self._key, _OVERNIGHT, days))
        return np.asarray(self._level(days - 1) + gap)

    def _activity(self, days: Days) -> Floats:
        return 0.6 + 0.8 * uniform(draw(self._key, _ACTIVITY, days), 0)

    def _day_sigma(self, days: Days) -> Floats:
        return self._sigma * self._activity(days)

    def _volume(self, days: Days, counts: Days, slot: Days, bits: NDArray[np.uint64]) -> Floats:
        length = np.repeat(counts, counts)
        edge = (2 * slot + 1) / length - 1
        mean = self._daily_volume * np.repeat(self._activity(days), counts) / length
        return np.asarray(
            1 + np.rint(mean * (0.6 + 1.2 * edge**2) * (0.4 + 1.2 * uniform(bits, 2)))
        )

    def _walked(self, count: int) -> Floats:
        """The walk, before it is folded, at the close of so many days."""
        days = np.arange(_FIRST_DAY, _FIRST_DAY + count)
        steps = self._day_sigma(days) * normal(draw(self._key, _DAILY, days))
        if self.asset_class is not AssetClass.CRYPTO:
            for rest in (_SATURDAY, _SATURDAY + 1):
                steps[(rest - _FIRST_DAY) % 7 :: 7] = 0.0
        return np.asarray(np.cumsum(steps))


def continuation(
    ts: Timestamps, last_close: float, *, key: int, sigma: float, volume: float, decimals: int
) -> Bars:
    """A seeded walk on the given bar starts, from a recorded series' last close on."""
    if len(ts) == 0:
        return Bars.empty()
    counter = (ts - ts[0]).astype(np.int64) // 3_600_000_000
    bits = draw(key, _BAR, counter)
    walk = reflected(np.cumsum(sigma * normal(draw(key, _DAILY, counter))))
    close = np.round(last_close * np.exp(walk), decimals)
    opening = np.concatenate([[last_close], close[:-1]])
    high = np.round(np.maximum(opening, close) * (1 + sigma * uniform(bits, 0)), decimals)
    low = np.round(np.minimum(opening, close) * (1 - sigma * uniform(bits, 1)), decimals)
    return Bars.of(ts, opening, high, low, close, np.rint(volume * (0.4 + 1.2 * uniform(bits, 2))))
