"""Data faults, injected into the bars of a response before they are encoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from enrichment.domain.bars import Bars, Timestamps, to_datetime64
from enrichment.sandbox.counter_rng import random_bits, seed_of
from enrichment.sandbox.faults import Fault

Mask = NDArray[np.bool_]


def with_faults(bars: Bars, faults: Iterable[Fault], starts: Timestamps) -> Bars:
    """The bars of one page with the faults.

    starts: of all bars of the request, on all its pages.
    """
    for fault in faults:
        affected = np.isin(bars.ts, affected_starts(fault, starts))
        bars = _INJECTORS[fault.kind](bars, affected, fault)
    return bars


def affected_starts(fault: Fault, starts: Timestamps) -> Timestamps:
    """The given bars; without any, the last n (restated) or n pseudo-random ones."""
    if fault.bars:
        return np.array([to_datetime64(moment) for moment in fault.bars])
    if fault.kind == "restated":
        return starts[-fault.n :]
    seed = seed_of(fault.ticker, fault.kind)
    bits = random_bits(seed, 0, starts.astype(np.int64))
    return starts[np.argsort(bits, kind="stable")[: fault.n]]


def close_literals(faults: Iterable[Fault], starts: Timestamps) -> dict[int, str]:
    """Bar start in microseconds → the literal that replaces its close in the JSON."""
    texts = {"nan": "NaN", "text": '"oops"'}
    return {
        int(ts.astype(np.int64)): texts[fault.mode]
        for fault in faults
        if fault.kind == "corrupt" and fault.mode in texts
        for ts in affected_starts(fault, starts).astype("datetime64[us]")
    }


def _missing(bars: Bars, affected: Mask, fault: Fault) -> Bars:
    return bars.take(~affected)


def _duplicate(bars: Bars, affected: Mask, fault: Fault) -> Bars:
    return bars.take(np.repeat(np.arange(len(bars)), 1 + affected))


def _out_of_order(bars: Bars, affected: Mask, fault: Fault) -> Bars:
    """The affected bars come last, or first if they were the last anyway."""
    order = np.concatenate([np.flatnonzero(~affected), np.flatnonzero(affected)])
    if np.array_equal(order, np.arange(len(bars))):
        order = np.concatenate([np.flatnonzero(affected), np.flatnonzero(~affected)])
    return bars.take(order)


def _corrupt(bars: Bars, affected: Mask, fault: Fault) -> Bars:
    if fault.mode == "inverted":
        return replace(
            bars,
            high=np.where(affected, bars.low * 0.99, bars.high),
            low=np.where(affected, bars.high * 1.01, bars.low),
        )
    if fault.mode == "null":
        return replace(bars, close=np.where(affected, np.nan, bars.close))
    if fault.mode == "zero_price":
        return replace(bars, close=np.where(affected, 0.0, bars.close))
    if fault.mode == "negative_volume":
        return replace(bars, volume=np.where(affected, -bars.volume - 1, bars.volume))
    return bars


def _restated(bars: Bars, affected: Mask, fault: Fault) -> Bars:
    """Another close in an otherwise valid bar: high and low are widened to include it."""
    factor = np.where(affected, fault.factor, 1.0)
    if fault.columns == "all":
        prices = {name: bars.columns()[name] * factor for name in ("open", "high", "low", "close")}
        return replace(bars, **prices, vwap=bars.vwap * factor)
    close = bars.close * factor
    return replace(
        bars,
        close=close,
        high=np.where(affected, np.maximum(bars.high, close), bars.high),
        low=np.where(affected, np.minimum(bars.low, close), bars.low),
    )


def _rebase(bars: Bars, affected: Mask, fault: Fault) -> Bars:
    """As after a split on the day of the first given bar: all bars before it are rescaled."""
    before = np.ones(len(bars), dtype=bool)
    if fault.bars:
        before = bars.ts < to_datetime64(min(fault.bars))
    return rescaled(bars, before, fault.factor)


def rescaled(bars: Bars, rows: Mask, factor: float) -> Bars:
    """Prices of the rows × factor, rounded to 4 decimals; volumes ÷ factor."""
    scale = np.where(rows, factor, 1.0)
    names = ("open", "high", "low", "close", "vwap")
    prices = {
        n: np.where(rows, np.round(getattr(bars, n) * scale, 4), getattr(bars, n)) for n in names
    }
    return replace(
        bars, **prices, volume=bars.volume / scale, taker_buy_volume=bars.taker_buy_volume / scale
    )


_INJECTORS: dict[str, Callable[[Bars, Mask, Fault], Bars]] = {
    "missing": _missing,
    "duplicate": _duplicate,
    "out_of_order": _out_of_order,
    "corrupt": _corrupt,
    "restated": _restated,
    "rebase": _rebase,
}
