"""Simulated series: seeded and endless; a bar does not depend on the request.

A reflected random walk gives the closing level of each day, and a Brownian bridge the five-minute
prices within it. Longer bars are aggregated exactly from the five-minute ones.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Floats, Timestamps, to_datetime, to_datetime64
from enrichment.domain.calendars import (
    bar_starts,
    in_local_time,
    last_complete,
    local_midnights,
    market_of,
)
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.sandbox.counter_rng import normal, random_bits, seed_of, uniform
from enrichment.sandbox.series import TICKS, aggregate, within
from enrichment.sandbox.share_actions import Events, ShareActions

EPOCH = datetime(2000, 1, 3, tzinfo=UTC)
_FIRST_DAY = 10_950  # days since 1970, before the epoch
_SATURDAY = 2  # 3 January 1970
_DAYS_AHEAD = 400  # computed beyond the requested day when a walk is extended
_MAX_LOG_RATIO = np.log(3.0)  # a price stays between a third and three times its base
_SLOTS = 288  # five-minute bars in the longest day
_STEP = timedelta(minutes=5)
_MICROSECOND = timedelta(microseconds=1)
_SHORT = timedelta(days=400)  # a shorter window is computed alone, not taken from whole years
_DAILY, _ACTIVITY, _OVERNIGHT, _PATH, _BAR, _CHARACTER = range(6)  # streams of random bits

Days = NDArray[np.int64]
Compute = Callable[[], Bars]
# (key, compute) → the bars of the key, cached or computed
Cached = Callable[[tuple[object, ...], Compute], Bars]


def reflected(level: Floats) -> Floats:
    """A walk reflected at ± ln 3: its steps keep their size, and prices stay plausible."""
    y = np.mod(level + _MAX_LOG_RATIO, 4 * _MAX_LOG_RATIO)
    return np.asarray(np.where(y > 2 * _MAX_LOG_RATIO, 4 * _MAX_LOG_RATIO - y, y) - _MAX_LOG_RATIO)


class SimulatedSeries:
    """A ticker's simulated bars from 2000 on.

    Args:
        ticker: SIM… or X:SIM…USD.
        seed: Of all series.
        cached: A cache of short results; default: none.
        actions: Its splits and dividends; None: those that the ticker has everywhere.
    """

    simulated = True

    def __init__(
        self,
        ticker: str,
        seed: int,
        cached: Cached = lambda key, compute: compute(),
        actions: ShareActions | None = None,
    ) -> None:
        self._ticker, self._cached = ticker, cached
        self._key = key = seed_of(seed, ticker)
        crypto = ticker.startswith("X:")
        self.asset_class = AssetClass.CRYPTO if crypto else AssetClass.STOCK
        self.market = market_of(ticker, self.asset_class)
        low, high = (5.0, 40_000.0) if crypto else (20.0, 400.0)
        character = uniform(random_bits(key, _CHARACTER, np.arange(4)), 0)
        level, volatility, turnover, lot = map(float, character)
        self._base = np.log(low) + np.log(high / low) * level
        self._sigma = (0.04 if crypto else 0.015) * (0.7 + 0.6 * volatility)
        self._gap = 0.0 if crypto else 0.4 * self._sigma
        self._daily_volume = 5e7 * 100.0**turnover / np.exp(self._base)
        self._lot = 20 + int(180 * lot)
        self._walk = np.empty(0)
        self._actions = ShareActions.of(ticker) if actions is None else actions
        self.splits: Events = self._actions.splits
        price = float(np.exp(self._base))
        self.dividends: Events = {
            day: round(price * share / float(self._shares(day.astype("datetime64[D]"))), 4)
            for day, share in self._actions.yields.items()
        }
        self._year: Callable[[Timeframe, int], Bars] = lru_cache(maxsize=16)(self._computed_year)

    def starts(self, timeframe: Timeframe, window: Window, now: datetime) -> Timestamps:
        start, end = max(window.start, EPOCH), min(window.end, now)
        if start >= end:
            return np.empty(0, "datetime64[us]")
        return bar_starts(self.market, timeframe, start, end)

    def bars(self, timeframe: Timeframe, window: Window, now: datetime) -> Bars:
        if timeframe.intraday:
            return self._computed(timeframe, window, now)
        forming = to_datetime(last_complete(self.market, timeframe, now)) + _MICROSECOND
        if window.end - window.start < _SHORT:
            if window.end > forming:
                return self._computed(timeframe, window, now)
            key = (self._ticker, timeframe, window)
            return self._cached(key, lambda: self._computed(timeframe, window, now))
        start = max(window.start, EPOCH)
        years = range(start.year, min(window.end, forming).year + 1)
        bars = Bars.empty()
        for year in years:
            bars = bars.concat(self._year(timeframe, year))
        complete = within(bars, Window(start, min(window.end, forming)))
        rest = Window(max(start, forming), window.end)
        return complete.concat(self._computed(timeframe, rest, now))

    def _computed_year(self, timeframe: Timeframe, year: int) -> Bars:
        start, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
        return self._computed(timeframe, Window(start, end), end + timedelta(weeks=2))

    def _computed(self, timeframe: Timeframe, window: Window, now: datetime) -> Bars:
        """The window's bars, aggregated from five-minute bars that have ended by `now`."""
        starts = self.starts(timeframe, window, now)
        if len(starts) == 0:
            return Bars.empty()
        edges = np.array([starts[0], starts[-1] + np.timedelta64(timeframe.duration)])
        local = in_local_time(self.market, edges) if timeframe.intraday else edges
        base = self._whole_days(*local.astype("datetime64[D]"))
        clock = base.ts if timeframe.intraday else in_local_time(self.market, base.ts)
        rows = (clock >= edges[0]) & (clock < edges[1]) & (base.ts <= to_datetime64(now - _STEP))
        base = base.take(rows)
        if timeframe is Timeframe.M5:
            return base
        return aggregate(base, starts[np.searchsorted(starts, clock[rows], side="right") - 1])

    def _whole_days(self, first: np.datetime64, last: np.datetime64) -> Bars:
        """The five-minute bars of the exchange's days from `first` to `last`."""
        days = np.array([first, last + np.timedelta64(1, "D")]).astype("datetime64[us]")
        start, end = (to_datetime(ts) for ts in local_midnights(self.market, days))
        ts = bar_starts(self.market, Timeframe.M5, start, end)
        return self._five_minutes(ts) if len(ts) else Bars.empty()

    def _five_minutes(self, ts: Timestamps) -> Bars:
        day = in_local_time(self.market, ts).astype("datetime64[D]").astype(np.int64)
        first = np.concatenate([[0], np.flatnonzero(day[1:] != day[:-1]) + 1])
        counts = np.diff(np.append(first, len(ts)))
        slots = np.arange(counts.max())
        present = slots < counts[:, None]
        prices = self._paths(day[first], counts)
        bits = random_bits(self._key, _BAR, day[first][:, None] * _SLOTS + slots)[present]
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
            trades=1 + volume // (self._lot * np.repeat(self._shares(day[first]), counts)),
            taker_buy_volume=np.rint(volume * (0.3 + 0.4 * uniform(bits, 3))),
        )

    def _paths(self, days: Days, counts: Days) -> Floats:
        """Each day's five-minute prices in ticks: a bridge from its opening to its closing."""
        slots = np.arange(counts.max())
        steps = normal(random_bits(self._key, _PATH, days[:, None] * _SLOTS + slots))
        steps *= (self._day_sigma(days) / np.sqrt(counts))[:, None]
        walk = np.zeros((len(days), len(slots) + 1))
        np.cumsum(steps, axis=1, out=walk[:, 1:])
        opening, closing = self._openings(days), self._level(days)
        row, last = np.arange(len(days)), counts
        drift = (closing - opening - walk[row, last])[:, None]
        walk += opening[:, None] + drift * (np.arange(len(slots) + 1) / counts[:, None])
        walk[row, last] = closing
        return np.asarray(np.rint(np.exp(walk) * TICKS / self._shares(days)[:, None]))

    def _level(self, days: Days) -> Floats:
        """The log prices at the closes of the days."""
        steps, walk = days - _FIRST_DAY, self._walk
        if (last := int(steps.max())) >= len(walk):
            walk = self._walk = self._random_walk(last + _DAYS_AHEAD)
        return np.asarray(self._base + reflected(walk[steps]))

    def _openings(self, days: Days) -> Floats:
        gap = self._gap * normal(random_bits(self._key, _OVERNIGHT, days))
        return np.asarray(self._level(days - 1) + gap)

    def _shares(self, days: Days | np.datetime64) -> Floats:
        """What one share of before all splits has become on each day."""
        return self._actions.shares(np.asarray(days, "datetime64[D]").astype("datetime64[us]"))

    def _activity(self, days: Days) -> Floats:
        return 0.6 + 0.8 * uniform(random_bits(self._key, _ACTIVITY, days), 0)

    def _day_sigma(self, days: Days) -> Floats:
        return self._sigma * self._activity(days)

    def _volume(self, days: Days, counts: Days, slot: Days, bits: NDArray[np.uint64]) -> Floats:
        length = np.repeat(counts, counts)
        edge = (2 * slot + 1) / length - 1
        mean = (
            self._daily_volume
            * np.repeat(self._activity(days) * self._shares(days), counts)
            / length
        )
        return np.asarray(
            1 + np.rint(mean * (0.6 + 1.2 * edge**2) * (0.4 + 1.2 * uniform(bits, 2)))
        )

    def _random_walk(self, count: int) -> Floats:
        """The walk, before reflection, at the closes of the first `count` days."""
        days = np.arange(_FIRST_DAY, _FIRST_DAY + count)
        steps = self._day_sigma(days) * normal(random_bits(self._key, _DAILY, days))
        if self.asset_class is not AssetClass.CRYPTO:
            for weekend_day in (_SATURDAY, _SATURDAY + 1):
                steps[(weekend_day - _FIRST_DAY) % 7 :: 7] = 0.0
        return np.asarray(np.cumsum(steps))


def continuation(
    ts: Timestamps, last_close: float, *, key: int, sigma: float, volume: float, decimals: int
) -> Bars:
    """Bars at the given starts that continue a recorded series from its last close."""
    if len(ts) == 0:
        return Bars.empty()
    counter = (ts - ts[0]).astype(np.int64) // 3_600_000_000
    bits = random_bits(key, _BAR, counter)
    walk = reflected(np.cumsum(sigma * normal(random_bits(key, _DAILY, counter))))
    close = np.round(last_close * np.exp(walk), decimals)
    opening = np.concatenate([[last_close], close[:-1]])
    high = np.round(np.maximum(opening, close) * (1 + sigma * uniform(bits, 0)), decimals)
    low = np.round(np.minimum(opening, close) * (1 - sigma * uniform(bits, 1)), decimals)
    return Bars.of(ts, opening, high, low, close, np.rint(volume * (0.4 + 1.2 * uniform(bits, 2))))
