"""`enrichment actions …`: splits, dividends and other corporate actions."""

from __future__ import annotations

from datetime import date
from typing import Annotated

import typer

from enrichment.cli.context import Json, Plain, actor, load_settings, out, services
from enrichment.domain.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="Splits, dividends and other corporate actions.")

Symbol = Annotated[str, typer.Argument(help="Symbol.")]
Kind = Annotated[str, typer.Argument(help="split, cash_dividend, special_dividend, …")]
Day = Annotated[str, typer.Argument(help="Execution date or ex-date, YYYY-MM-DD.")]
WhyOption = Annotated[str, typer.Option("--reason", help="Reason, recorded in the audit log.")]


@app.command("list")
def actions_list(
    symbol: Annotated[str | None, typer.Argument(help="Symbol; none: all.")] = None,
    since: Annotated[str | None, typer.Option(help="Earliest date, YYYY-MM-DD.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Maximum number.")] = 50,
    as_json: Json = False,
    plain: Plain = False,
) -> None:
    """List corporate actions, the latest first."""
    from enrichment.cli import render
    from enrichment.cli.tables import print_table
    from enrichment.domain.symbols import parse_symbol

    name = None if symbol is None else parse_symbol(symbol)
    first = None if since is None else _day(since)
    with services() as (reader, _):
        rows = reader.corporate_actions.listed(limit + 1, symbol=name, since=first)
    if as_json:
        render.print_json(out, rows[:limit])
        return
    if not rows and not plain:
        out.print("no corporate actions are known: 'enrichment actions refresh' asks the vendors")
        return
    print_table(out, render.actions_table(rows[:limit]), plain=plain)
    if len(rows) > limit and not plain:
        out.print(f"the latest {limit}; more with --limit", highlight=False)


@app.command("add")
def actions_add(
    symbol: Symbol,
    kind: Kind,
    day: Day,
    reason: WhyOption,
    ratio: Annotated[float | None, typer.Option(help="New shares for one old share.")] = None,
    amount: Annotated[float | None, typer.Option(help="Amount paid for one share.")] = None,
    currency: Annotated[str | None, typer.Option(help="Of the amount.")] = None,
) -> None:
    """Add an action, or correct one that vendors report."""
    with services() as (_, commands):
        again = commands.add_action(
            symbol,
            kind,
            _day(day),
            ratio=ratio,
            amount=amount,
            currency=currency,
            reason=reason,
            actor=actor(),
        )
    _report("recorded", again)


@app.command("refute")
def actions_refute(symbol: Symbol, kind: Kind, day: Day, reason: WhyOption) -> None:
    """State that an action did not take place, whatever vendors report."""
    with services() as (_, commands):
        again = commands.refute_action(symbol, kind, _day(day), reason=reason, actor=actor())
    _report("it is not applied", again)


@app.command("restore")
def actions_restore(symbol: Symbol, kind: Kind, day: Day, reason: WhyOption) -> None:
    """Take an own account back: that of the vendors applies again."""
    with services() as (_, commands):
        again = commands.restore_action(symbol, kind, _day(day), reason=reason, actor=actor())
    _report("the vendors' account applies", again)


@app.command("refresh")
def actions_refresh() -> None:
    """Ask the vendors for corporate actions now; a worker does so before each nightly job."""
    from enrichment.wiring.database import open_database
    from enrichment.wiring.vendors import build_action_sources
    from enrichment.wiring.worker import build_action_refresh
    from resilience import init_resilience_manager

    settings = load_settings()
    manager = init_resilience_manager()
    with open_database(settings, application="enrichment-cli") as db:
        sources = build_action_sources(settings, manager)
        if not sources:
            raise InvalidRequest(
                "no vendor in use lists corporate actions of the market: set POLYGON_API_KEY;"
                " Yahoo's come with its bars"
            )
        results = build_action_refresh(settings, db, sources).refresh_all()
    manager.close()
    for result in results:
        if result.error is not None:
            raise InvalidRequest(f"{result.source}: {result.error}")
        out.print(
            f"{result.source}: {result.reported:,} reported, {result.changed:,} changed, "
            f"{result.withdrawn:,} withdrawn",
            highlight=False,
        )
        if result.enriched_again:
            out.print(f"enriched again: {', '.join(result.enriched_again)}", highlight=False)


def _report(text: str, enriched_again: bool) -> None:
    suffix = "; a job computes the features of its stored bars again" if enriched_again else ""
    out.print(f"{text}{suffix}", highlight=False)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is not a date: write YYYY-MM-DD") from None
