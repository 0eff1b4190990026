"""Validates fetched bars: flags findings, quarantines bad bars with the reason.

A check is a function and one line in `CHECKS`. Checks of bars as the vendor sent them (`bars`) run
in four stages, each on what the one before left over: exact duplicates are dropped, bad bars are
quarantined, of contradicting bars all but the last one sent are, and the rest is compared with the
calendar. Then the checks of the series (`series`, `splits`) compare each good bar with those before
it. Only an error of the bar itself keeps it out: an outlier, a split or an unusual volume may be
real, and of a stale feed there is nothing better.

>>> from datetime import UTC, datetime
>>> from enrichment.domain.model import AssetClass, Timeframe, Window
>>> ts = np.array(["2024-01-08", "2024-01-09"], "datetime64[us]")
>>> price, volume = np.array([10.0, 11.0]), np.array([500.0, -1.0])
>>> week = Window(datetime(2024, 1, 8, tzinfo=UTC), datetime(2024, 1, 13, tzinfo=UTC))
>>> request = ValidationRequest(AssetClass.STOCK, Timeframe.D1, week, now=week.end)
>>> result = validate(Bars.of(ts, price, price, price, price, volume), request)
>>> len(result.bars), [(f.check, f.severity.value) for f in result.flags]
(1, [('negative_volume', 'error')])
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from enrichment.domain import calendars
from enrichment.domain.bars import Bars, Mask, to_datetime, to_datetime64
from enrichment.domain.corporate_actions import scaled
from enrichment.domain.model import (
    Flag,
    QuarantinedBar,
    SessionPart,
    Severity,
    ValidationResult,
)
from enrichment.pipeline.validation.bars import (
    BarCheck,
    CheckStage,
    ValidationRequest,
    all_valid,
    conflict,
    duplicate,
    epoch_unit,
    extreme_value,
    misaligned,
    negative_volume,
    no_session,
    non_finite_price,
    non_positive_price,
    ohlc,
    out_of_order,
    outside_window,
)
from enrichment.pipeline.validation.series import (
    SeriesCheck,
    SeriesContext,
    large_move,
    outlier,
    repeated_bar,
    spike,
    split,
    split_without_step,
    stale_feed,
    stale_run,
    volume_collapse,
    volume_per_trade,
    volume_spike,
    zero_volume,
)

_OHLC = "open {open}, high {high}, low {low}, close {close}"
_DUPLICATES, _BARS, _ORDER, _CALENDAR = CheckStage
_ERROR, _WARNING, _INFO = Severity

CHECKS: Mapping[str, BarCheck | SeriesCheck] = {
    "duplicate": BarCheck(_DUPLICATES, _WARNING, duplicate, "the same bar was sent more than once"),
    "epoch_unit": BarCheck(
        _BARS,
        _ERROR,
        epoch_unit,
        "starts at {ts} UTC like all bars sent: seconds where milliseconds belong",
    ),
    "outside_window": BarCheck(
        _BARS, _ERROR, outside_window, "starts at {ts} UTC, outside the requested window"
    ),
    "misaligned": BarCheck(
        _BARS, _ERROR, misaligned, "starts at {ts} UTC, not at a multiple of the timeframe"
    ),
    "non_finite_price": BarCheck(
        _BARS, _ERROR, non_finite_price, "a price is not a number: " + _OHLC
    ),
    "non_positive_price": BarCheck(
        _BARS, _ERROR, non_positive_price, "a price is not above 0: " + _OHLC
    ),
    "extreme_value": BarCheck(
        _BARS, _ERROR, extreme_value, "no market has such numbers: volume {volume}, " + _OHLC
    ),
    "ohlc": BarCheck(_BARS, _ERROR, ohlc, "high and low do not enclose the bar: " + _OHLC),
    "negative_volume": BarCheck(
        _BARS, _ERROR, negative_volume, "volume {volume} is negative or not a number"
    ),
    "conflict": BarCheck(_ORDER, _ERROR, conflict, "a different bar was sent later for {ts} UTC"),
    "out_of_order": BarCheck(_ORDER, _WARNING, out_of_order, "sent after a bar that starts later"),
    "no_session": BarCheck(
        _CALENDAR, _WARNING, no_session, "the exchange has no session at {ts} UTC"
    ),
    "split": SeriesCheck(
        _WARNING,
        split,
        "looks like a split of {observed} for 1, and none is known: opens at {open}, closes at"
        " {close}",
    ),
    "split_without_step": SeriesCheck(
        _WARNING,
        split_without_step,
        "a split of {observed} for 1 is known for this day, and the price made no such step: opens"
        " at {open}, closes at {close}",
    ),
    "outlier": SeriesCheck(
        _WARNING,
        outlier,
        "the return is {observed} robust deviations away from the usual: close {close}",
    ),
    "large_move": SeriesCheck(
        _INFO,
        large_move,
        "the return is {observed} robust deviations away from the usual, on a multiple of the"
        " usual volume: close {close}",
    ),
    "spike": SeriesCheck(
        _WARNING, spike, "a price {observed} times the usual range outside open and close: " + _OHLC
    ),
    "volume_spike": SeriesCheck(
        _INFO, volume_spike, "volume {volume} is {observed} times the usual"
    ),
    "volume_collapse": SeriesCheck(
        _WARNING, volume_collapse, "volume {volume} is {observed} times the usual"
    ),
    "volume_per_trade": SeriesCheck(
        _WARNING, volume_per_trade, "volume per trade is {observed} times the usual"
    ),
    "zero_volume": SeriesCheck(_INFO, zero_volume, "volume is 0, in a row: {observed}"),
    "repeated_bar": SeriesCheck(
        _WARNING,
        repeated_bar,
        "all numbers equal those of the bar before, its volume of {observed} too: " + _OHLC,
    ),
    "stale_feed": SeriesCheck(
        _ERROR,
        stale_feed,
        "bars in a row that nobody traded or that repeat the one before, more than this series ever"
        " had: {observed}; close {close}, volume {volume}",
    ),
    "stale_run": SeriesCheck(
        _WARNING, stale_run, "bars with these prices in a row: {observed}; " + _OHLC
    ),
}


def validate(
    bars: Bars, request: ValidationRequest, context: Bars | None = None
) -> ValidationResult:
    """The good bars, ascending and unique, with all flags and the quarantined bars.

    The bar that is still forming at `request.now` is dropped without a flag.

    Args:
        bars: as the vendor sent them.
        request: what they were requested for.
        context: the stored tail, ascending. Series checks see the good bars laid over it and flag
            bars from `request.window.start` on; with `series.CONTEXT_BARS` before, their flags are
            those of one run over the whole history.
    """
    forming = calendars.is_forming(request.market, request.timeframe, bars.ts, request.now)
    good = bars.take(~forming) if forming.any() else bars
    flags: list[Flag] = []
    quarantined: list[QuarantinedBar] = []
    if not all_valid(good, request):
        for stage in CheckStage:
            good, stage_flags, stage_quarantined = _run_stage(stage, good, request)
            flags += stage_flags
            quarantined += stage_quarantined
        good = good.ascending()
    context = Bars.empty() if context is None else context
    for kept in _alike(context, good, request):
        flags += _series_flags(_series_context(*kept, request), request)
    return ValidationResult(
        good,
        tuple(sorted(flags, key=lambda flag: flag.ts)),
        tuple(sorted(quarantined, key=lambda bar: bar.ts)),
    )


def is_flagged(check: str, bars: Bars, request: ValidationRequest) -> bool:
    """Whether a check of the series flags the last of stored bars."""
    function = CHECKS[check]
    if not isinstance(function, SeriesCheck):
        raise TypeError(f"{check} is no check of a series")
    parts = _alike(bars, bars.take(slice(0)), request)
    kept = next(part for part, _ in parts if len(part) and part.ts[-1] == bars.ts[-1])
    series = _series_context(kept, kept.take(slice(0)), request)
    observed = function.function(series, request)
    return len(observed) > 0 and not np.isnan(observed[-1])


def _alike(context: Bars, good: Bars, request: ValidationRequest) -> list[tuple[Bars, Bars]]:
    """The bars in parts that are compared only with each other: those of the regular session, as if
    there were no others, and those outside of it, when little is traded.
    """
    if not (calendars.is_extended(request.market) and request.timeframe.intraday):
        return [(context, good)]
    regular = [
        calendars.session_parts(request.market, request.timeframe, bars.ts) == SessionPart.REGULAR
        for bars in (context, good)
    ]
    return [
        (context.take(regular[0]), good.take(regular[1])),
        (context.take(~regular[0]), good.take(~regular[1])),
    ]


def _run_stage(
    stage: CheckStage, bars: Bars, request: ValidationRequest
) -> tuple[Bars, list[Flag], list[QuarantinedBar]]:
    """The bars that a stage leaves over, its flags and the bars that it quarantines."""
    flags: list[Flag] = []
    quarantined: list[QuarantinedBar] = []
    removed = np.zeros(len(bars), dtype=bool)
    for name, check in CHECKS.items():
        if isinstance(check, SeriesCheck) or check.stage is not stage:
            continue
        flagged = check.function(bars, request)
        if not flagged.any():
            continue
        flags += _bar_flags(bars, flagged, name, check)
        if check.severity is Severity.ERROR:
            quarantined += _quarantine(bars, flagged & ~removed, name, check)
        if check.removes_bars:
            removed |= flagged
    return bars.take(~removed) if removed.any() else bars, flags, quarantined


def _bar_flags(bars: Bars, flagged: Mask, name: str, check: BarCheck) -> Iterator[Flag]:
    """One flag per start, even if several bars have it."""
    rows = np.flatnonzero(flagged)
    for row in rows[np.unique(bars.ts[rows], return_index=True)[1]]:
        yield Flag(to_datetime(bars.ts[row]), name, check.severity, _detail(bars, row, check))


def _quarantine(bars: Bars, rejected: Mask, name: str, check: BarCheck) -> Iterator[QuarantinedBar]:
    for row in np.flatnonzero(rejected):
        columns = {n: float(c[row]) for n, c in bars.columns().items() if n != "ts"}
        as_sent = {n: value if np.isfinite(value) else None for n, value in columns.items()}
        yield QuarantinedBar(to_datetime(bars.ts[row]), name, _detail(bars, row, check), as_sent)


def _series_context(context: Bars, good: Bars, request: ValidationRequest) -> SeriesContext:
    """The usable part of the context overlaid by the good bars, on the newest share basis."""
    usable = context.usable_rows()
    merged = (context if usable.all() else context.take(usable)).overlaid_by(good)
    first_checked = int(np.searchsorted(merged.ts, to_datetime64(request.window.start)))
    if len(request.splits.ratios) == 0 or len(merged.ts) == 0:
        return SeriesContext(merged, first_checked)
    splits = request.splits.up_to(merged.ts[-1])
    shares = splits.shares(merged.ts, adjusted_until=request.adjusted_until)
    return SeriesContext(scaled(merged, shares), first_checked, as_traded=merged)


def _series_flags(series: SeriesContext, request: ValidationRequest) -> Iterator[Flag]:
    if len(series.checked_rows) == 0:
        return
    for name, check in CHECKS.items():
        if isinstance(check, SeriesCheck):
            observed = check.function(series, request)
            for number in np.flatnonzero(~np.isnan(observed)):
                row = number + series.first_checked
                bars = series.as_traded or series.bars
                detail = _detail(bars, row, check, observed=f"{observed[number]:.4g}")
                yield Flag(to_datetime(series.bars.ts[row]), name, check.severity, detail)


def _detail(bars: Bars, row: np.intp, check: BarCheck | SeriesCheck, **values: str) -> str:
    """The check's message for one bar."""
    columns = {n: f"{c[row]:.10g}" for n, c in bars.columns().items() if n != "ts"}
    ts = f"{to_datetime(bars.ts[row]):%Y-%m-%d %H:%M:%S}"
    return check.message.format(ts=ts, **columns, **values)
