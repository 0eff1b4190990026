"""The formulas of the features, each from bars to a column (see `FEATURES` for names and lengths).

Returns are fractions (0.01 is one percent); averages, ranges and bands are in the currency of the
price; volumes are in units traded. A regular session lies within one UTC day; crypto has UTC days
by convention.

TA-Lib's SMA updates a running sum, so that one huge value leaves its rounding error in all later
ones: after a volume of 1e12 the mean of twenty zeros is 1.6e-5 and later means are off by 3e-7;
after one jump of 1e6 its STDDEV of 50 returns is off by 2e-8. Here each window is summed by itself,
in a fixed tree of doubling spans (about log2(length) additions a row), so that the result is the
same to the last bit wherever a history is cut.

>>> close, volume = np.array([100.0, 110.0, 99.0]), np.array([100.0, 40.0, 30.0])
>>> bars = Bars.of(np.arange(3).astype("datetime64[D]"), close, close, close, close, volume)
>>> simple_return(bars).round(4).tolist()
[nan, 0.1, -0.1]
>>> simple_moving_average(bars, length=2).tolist()
[nan, 105.0, 104.5]
>>> on_balance_volume(bars).tolist()
[100.0, 140.0, 110.0]
>>> waves = np.tile([1.0, 2, 3, 4, 5, 6, 6, 5, 4, 3, 2, 1], 6) + np.arange(72) / 2
>>> bars = Bars.of(np.arange(72).astype("datetime64[D]"), waves, waves, waves, waves, volume=waves)
>>> market_structure(bars)[[0, 71]].tolist(), trend_direction(bars)[[0, 71]].tolist()
([None, 'bullish'], [None, 'up'])
>>> [column.tolist() for column in rolling_mean_and_std(np.array([1.0, 3.0, 5.0]), 3)][0]
[nan, nan, 3.0]
>>> ts = np.array(["2024-01-02T09", "2024-01-02T10", "2024-01-03T09"], "datetime64[us]")
>>> daily_cumsum(ts, np.array([1.0, 2.0, 4.0]))[0].tolist()
[1.0, 3.0, 4.0]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Floats, Mask, Timestamps, safe_divide

_CHUNK = 16_384  # rows at a time, whose intermediate columns stay in the processor's cache
FLAT_BARS = 100
MAX_BARS_PER_DAY = 288  # bars of five minutes
_DAY_US = 86_400_000_000  # microseconds

_MACD_FAST, _MACD_SLOW, _MACD_SIGNAL = 12, 26, 9
MACD_WARMUP = _MACD_SLOW + _MACD_SIGNAL - 2

_TREND_FAST, _TREND_SLOW = 20, 50
_TREND_BAND = 0.5
_TREND_ROUNDING = 1e-9
_TREND_LABELS = np.array(["neutral", "up", "down"], dtype=object)  # indexed by 0, 1, -1
TREND_WARMUP = _TREND_SLOW - 1

_SWING_SIDE = 5  # bars on either side that a swing must exceed
# Indexed by the sum of two signs: 0, 1, 2, -2, -1.
_STRUCTURE_LABELS = np.array(["range", "range", "bullish", "bearish", "range"], dtype=object)
STRUCTURE_WARMUP = 49
STRUCTURE_LOOKBACK = 99


def simple_return(bars: Bars) -> Floats:
    """close / previous close - 1 (TA-Lib ROCP over one bar)."""
    import talib

    return np.asarray(talib.ROCP(bars.close, 1))


def daily_return(bars: Bars) -> Floats:
    """close / last close of the previous UTC day that has bars - 1.

    A regular session lies within one UTC day. For daily and weekly bars it equals `simple_return`.
    """
    out = np.full_like(bars.close, np.nan)
    starts = day_start_rows(bars.ts)[1:]
    if len(starts):
        lengths = np.diff(starts, append=len(out))
        previous = np.repeat(bars.close[starts - 1], lengths)
        out[starts[0] :] = (bars.close[starts[0] :] - previous) / previous
    return out


def log_return(bars: Bars) -> Floats:
    """ln(close / previous close)."""
    out = np.full_like(bars.close, np.nan)
    np.log(bars.close[1:] / bars.close[:-1], out=out[1:])
    return out


def simple_moving_average(bars: Bars, *, length: int) -> Floats:
    """Mean of the last `length` closes: TA-Lib SMA without its rounding drift."""
    return rolling(mean, bars.close, length)


def exponential_moving_average(bars: Bars, *, length: int) -> Floats:
    """TA-Lib EMA: previous + 2 / (length + 1) · (close - previous), beginning with the mean of the
    first `length` closes.
    """
    import talib

    return np.asarray(talib.EMA(bars.close, length))


def log_return_std(bars: Bars, *, length: int) -> Floats:
    """Standard deviation of the last `length` log returns, per bar (not annualised).

    The population's: √(Σ (r - mean)² / length), as TA-Lib's STDDEV of the log returns.
    """
    returns = log_return(bars)
    returns[1:] = rolling(std, returns[1:], length)
    return returns


def average_true_range(bars: Bars, *, length: int) -> Floats:
    """Average true range (Wilder, New Concepts in Technical Trading Systems, 1978), TA-Lib ATR, in
    the currency of the price.

    true range = max(high, previous close) - min(low, previous close);
    atr = (previous atr · (length - 1) + true range) / length, beginning with the mean of the first
    `length`. 0 where no price moved for 100 bars, since older movements would never reach 0.
    """
    import talib

    value = talib.ATR(bars.high, bars.low, bars.close, length)
    return np.asarray(value * ~is_flat(bars.high, bars.low))


def bollinger_bands(bars: Bars, *, length: int, width: float) -> tuple[Floats, Floats, Floats]:
    """Bollinger bands (2001), TA-Lib BBANDS without its rounding drift: (upper, middle, lower).

    middle = mean of the last `length` closes; upper and lower = middle ± width · their population
    standard deviation. In the currency of the price.
    """
    middle, deviation = rolling_mean_and_std(bars.close, length)
    deviation *= width
    return middle + deviation, middle, middle - deviation


def relative_strength_index(bars: Bars, *, length: int) -> Floats:
    """Relative strength index in [0, 100] (Wilder, 1978), TA-Lib RSI: 100 · gains / (gains +
    losses), both smoothed as (previous · (length - 1) + this bar's) / length.

    NULL where the close did not move for 100 bars, or since the first one: there are neither gains
    nor losses.
    """
    import talib

    value = np.asarray(talib.RSI(bars.close, length))
    value[is_flat(bars.close, bars.close)] = np.nan
    return value


def macd(bars: Bars) -> tuple[Floats, Floats, Floats]:
    """Moving average convergence/divergence (Appel, 1979), TA-Lib MACD(12, 26, 9), in the currency
    of the price: (line, signal, histogram).

    line = EMA 12 - EMA 26 of the close; signal = EMA 9 of the line; histogram = line - signal. All
    three begin with the signal. TA-Lib starts both averages on bar 26, so that the line of a young
    series differs slightly from ema_12 - ema_26.
    """
    import talib

    line, signal, histogram = talib.MACD(bars.close, _MACD_FAST, _MACD_SLOW, _MACD_SIGNAL)
    return line, signal, histogram


def mean_volume(bars: Bars, *, length: int) -> Floats:
    """Mean volume of the last `length` bars, in units traded."""
    return rolling(mean, bars.volume, length)


def volume_ratio(bars: Bars, *, length: int) -> Floats:
    """volume / mean volume of the last `length` bars, this one included; NULL if all are 0."""
    return safe_divide(bars.volume, mean_volume(bars, length=length))


def on_balance_volume(bars: Bars) -> Floats:
    """On-balance volume (Granville, 1963), TA-Lib OBV: the volume of rising bars minus that of
    falling ones, cumulated from the first bar's volume on, in units traded.
    """
    signed = bars.volume.copy()
    signed[1:] *= np.sign(np.diff(bars.close))
    return np.cumsum(signed)


def session_vwap(bars: Bars) -> Floats:
    """Volume-weighted average price of the trading day so far: Σ price · volume / Σ volume.

    price is the vendor's vwap of the bar, or else its typical price (high + low + close) / 3; so is
    the result for daily and weekly bars. NULL while nothing was traded on that day.
    """
    price = (bars.high + bars.low + bars.close) / 3.0
    has_vwap = (bars.vwap >= bars.low) & (bars.vwap <= bars.high)
    np.copyto(price, bars.vwap, where=has_vwap)
    turnover, volume = daily_cumsum(bars.ts, price * bars.volume, bars.volume)
    return safe_divide(turnover, volume)


def volume_delta(bars: Bars) -> Floats:
    """Volume bought minus volume sold by takers: 2 · taker_buy_volume - volume.

    NULL where the vendor sends no taker volume, or one that exceeds the bar's volume.
    """
    return np.where(_has_taker_volume(bars), 2.0 * bars.taker_buy_volume - bars.volume, np.nan)


def buy_sell_ratio(bars: Bars) -> Floats:
    """taker_buy_volume / (volume - taker_buy_volume); NULL if that is 0, and as volume_delta."""
    sold = np.where(_has_taker_volume(bars), bars.volume - bars.taker_buy_volume, 0.0)
    return safe_divide(bars.taker_buy_volume, sold)


def _has_taker_volume(bars: Bars) -> Mask:
    return np.asarray((bars.taker_buy_volume >= 0) & (bars.taker_buy_volume <= bars.volume))


def trend_direction(bars: Bars) -> NDArray[Any]:
    """'up' where sma_20 - sma_50 > band, 'down' where it is < -band, else 'neutral'.

    band = half the mean true range of the last 20 bars: the averages must differ by more than half
    of the usual range of a bar, at any price and timeframe. Crossing averages: Murphy, Technical
    Analysis of the Financial Markets (1999), chapter 9; true range: Wilder (1978). The mean of true
    ranges is used instead of atr_14 because its memory is finite, so that no label depends on where
    a history was cut.
    """
    import talib

    if len(bars.ts) <= TREND_WARMUP:
        return np.full(len(bars.ts), None, dtype=object)
    slow = rolling(mean, bars.close, _TREND_SLOW)
    difference = rolling(mean, bars.close, _TREND_FAST) - slow
    band = rolling(mean, talib.TRANGE(bars.high, bars.low, bars.close), _TREND_FAST)
    np.maximum(_TREND_BAND * band, _TREND_ROUNDING * slow, out=band)
    labels = _TREND_LABELS[(difference > band).astype(np.int8) - (difference < -band)]
    labels[:TREND_WARMUP] = None
    return labels


def market_structure(bars: Bars) -> NDArray[Any]:
    """'bullish' after a higher swing high and a higher swing low, 'bearish' after two lower ones,
    else 'range' (Dow's definition of trend: Murphy, 1999, chapter 4).

    A swing high is a high above those of the 5 bars before it and not below those of the 5 bars
    after it; it counts from the bar that confirms it, the fifth after. A swing low likewise. The
    newest swing is compared with the one before it, as long as both lie within the last 100 bars.
    """
    labels = np.asarray(
        _STRUCTURE_LABELS[_swing_direction(bars.high) - _swing_direction(-bars.low)]
    )
    labels[:STRUCTURE_WARMUP] = None
    return labels


def _swing_direction(extreme: Floats) -> NDArray[np.int8]:
    """At each bar, the sign of the newest swing high minus the one before it; 0 if unknown."""
    rows = len(extreme)
    out = np.zeros(rows, np.int8)
    confirmed = _confirmations(extreme)
    if len(confirmed) < 2:
        return out
    steps = np.sign(np.diff(extreme[confirmed - _SWING_SIDE])).astype(np.int8)
    since, next_swing = confirmed[1:], np.append(confirmed[2:], rows)
    expires = confirmed[:-1] + STRUCTURE_LOOKBACK - 2 * _SWING_SIDE + 1
    until = np.clip(expires, since, next_swing)
    values = np.column_stack([steps, np.zeros_like(steps)]).ravel()
    lengths = np.column_stack([until - since, next_swing - until]).ravel()
    out[since[0] :] = np.repeat(values, lengths)
    return out


def _confirmations(extreme: Floats) -> NDArray[np.intp]:
    """Rows at which swing highs are confirmed, ascending."""
    import talib

    if len(extreme) <= 2 * _SWING_SIDE:
        return np.empty(0, np.intp)
    highest = talib.MAX(extreme, _SWING_SIDE)
    pivot = extreme[_SWING_SIDE:-_SWING_SIDE]
    before, after = highest[_SWING_SIDE - 1 : -_SWING_SIDE - 1], highest[2 * _SWING_SIDE :]
    return np.flatnonzero((pivot > before) & (pivot >= after)) + 2 * _SWING_SIDE


def rolling(kernel: Callable[[Floats, int], Floats], column: Floats, length: int) -> Floats:
    """The kernel applied to each window of `length` rows; NaN on the first length - 1 rows."""
    out = np.full(len(column), np.nan)
    for first in range(length - 1, len(column), _CHUNK):
        last = first + _CHUNK
        out[first:last] = kernel(column[first - length + 1 : last], length)
    return out


def mean(column: Floats, length: int) -> Floats:
    """Σ x / length of every complete window."""
    rows = len(column) - length + 1
    total = np.zeros(rows)
    span_sum, span, covered = column, 1, 0
    while span <= length:
        if length & span:
            total += span_sum[covered : covered + rows]
            covered += span
        span_sum = span_sum[:-span] + span_sum[span:]
        span *= 2
    total /= length
    return total


def std(column: Floats, length: int) -> Floats:
    """Population standard deviation √(mean(x²) - mean(x)²) of every complete window.

    For returns, whose mean is small compared with their deviation.
    """
    average = mean(column, length)
    variance = mean(column * column, length) - average * average
    np.maximum(variance, 0.0, out=variance)
    return np.sqrt(variance, out=variance)


def mean_and_std(column: Floats, length: int) -> tuple[Floats, Floats]:
    """Mean and population standard deviation of every complete window, for any column.

    Sums of squared deviations from each span's own mean are merged span by span (Chan, Golub &
    LeVeque, 1979): prices move little compared with their level, and the difference of their
    squares would lose half of the digits.
    """
    rows = len(column) - length + 1
    total, squares, covered = np.zeros(rows), np.zeros(rows), 0
    span_sum, span_squares, span = column, np.zeros(len(column)), 1
    while span <= length:
        if length & span:
            new, weight = slice(covered, covered + rows), covered * span / (covered + span)
            if covered:
                squares += weight * (span_sum[new] / span - total / covered) ** 2
            squares += span_squares[new]
            total += span_sum[new]
            covered += span
        step = span_sum[span:] - span_sum[:-span]
        span_squares = span_squares[:-span] + span_squares[span:] + step * step / (2 * span)
        span_sum = span_sum[:-span] + span_sum[span:]
        span *= 2
    return total / length, np.sqrt(squares / length)


def rolling_mean_and_std(column: Floats, length: int) -> tuple[Floats, Floats]:
    """Mean and standard deviation over each window; NaN on the first length - 1 rows."""
    means, deviations = np.full((2, len(column)), np.nan)
    for first in range(length - 1, len(column), _CHUNK):
        rows = slice(first, first + _CHUNK)
        window = column[first - length + 1 : first + _CHUNK]
        means[rows], deviations[rows] = mean_and_std(window, length)
    return means, deviations


def is_flat(high: Floats, low: Floats, steps: int = FLAT_BARS) -> Mask:
    """Whether all prices of the last `steps` + 1 bars, or of all so far, are equal."""
    import talib

    flat = np.asarray(talib.MAX(high, steps + 1) == talib.MIN(low, steps + 1))
    flat[:steps] = np.maximum.accumulate(high[:steps]) == np.minimum.accumulate(low[:steps])
    return flat


def day_start_rows(ts: Timestamps) -> NDArray[np.intp]:
    """Rows at which a UTC day begins, including the first row."""
    day = ts.astype(np.int64) // _DAY_US
    return np.flatnonzero(np.diff(day, prepend=day[:1] - 1))


def daily_cumsum(ts: Timestamps, *columns: Floats) -> tuple[Floats, ...]:
    """Cumulative sum of each column within each day.

    Every day is summed by itself: a running sum over all days would leave the rounding error of one
    huge volume in every later day.
    """
    starts = day_start_rows(ts)
    if len(starts) == len(ts):
        return columns
    bounds = np.append(starts, len(ts))
    sums = tuple(np.empty(len(ts)) for _ in columns)
    # Blocks consist of whole days.
    firsts = np.unique(np.searchsorted(starts, np.arange(0, len(ts), _CHUNK)))
    for first, last in zip(firsts, [*firsts[1:], len(starts)], strict=True):
        rows = slice(bounds[first], bounds[last])
        lengths = np.diff(bounds[first : last + 1])
        filled = np.arange(lengths.max()) < lengths[:, None]
        for column, out in zip(columns, sums, strict=True):
            table = np.zeros(filled.shape)
            table[filled] = column[rows]
            out[rows] = np.cumsum(table, axis=1)[filled]
    return sums
