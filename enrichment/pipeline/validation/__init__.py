"""Checks of fetched bars: what is wrong is flagged, what is bad is set apart with its reason.

A check is a function and one line in `CHECKS`. Checks of bars as they were sent (`bars`) run in
four stages, each on what the one before left over: rows sent twice are dropped, bad bars are
quarantined, then of contradicting bars all but the last sent; what remains is kept, and remarked on
where that is due. Then the checks of a series (`series`, `splits`) hold each kept bar against those
before it. Only what is an error keeps a bar out: an outlier, a split or a strange volume may be
real.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime

import numpy as np

from enrichment.domain import calendars
from enrichment.domain.bars import Bars, to_datetime, to_datetime64
from enrichment.domain.model import (
    AssetClass,
    Flag,
    QuarantinedBar,
    Severity,
    Timeframe,
    ValidationResult,
    Window,
)
from enrichment.pipeline.validation import bars as bars_
from enrichment.pipeline.validation import series
from enrichment.pipeline.validation import splits as splits_
from enrichment.pipeline.validation.check import (
    BarCheck,
    CheckStage,
    Mask,
    SeriesCheck,
    SeriesContext,
    ValidationRequest,
)
from enrichment.pipeline.validation.missing import classify_missing, missing_bars
from enrichment.pipeline.validation.series import CONTEXT_BARS
from enrichment.pipeline.validation.sources import source_disagreement

__all__ = [
    "CHECKS",
    "CONTEXT_BARS",
    "ValidationRequest",
    "classify_missing",
    "complete_bars",
    "missing_bars",
    "source_disagreement",
    "validate",
]

_OHLC = "open {open}, high {high}, low {low}, close {close}"

CHECKS: Mapping[str, BarCheck | SeriesCheck] = {
    "duplicate": BarCheck(
        CheckStage.REPEATS,
        Severity.WARNING,
        bars_.duplicate,
        "the same bar was sent more than once",
    ),
    "epoch_unit": BarCheck(
        CheckStage.BARS,
        Severity.ERROR,
        bars_.epoch_unit,
        "starts at {ts} UTC like all bars sent: seconds where milliseconds belong",
    ),
    "outside_window": BarCheck(
        CheckStage.BARS,
        Severity.ERROR,
        bars_.outside_window,
        "starts at {ts} UTC, outside what was asked for",
    ),
    "misaligned": BarCheck(
        CheckStage.BARS,
        Severity.ERROR,
        bars_.misaligned,
        "starts at {ts} UTC, off the timeframe's clock",
    ),
    "non_finite_price": BarCheck(
        CheckStage.BARS, Severity.ERROR, bars_.non_finite_price, "a price is not a number: " + _OHLC
    ),
    "non_positive_price": BarCheck(
        CheckStage.BARS,
        Severity.ERROR,
        bars_.non_positive_price,
        "a price is not above 0: " + _OHLC,
    ),
    "extreme_value": BarCheck(
        CheckStage.BARS,
        Severity.ERROR,
        bars_.extreme_value,
        "no market has such numbers: volume {volume}, " + _OHLC,
    ),
    "ohlc": BarCheck(
        CheckStage.BARS, Severity.ERROR, bars_.ohlc, "high and low do not enclose the bar: " + _OHLC
    ),
    "negative_volume": BarCheck(
        CheckStage.BARS,
        Severity.ERROR,
        bars_.negative_volume,
        "volume {volume} is negative or not a number",
    ),
    "conflict": BarCheck(
        CheckStage.ORDER,
        Severity.ERROR,
        bars_.conflict,
        "a different bar was sent later for {ts} UTC",
    ),
    "out_of_order": BarCheck(
        CheckStage.ORDER, Severity.WARNING, bars_.out_of_order, "sent after a bar that starts later"
    ),
    "no_session": BarCheck(
        CheckStage.REMARKS,
        Severity.WARNING,
        bars_.no_session,
        "the exchange has no session at {ts} UTC",
    ),
    "split": SeriesCheck(
        Severity.WARNING,
        splits_.split,
        "looks like a split of {found} for 1: opens at {open}, closes at {close}",
    ),
    "outlier": SeriesCheck(
        Severity.WARNING,
        series.outlier,
        "the return is {found} robust deviations away from the usual: close {close}",
    ),
    "volume_spike": SeriesCheck(
        Severity.INFO, series.volume_spike, "volume {volume} is {found} times the usual"
    ),
    "volume_collapse": SeriesCheck(
        Severity.WARNING, series.volume_collapse, "volume {volume} is {found} times the usual"
    ),
    "zero_volume": SeriesCheck(Severity.INFO, series.zero_volume, "volume is 0, in a row: {found}"),
    "stale_run": SeriesCheck(
        Severity.WARNING, series.stale_run, "bars with these prices in a row: {found}; " + _OHLC
    ),
}


def validate(
    bars: Bars,
    *,
    asset_class: AssetClass,
    timeframe: Timeframe,
    window: Window,
    now: datetime,
    context: Bars | None = None,
    splits: Mapping[datetime, float] | None = None,
) -> ValidationResult:
    """The good bars, ascending and unique, with what was found and what was set apart.

    The bar that is still forming at `now` is left out without a flag: the next run brings it.

    context: the stored tail, ascending. Series checks see the good bars laid over it, and flag what
    starts at or after window.start; with `series.MEMORY` bars of context before that they flag what
    one run over the whole history would flag.
    splits: start of the first bar after each known split → new shares for an old one, as
    `splits_of` makes it of adjusted closes; an empty mapping says that there was none, None that
    nobody knows.
    """
    request = ValidationRequest(asset_class, timeframe, window, now, splits)
    left = complete_bars(bars, request)
    flags: list[Flag] = []
    quarantined: list[QuarantinedBar] = []
    if not bars_.all_valid(left, request):
        for stage in CheckStage:
            left, found, apart = _run_stage(stage, left, request)
            flags += found
            quarantined += apart
        left = left.ascending()
    good = left
    flags += _series_flags(
        _series_context(Bars.empty() if context is None else context, good, window), request
    )
    return ValidationResult(
        good,
        tuple(sorted(flags, key=lambda flag: flag.ts)),
        tuple(sorted(quarantined, key=lambda kept: kept.ts)),
    )


def _run_stage(
    stage: CheckStage, bars: Bars, request: ValidationRequest
) -> tuple[Bars, list[Flag], list[QuarantinedBar]]:
    """The bars that a stage leaves over, what it found, and what it set apart."""
    flags: list[Flag] = []
    quarantined: list[QuarantinedBar] = []
    bad = np.zeros(len(bars), dtype=bool)
    for name, check in CHECKS.items():
        if isinstance(check, SeriesCheck) or check.stage is not stage:
            continue
        found = check.function(bars, request)
        if not found.any():
            continue
        flags += _bar_flags(bars, found, name, check)
        if check.severity is Severity.ERROR:
            quarantined += _quarantine(bars, found & ~bad, name, check)
        if check.removes_bars:
            bad |= found
    return bars.take(~bad) if bad.any() else bars, flags, quarantined


def _series_context(context: Bars, good: Bars, window: Window) -> SeriesContext:
    """The good bars over the sound part of the context."""
    sound = (context.volume >= 0) & (context.volume < np.inf)
    for price in (context.open, context.high, context.low, context.close):
        sound &= (price > 0) & (price < np.inf)
    merged = (context if sound.all() else context.take(sound)).overlaid_by(good)
    return SeriesContext(merged, int(np.searchsorted(merged.ts, to_datetime64(window.start))))


def _series_flags(judged: SeriesContext, request: ValidationRequest) -> Iterator[Flag]:
    if judged.first_checked == len(judged.bars):
        return
    for name, check in CHECKS.items():
        if isinstance(check, SeriesCheck):
            found = check.function(judged, request)
            for row in np.flatnonzero(~np.isnan(found)):
                at = row + judged.first_checked
                detail = _format_message(judged.bars, at, check, found=f"{found[row]:.4g}")
                yield Flag(to_datetime(judged.bars.ts[at]), name, check.severity, detail)


def complete_bars(bars: Bars, request: ValidationRequest) -> Bars:
    """The bars without the one that is still forming."""
    over = calendars.is_complete(request.asset_class, request.timeframe, bars.ts, request.now)
    if over.all():
        return bars
    return bars.take(over | (bars.ts > to_datetime64(request.now)))


def _bar_flags(bars: Bars, found: Mask, name: str, check: BarCheck) -> Iterator[Flag]:
    """One flag per start, however many bars share it."""
    rows = np.flatnonzero(found)
    for row in rows[np.unique(bars.ts[rows], return_index=True)[1]]:
        yield Flag(
            to_datetime(bars.ts[row]), name, check.severity, _format_message(bars, row, check)
        )


def _quarantine(bars: Bars, found: Mask, name: str, check: BarCheck) -> Iterator[QuarantinedBar]:
    for row in np.flatnonzero(found):
        columns = {n: float(c[row]) for n, c in bars.columns().items() if n != "ts"}
        sent = {n: value if np.isfinite(value) else None for n, value in columns.items()}
        yield QuarantinedBar(
            to_datetime(bars.ts[row]), name, _format_message(bars, row, check), sent
        )


def _format_message(bars: Bars, row: np.intp, check: BarCheck | SeriesCheck, **values: str) -> str:
    row_values = {n: f"{c[row]:.10g}" for n, c in bars.columns().items() if n != "ts"}
    return check.message.format(
        ts=f"{to_datetime(bars.ts[row]):%Y-%m-%d %H:%M:%S}", **row_values, **values
    )
