"""A symbol's quality as a person wants to read it, in the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from rich.console import Console
from rich.table import Table

from enrichment.cli.render import STYLES, moment, styled
from enrichment.domain.model import Timeframe, is_simulated
from enrichment.pipeline.flag_impact import FlagImpact, flag_impact
from enrichment.pipeline.quality import NEEDS_REVIEW, WEIGHTS
from enrichment.warehouse.read_models.quality_symbol import (
    FlaggedBar,
    OpenGap,
    QualityReports,
    SeriesReport,
)

_FLAGS_SHOWN = 12
_STRETCHES_SHOWN = 8
_FEATURES_SHOWN = 4


def show(
    console: Console, symbol: str, reports: Sequence[SeriesReport], reader: QualityReports
) -> None:
    """One section per timeframe."""
    for report in reports:
        _head(console, symbol, report)
        if report.components is None:
            console.print(f"  not enriched yet; {report.last_error or 'run: enrichment trigger'}")
            continue
        console.print(_components(report))
        for deduction in report.deductions:
            console.print(f"  {deduction}", highlight=False)
        _gaps(console, report)
        _flags(console, symbol, report, reader)
        _changes(console, report)
        console.print()


def _head(console: Console, symbol: str, report: SeriesReport) -> None:
    basis = {True: "adjusted for splits", False: "not adjusted for splits", None: ""}
    parts = [f"{report.bars:,} bars"]
    if report.first_bar is not None and report.last_bar is not None:
        parts.append(f"{report.first_bar:%Y-%m-%d} … {report.last_bar:%Y-%m-%d}")
    parts += [text for text in (report.source, basis[report.adjusted]) if text]
    if is_simulated(symbol):
        parts.append("[magenta]simulated[/]")
    console.print(
        f"[bold]{symbol} {report.timeframe}[/]  score {_score(report.score)}  "
        f"{styled(report.status)}  [dim]{', '.join(parts)}[/]",
        highlight=False,
    )


def _components(report: SeriesReport) -> Table:
    table = Table(box=None, padding=(0, 2), show_edge=False)
    for name, justify in (("component", "left"), ("", "left"), ("", "right"), ("lost", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]  # one of rich's words
    for name, value in (report.components or {}).items():
        style = STYLES["healthy" if value > 0.95 else "warning" if value > 0.85 else "stale"]
        bar = "█" * round(20 * value) + "·" * (20 - round(20 * value))
        lost = WEIGHTS[name] * (1.0 - value)
        table.add_row(name, f"[{style}]{bar}[/]", f"{value:.4f}", f"{lost:.4f}" if lost else "–")
    return table


def _gaps(console: Console, report: SeriesReport) -> None:
    if not report.gaps:
        console.print("  [green]no gaps[/]")
        return
    console.print(f"  [yellow]{len(report.gaps):,} gaps[/]", highlight=False)
    stretches = _stretches(report.gaps, Timeframe(report.timeframe))
    for first, last, count in stretches[-_STRETCHES_SHOWN:]:
        span = f"{first.timestamp:%Y-%m-%d %H:%M}"
        if count > 1:
            span += f" … {last.timestamp:%Y-%m-%d %H:%M} ({count:,} bars)"
        asked = f"asked for {first.attempts} times" if first.attempts > 1 else "asked for once"
        console.print(
            f"    {span}: {first.cause.replace('_', ' ')}, {asked}, again from "
            f"{moment(first.next_try_at)}",
            highlight=False,
        )
    if len(stretches) > _STRETCHES_SHOWN:
        console.print(f"    … and {len(stretches) - _STRETCHES_SHOWN:,} earlier stretches")


def _stretches(gaps: Sequence[OpenGap], timeframe: Timeframe) -> list[tuple[OpenGap, OpenGap, int]]:
    """Runs of gaps of one cause that stand close together: first, last, how many."""
    near = 5 * timeframe.duration
    runs: list[tuple[OpenGap, OpenGap, int]] = []
    for gap in gaps:
        if runs:
            first, last, count = runs[-1]
            if gap.cause == last.cause and gap.timestamp - last.timestamp <= near:
                runs[-1] = (first, gap, count + 1)
                continue
        runs.append((gap, gap, 1))
    return runs


def _flags(console: Console, symbol: str, report: SeriesReport, reader: QualityReports) -> None:
    if not report.flags:
        console.print("  [green]no flagged bars[/]")
        return
    console.print(f"  {len(report.flags):,} flags on bars", highlight=False)
    ranked = sorted(report.flags, key=lambda f: (_RANK[f.severity], -f.timestamp.timestamp()))
    for flag in ranked[:_FLAGS_SHOWN]:
        style = {"error": "red", "warning": "yellow"}.get(flag.severity, "dim")
        console.print(
            f"    [{style}]{flag.severity:7}[/] {flag.timestamp:%Y-%m-%d %H:%M}  "
            f"{flag.check}: {flag.detail}",
            highlight=False,
        )
        if flag.check in NEEDS_REVIEW:
            for one in _influence(symbol, report, reader, flag)[:_FEATURES_SHOWN]:
                console.print(
                    f"            {one.feature} of the next bar: {one.with_bar:.6g} with it, "
                    f"{one.without_bar:.6g} without it",
                    style="dim",
                    highlight=False,
                )
    if len(ranked) > _FLAGS_SHOWN:
        console.print(f"    … and {len(ranked) - _FLAGS_SHOWN:,} more: --json lists all")
    doubtful = next((flag for flag in ranked if flag.check in NEEDS_REVIEW), None)
    if doubtful is not None:
        console.print(
            f"    a real move? enrichment confirm {symbol} {doubtful.timestamp:%Y-%m-%dT%H:%M} "
            f"--timeframe {report.timeframe} --check {doubtful.check} --reason '…'",
            style="dim",
            highlight=False,
        )


_RANK = {"error": 0, "warning": 1, "info": 2}


def _influence(
    symbol: str, report: SeriesReport, reader: QualityReports, flag: FlaggedBar
) -> list[FlagImpact]:
    timeframe = Timeframe(report.timeframe)
    reach = 1200 * timeframe.duration  # the features' memory, with room for closing hours
    end: datetime = flag.timestamp + 20 * timeframe.duration
    bars = reader.bars(symbol, timeframe, flag.timestamp - reach, end)
    return flag_impact(bars, flag.timestamp)


def _changes(console: Console, report: SeriesReport) -> None:
    if report.quarantined:
        console.print(
            f"  {len(report.quarantined)} bars in quarantine, newest: "
            f"{report.quarantined[0].timestamp:%Y-%m-%d %H:%M} {report.quarantined[0].detail}",
            highlight=False,
        )
    for correction in report.corrections[:5]:
        if correction.reason == "rebased":
            what = f"prices × {correction.new_value:.6g} before {correction.timestamp:%Y-%m-%d}"
        else:
            what = (
                f"{correction.timestamp:%Y-%m-%d %H:%M} {correction.field} "
                f"{_number(correction.old_value)} → {_number(correction.new_value)}"
            )
        console.print(
            f"  corrected by {correction.source} on {moment(correction.corrected_at)}: "
            f"{correction.reason.replace('_', ' ')}, {what}",
            highlight=False,
        )
    for confirmed in report.confirmations:
        console.print(
            f"  confirmed by {confirmed.confirmed_by}: {confirmed.timestamp:%Y-%m-%d %H:%M} "
            f"{confirmed.check}, {confirmed.reason}",
            highlight=False,
        )


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.10g}"
