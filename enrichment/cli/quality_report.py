"""A symbol's data quality as a report for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from enrichment.cli.render import styled, timestamp
from enrichment.domain.model import Severity, Timeframe, is_simulated
from enrichment.domain.plurals import counted
from enrichment.pipeline.flag_impact import FlagImpact, flag_impact
from enrichment.pipeline.quality import NEEDS_REVIEW, WEIGHTS
from enrichment.vendors.registry import VENDORS
from enrichment.warehouse.read_models.quality_symbol import (
    FlaggedBar,
    OpenGap,
    QualityReports,
    SeriesReport,
)

_MAX_FLAGS = 12
_MAX_GAP_RANGES = 8
_MAX_FEATURES = 4
_MAX_CORRECTIONS = 5
_SEVERITY_STYLES: dict[str, str] = {
    Severity.ERROR: "red",
    Severity.WARNING: "yellow",
    Severity.INFO: "dim",
}
_SEVERITIES = list(_SEVERITY_STYLES)
"""Most severe first."""


def print_report(
    console: Console, symbol: str, reports: Sequence[SeriesReport], reader: QualityReports
) -> None:
    """One section per timeframe."""
    for report in reports:
        _print_header(console, symbol, report)
        if report.components is None:
            console.print(f"  not enriched yet; {report.last_error or 'run: enrichment trigger'}")
            continue
        console.print(_components_table(report))
        for deduction in report.deductions:
            console.print(f"  {deduction}", highlight=False)
        _print_sources(console, report)
        _print_gaps(console, report)
        _print_flags(console, symbol, report, reader)
        _print_changes(console, symbol, report)
        console.print()


def _print_header(console: Console, symbol: str, report: SeriesReport) -> None:
    basis = {True: "adjusted for splits", False: "not adjusted for splits", None: ""}
    parts = [counted(report.bars, "bar")]
    if report.first_bar is not None and report.last_bar is not None:
        parts.append(f"{report.first_bar:%Y-%m-%d} … {report.last_bar:%Y-%m-%d}")
    source = VENDORS.source_text(symbol, report.source) if report.source else None
    source = f"{source}, a fallback" if report.fallback else source
    parts += [text for text in (source, basis[report.adjusted]) if text]
    console.print(
        Text.assemble(
            (f"{symbol} {report.timeframe}", "bold"),
            f"  score {_score(report.score)}  ",
            styled(report.status),
            (f"  {', '.join(parts)}", "dim"),
            (", simulated" if is_simulated(symbol) else "", "magenta"),
        )
    )


def _components_table(report: SeriesReport) -> Table:
    table = Table(box=None, padding=(0, 2), show_edge=False)
    for name, justify in (("component", "left"), ("", "left"), ("", "right"), ("lost", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # a literal of rich
    for name, value in (report.components or {}).items():
        style = "green" if value > 0.95 else "yellow" if value > 0.85 else "red"
        bar = "█" * round(20 * value) + "·" * (20 - round(20 * value))
        lost = WEIGHTS[name] * (1.0 - value)
        table.add_row(name, Text(bar, style), f"{value:.4f}", f"{lost:.4f}" if lost else "–")
    return table


def _print_sources(console: Console, report: SeriesReport) -> None:
    if len(report.served_by) > 1:
        for served in report.served_by:
            console.print(
                f"  from {served.source}: {served.start:%Y-%m-%d} … {served.end:%Y-%m-%d}, "
                f"last on {timestamp(served.served_at)}",
                highlight=False,
            )


def _print_gaps(console: Console, report: SeriesReport) -> None:
    if not report.gaps:
        console.print("  no gaps", style="green")
        return
    console.print(f"  {counted(len(report.gaps), 'gap')}", style="yellow", highlight=False)
    ranges = _gap_ranges(report.gaps, Timeframe(report.timeframe))
    for first, last, count in ranges[-_MAX_GAP_RANGES:]:
        span = f"{first.timestamp:%Y-%m-%d %H:%M}"
        if count > 1:
            span += f" … {last.timestamp:%Y-%m-%d %H:%M} ({count:,} bars)"
        attempts = counted(first.attempts, "attempt")
        console.print(
            f"    {span}: {first.cause.replace('_', ' ')}, {attempts}, next after "
            f"{timestamp(first.next_try_at)}",
            highlight=False,
        )
    if len(ranges) > _MAX_GAP_RANGES:
        console.print(
            f"    … and {len(ranges) - _MAX_GAP_RANGES:,} earlier ranges: --json lists all"
        )


def _gap_ranges(
    gaps: Sequence[OpenGap], timeframe: Timeframe
) -> list[tuple[OpenGap, OpenGap, int]]:
    """Ranges of gaps of one cause that are at most five bars apart: first, last, number."""
    max_distance = 5 * timeframe.duration
    ranges: list[tuple[OpenGap, OpenGap, int]] = []
    for gap in gaps:
        if ranges:
            first, last, count = ranges[-1]
            if gap.cause == last.cause and gap.timestamp - last.timestamp <= max_distance:
                ranges[-1] = (first, gap, count + 1)
                continue
        ranges.append((gap, gap, 1))
    return ranges


def _print_flags(
    console: Console, symbol: str, report: SeriesReport, reader: QualityReports
) -> None:
    if not report.flags:
        console.print("  no flagged bars", style="green")
        return
    console.print(f"  {counted(len(report.flags), 'flag')} on bars", highlight=False)
    newest_first = sorted(report.flags, key=lambda flag: flag.timestamp, reverse=True)
    ranked = sorted(newest_first, key=lambda flag: _SEVERITIES.index(flag.severity))
    for flag in ranked[:_MAX_FLAGS]:
        console.print(
            Text.assemble(
                (f"    {flag.severity:7}", _SEVERITY_STYLES[flag.severity]),
                f" {flag.timestamp:%Y-%m-%d %H:%M}  {flag.check}: {flag.detail}",
            )
        )
        if flag.check in NEEDS_REVIEW:
            _print_impacts(console, _impacts(symbol, report, reader, flag))
    if len(ranked) > _MAX_FLAGS:
        console.print(f"    … and {len(ranked) - _MAX_FLAGS:,} more: --json lists all")
    to_review = next((flag for flag in ranked if flag.check in NEEDS_REVIEW), None)
    if to_review is not None:
        console.print(
            f"    if it is correct: enrichment confirm {symbol} "
            f"{to_review.timestamp:%Y-%m-%dT%H:%M} --timeframe {report.timeframe} "
            f"--check {to_review.check} --reason '…'",
            style="dim",
            highlight=False,
        )


def _print_impacts(console: Console, impacts: Sequence[FlagImpact]) -> None:
    for impact in impacts[:_MAX_FEATURES]:
        console.print(
            f"            {impact.feature} of the next bar: {impact.with_bar:.6g} with it, "
            f"{impact.without_bar:.6g} without it",
            style="dim",
            highlight=False,
        )


def _impacts(
    symbol: str, report: SeriesReport, reader: QualityReports, flag: FlaggedBar
) -> list[FlagImpact]:
    timeframe = Timeframe(report.timeframe)
    lookback = 1200 * timeframe.duration  # of the features, including closing hours
    end = flag.timestamp + 20 * timeframe.duration
    bars = reader.bars(symbol, timeframe, flag.timestamp - lookback, end)
    return flag_impact(bars, flag.timestamp)


def _print_changes(console: Console, symbol: str, report: SeriesReport) -> None:
    if report.quarantined:
        console.print(
            f"  {counted(report.quarantined_total, 'bar')} in quarantine, newest: "
            f"{report.quarantined[0].timestamp:%Y-%m-%d %H:%M} {report.quarantined[0].detail}",
            highlight=False,
        )
    if report.quarantined_total > 1:
        console.print(
            f"    all: enrichment findings quarantine --symbol {symbol} "
            f"--timeframe {report.timeframe}",
            style="dim",
            highlight=False,
        )
    if report.corrections_total > _MAX_CORRECTIONS:
        console.print(
            f"  {_MAX_CORRECTIONS} of {report.corrections_total:,} corrections, the newest; all: "
            f"GET /api/v1/data/corrections?symbol={symbol}",
            style="dim",
            highlight=False,
        )
    for correction in report.corrections[:_MAX_CORRECTIONS]:
        if correction.reason == "rebased":
            change = f"prices × {correction.new_value:.6g} before {correction.timestamp:%Y-%m-%d}"
        elif correction.reason == "sandbox_replaced":
            change = f"{correction.old_value:,.0f} simulated bars were given up for real ones"
        else:
            change = (
                f"{correction.timestamp:%Y-%m-%d %H:%M} {correction.field} "
                f"{_number(correction.old_value)} → {_number(correction.new_value)}"
            )
        console.print(
            f"  corrected by {correction.source} on {timestamp(correction.corrected_at)}: "
            f"{correction.reason.replace('_', ' ')}, {change}",
            highlight=False,
        )
    for confirmation in report.confirmations:
        console.print(
            f"  confirmed by {confirmation.confirmed_by}: "
            f"{confirmation.timestamp:%Y-%m-%d %H:%M} {confirmation.check}, {confirmation.reason}",
            highlight=False,
        )


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.10g}"
