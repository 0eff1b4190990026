"""Commands about the data: backfill a history, report quality, list and confirm findings."""

from __future__ import annotations

from typing import Annotated

import typer

from enrichment.cli.context import (
    DryRun,
    Json,
    Plain,
    Reason,
    Wait,
    actor,
    err,
    out,
    parse_time,
    services,
)
from enrichment.domain.errors import NotTracked
from enrichment.domain.plurals import counted
from enrichment.domain.statuses import FindingKind


def backfill(
    symbol: Annotated[list[str], typer.Argument(help="One or more tracked symbols.")],
    start: Annotated[str, typer.Option("--from", help="First day, e.g. 2015-01-01 (UTC).")],
    end: Annotated[
        str | None, typer.Option("--to", help="Day after the last one; none: until now.")
    ] = None,
    dry_run: DryRun = False,
    wait: Wait = False,
    reason: Reason = None,
) -> None:
    """Fetch a longer history, in chunks; an interrupted backfill continues where it stopped.

    Bars between --to and the stored ones are fetched too, so that the history has no gap.
    """
    from enrichment.cli import render

    first, last = parse_time(start), None if end is None else parse_time(end)
    with services() as (reader, commands):
        if dry_run:
            render.print_plan(out, commands.plan_backfill(symbol, first, last))
            return
        job = commands.backfill(symbol, first, last, actor=actor(), reason=reason)
        if not wait:
            symbols = counted(job.symbols_to_process, "symbol")
            out.print(f"job {job.job_id}: {symbols} queued", highlight=False)
            return
        progress = render.follow_job(err, lambda: reader.progress(job.job_id))
        failed = reader.failed_items(job.job_id)
    render.print_failures(out, job.job_id, failed)
    if progress is not None:
        out.print(
            f"{counted(progress.inserted, 'bar')} inserted, {progress.updated:,} updated",
            highlight=False,
        )
    if failed:
        raise typer.Exit(1)


def quality(
    symbol: Annotated[str, typer.Argument(help="A tracked symbol.")],
    as_json: Json = False,
) -> None:
    """Report a symbol's data quality: score, gaps, flags, corrections."""
    from enrichment.cli import quality_report, render

    with services() as (reader, _):
        name = reader.symbols.stored_as(symbol)
        reports = reader.reports.of(name)
        if reports is None:
            raise NotTracked.of(name)
        if as_json:
            render.print_json(out, {"symbol": name, "series": reports})
            return
        quality_report.print_report(out, name, reports, reader.reports)


def findings(
    kind: Annotated[FindingKind, typer.Argument(help="Which bars.")],
    symbol: Annotated[str | None, typer.Option(help="One symbol; none means all.")] = None,
    timeframe: Annotated[str | None, typer.Option(help="5m 15m 30m 1h 4h 1d 1w.")] = None,
    check: Annotated[str | None, typer.Option(help="Check that raised the flag.")] = None,
    cause: Annotated[str | None, typer.Option(help="Cause of a gap.")] = None,
    since: Annotated[str | None, typer.Option(help="Found since, e.g. 2026-11-01.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Number of rows.")] = 50,
    as_json: Json = False,
    plain: Plain = False,
) -> None:
    """List flagged, rejected or missing bars of all symbols, newest bar first."""
    from enrichment.cli import render
    from enrichment.cli.tables import print_table
    from enrichment.domain.model import Timeframe
    from enrichment.warehouse.read_models.findings import Filter

    bar, found_since = timeframe and Timeframe.parse(timeframe), since and parse_time(since)
    with services() as (reader, _):
        name = symbol and reader.symbols.stored_as(symbol)
        if name and reader.symbols.find(name) is None:
            raise NotTracked.of(name)
        which = Filter(name, bar, check or cause, found_since or None)
        page = reader.findings.of_kind(kind, limit, which)
    if as_json:
        render.print_json(out, {"total": page.total, "rows": page.rows})
        return
    if not page.rows and not plain:
        out.print(f"no {kind}" + (" that match" if which != Filter() else ""))
        return
    print_table(out, render.findings_table(page.rows), plain=plain)
    if page.total > len(page.rows) and not plain:
        out.print(f"{len(page.rows):,} of {page.total:,}: --limit shows more", style="dim")


def confirm(
    symbol: Annotated[str, typer.Argument(help="A tracked symbol.")],
    timestamp: Annotated[str, typer.Argument(help="Start of the flagged bar, UTC.")],
    check: Annotated[str, typer.Option(help="The check that raised the flag.")],
    reason: Annotated[str, typer.Option(help="How you know that the bar is correct.")],
    timeframe: Annotated[str, typer.Option(help="5m 15m 30m 1h 4h 1d 1w.")] = "1d",
    undo: Annotated[bool, typer.Option("--undo", help="Take a confirmation back.")] = False,
) -> None:
    """Confirm that a flagged bar is correct: its flag is removed and not raised again."""
    ts = parse_time(timestamp)
    with services() as (_, commands):
        command = commands.unconfirm if undo else commands.confirm
        score = command(symbol, timeframe, ts, check=check, reason=reason, actor=actor())
    done = "flagged again" if undo else "confirmed"
    out.print(f"{done}; the quality score is now {score:.4f}", highlight=False)


def reject(
    symbol: Annotated[str, typer.Argument(help="A tracked symbol.")],
    timestamp: Annotated[str, typer.Argument(help="Start of the wrong bar, UTC.")],
    reason: Annotated[str, typer.Option(help="How you know that the bar is wrong.")],
    timeframe: Annotated[str, typer.Option(help="5m 15m 30m 1h 4h 1d 1w.")] = "1d",
    undo: Annotated[bool, typer.Option("--undo", help="Fetch a rejected bar again.")] = False,
) -> None:
    """Keep a wrong bar out of its series, whatever vendors send; features are computed again."""
    ts = parse_time(timestamp)
    with services() as (_, commands):
        command = commands.unreject if undo else commands.reject
        result = command(symbol, timeframe, ts, reason=reason, actor=actor())
    done = "rejection taken back" if undo else "rejected"
    out.print(f"{done}; job {result.job_id} brings the series up to date", highlight=False)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (backfill, quality, findings, confirm, reject):
        app.command()(command)
