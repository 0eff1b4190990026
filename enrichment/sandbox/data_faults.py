"""What the data faults do to an answer's bars, before a wire format is spoken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Timestamps, to_datetime64
from enrichment.sandbox.counter_rng import draw, seed_of
from enrichment.sandbox.faults import Fault

Mask = NDArray[np.bool_]


def damaged(bars: Bars, faults: Iterable[Fault], starts: Timestamps) -> Bars:
    """The bars of one page after the faults; starts: of all bars that the request asks for."""
    for fault in faults:
        bars = _DAMAGES[fault.kind](bars, np.isin(bars.ts, struck_bars(fault, starts)), fault)
    return bars


def struck_bars(fault: Fault, starts: Timestamps) -> Timestamps:
    """The struck bars: those given; else the last n (restated) or n seeded ones."""
    if fault.bars:
        return np.array([to_datetime64(moment) for moment in fault.bars])
    if fault.kind == "restated":
        return starts[-fault.n :]
    seed = seed_of(fault.ticker, fault.kind)
    return starts[np.argsort(draw(seed, 0, starts.astype(np.int64)), kind="stable")[: fault.n]]


def literals(faults: Iterable[Fault], starts: Timestamps) -> dict[int, str]:
    """Bar start in microseconds → what stands in the JSON in place of its close."""
    texts = {"nan": "NaN", "text": '"oops"'}
    return {
        int(ts.astype(np.int64)): texts[fault.mode]
        for fault in faults
        if fault.kind == "corrupt" and fault.mode in texts
        for ts in struck_bars(fault, starts).astype("datetime64[us]")
    }


def _missing(bars: Bars, struck: Mask, fault: Fault) -> Bars:
    return bars.take(~struck)


def _duplicate(bars: Bars, struck: Mask, fault: Fault) -> Bars:
    return bars.take(np.repeat(np.arange(len(bars)), 1 + struck))


def _out_of_order(bars: Bars, struck: Mask, fault: Fault) -> Bars:
    """The struck bars come last; if they are the last anyway, first."""
    order = np.concatenate([np.flatnonzero(~struck), np.flatnonzero(struck)])
    if np.array_equal(order, np.arange(len(bars))):
        order = np.concatenate([np.flatnonzero(struck), np.flatnonzero(~struck)])
    return bars.take(order)


def _corrupt(bars: Bars, struck: Mask, fault: Fault) -> Bars:
    if fault.mode == "inverted":
        return replace(
            bars,
            high=np.where(struck, bars.low * 0.99, bars.high),
            low=np.where(struck, bars.high * 1.01, bars.low),
        )
    if fault.mode == "null":
        return replace(bars, close=np.where(struck, np.nan, bars.close))
    if fault.mode == "zero_price":
        return replace(bars, close=np.where(struck, 0.0, bars.close))
    if fault.mode == "negative_volume":
        return replace(bars, volume=np.where(struck, -bars.volume - 1, bars.volume))
    return bars


def _restated(bars: Bars, struck: Mask, fault: Fault) -> Bars:
    """Another close in an otherwise valid bar: high and low make room for it."""
    factor = np.where(struck, fault.factor, 1.0)
    if fault.columns == "all":
        prices = {name: bars.columns()[name] * factor for name in ("open", "high", "low", "close")}
        return replace(bars, **prices, vwap=bars.vwap * factor)
    close = bars.close * factor
    return replace(
        bars,
        close=close,
        high=np.where(struck, np.maximum(bars.high, close), bars.high),
        low=np.where(struck, np.minimum(bars.low, close), bars.low),
    )


def _rebase(bars: Bars, struck: Mask, fault: Fault) -> Bars:
    """As after a split on the day of the first bar given: everything before it, on a new basis."""
    before = np.ones(len(bars), dtype=bool)
    if fault.bars:
        before = bars.ts < to_datetime64(min(fault.bars))
    return on_basis(bars, before, fault.factor)


def on_basis(bars: Bars, rows: Mask, factor: float) -> Bars:
    """Prices of the rows × factor, rounded to 4 decimals; volumes ÷ factor."""
    scale = np.where(rows, factor, 1.0)
    names = ("open", "high", "low", "close", "vwap")
    prices = {
        n: np.where(rows, np.round(getattr(bars, n) * scale, 4), getattr(bars, n)) for n in names
    }
    return replace(
        bars, **prices, volume=bars.volume / scale, taker_buy_volume=bars.taker_buy_volume / scale
    )


_DAMAGES: dict[str, Callable[[Bars, Mask, Fault], Bars]] = {
    "missing": _missing,
    "duplicate": _duplicate,
    "out_of_order": _out_of_order,
    "corrupt": _corrupt,
    "restated": _restated,
    "rebase": _rebase,
}
