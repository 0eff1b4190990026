"""Commands about the data itself: backfill a history, explain a quality, confirm a bar."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from enrichment.cli.context import Json, actor, err, out, services, settings
from enrichment.domain.errors import InvalidRequest, NotTracked

Reason = Annotated[str | None, typer.Option(help="Why, for the audit.")]


def backfill(
    symbol: Annotated[list[str], typer.Argument(help="One or more tracked symbols.")],
    start: Annotated[str, typer.Option("--from", help="First day, e.g. 2015-01-01 (UTC).")],
    end: Annotated[
        str | None, typer.Option("--to", help="Day after the last one; none: up to now.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Show progress until it is done.")] = False,
    reason: Reason = None,
) -> None:
    """Fetch a longer history, piece by piece; an interrupted one goes on where it stopped.

    Bars between --to and what is stored are fetched too, so that a history has no holes.
    """
    from enrichment.cli import render

    first, last = day(start), None if end is None else day(end)
    with services(settings()) as (reader, commands):
        job = commands.backfill(symbol, first, last, actor=actor(), reason=reason)
        if not wait:
            out.print(f"job {job.job_id}: {job.symbols_to_process} symbols queued", highlight=False)
            return
        progress = render.follow(err, lambda: reader.progress(job.job_id))
        failed = reader.failed_items(job.job_id)
    render.print_failures(out, failed)
    if progress is not None:
        out.print(
            f"{progress.inserted:,} bars inserted, {progress.updated:,} updated", highlight=False
        )
    if failed:
        raise typer.Exit(1)


def quality(
    symbol: Annotated[str, typer.Argument(help="A tracked symbol.")],
    as_json: Json = False,
) -> None:
    """Explain how far a symbol's data can be relied on: score, gaps, flags, corrections."""
    from enrichment.cli import quality_report, render
    from enrichment.domain.model import parse_symbol

    name = parse_symbol(symbol)
    with services(settings()) as (reader, _):
        found = reader.reports.of(name)
        if found is None:
            raise NotTracked.of(name)
        if as_json:
            out.print(render.as_json({"symbol": name, "series": found}), highlight=False)
            return
        quality_report.show(out, name, found, reader.reports)


def confirm(
    symbol: Annotated[str, typer.Argument(help="A tracked symbol.")],
    timestamp: Annotated[str, typer.Argument(help="Start of the flagged bar, UTC.")],
    check: Annotated[str, typer.Option(help="The check that raised the flag.")],
    reason: Annotated[str, typer.Option(help="How you know that the bar is real.")],
    timeframe: Annotated[str, typer.Option(help="5m 15m 30m 1h 4h 1d 1w.")] = "1d",
) -> None:
    """Mark a flagged bar as a real move: the flag goes, the score follows, it is not raised
    again.
    """
    moment = day(timestamp)
    with services(settings()) as (_, commands):
        score = commands.confirm(
            symbol, timeframe, moment, check=check, reason=reason, actor=actor()
        )
    out.print(f"confirmed; the score is {score:.4f} now", highlight=False)


def day(text: str) -> datetime:
    """A date or an ISO-8601 moment as timezone-aware UTC."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is no date: write 2015-01-01 or 2015-01-01T14:30") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (backfill, quality, confirm):
        app.command()(command)
