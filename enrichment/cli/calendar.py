"""`enrichment calendar …`: sessions that exchanges did not hold."""

from __future__ import annotations

from datetime import date
from typing import Annotated

import typer

from enrichment.cli.context import Json, actor, out, services
from enrichment.domain.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="Unscheduled closures of exchanges.")

Mic = Annotated[str, typer.Argument(help="Exchange (ISO 10383), such as XNYS or XLON.")]
Day = Annotated[str, typer.Argument(help="Date of the session, YYYY-MM-DD.")]


@app.command("close")
def calendar_close(
    mic: Mic,
    day: Day,
    reason: Annotated[str, typer.Option("--reason", help="Reason, recorded in the audit log.")],
) -> None:
    """Declare that an exchange did not trade on a day: no bars are expected of it."""
    with services() as (_, commands):
        commands.close_session(mic, _day(day), reason=reason, actor=actor())
    out.print(f"{mic.upper()} {day} is closed: workers know within a minute", highlight=False)


@app.command("reopen")
def calendar_reopen(
    mic: Mic,
    day: Day,
    reason: Annotated[str | None, typer.Option("--reason", help="For the audit log.")] = None,
) -> None:
    """Take a closure back: its bars are expected again."""
    with services() as (_, commands):
        commands.reopen_session(mic, _day(day), reason=reason, actor=actor())
    out.print(f"{mic.upper()} {day} is a session: workers know within a minute", highlight=False)


@app.command("list")
def calendar_list(as_json: Json = False) -> None:
    """List the closures, and sessions that look like one."""
    from enrichment.cli import render

    with services() as (reader, _):
        closed, proposed = reader.closures.listed(), reader.closures.proposed()
    if as_json:
        render.print_json(out, {"closures": closed, "proposed": proposed})
        return
    if not closed:
        out.print("no unscheduled closures are declared")
    for closure in closed:
        out.print(
            f"{closure.mic} {closure.day}: {closure.reason} ({closure.closed_by})", highlight=False
        )
    for one in proposed:
        out.print(
            f"{one.mic} {one.day}: {one.missing} of {one.symbols} symbols have no bar of it."
            " If it was closed:"
            f" 'enrichment calendar close {one.mic} {one.day} --reason TEXT'",
            highlight=False,
        )


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is not a date: write YYYY-MM-DD") from None
