"""Commands that steer the engine: pause, resume, cancel."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import typer

from enrichment.cli.context import actor, out, services, settings
from enrichment.domain.clock import utc_now
from enrichment.domain.durations import parse_duration
from enrichment.domain.errors import InvalidRequest

AssetClass = Annotated[str | None, typer.Option(help="Only this asset class.")]
Symbol = Annotated[str | None, typer.Option(help="Only this symbol.")]
Provider = Annotated[str | None, typer.Option(help="Only this provider.")]
Reason = Annotated[str | None, typer.Option(help="Why, for the audit.")]


def pause(
    asset_class: AssetClass = None,
    symbol: Symbol = None,
    provider: Provider = None,
    duration: Annotated[
        str | None, typer.Option("--for", help="How long, e.g. 30m, 2h, 1d; none: until resumed.")
    ] = None,
    reason: Reason = None,
) -> None:
    """Start nothing new, in all or in one scope, until 'resume'; survives restarts."""
    scope, key = _scope(asset_class, symbol, provider)
    until = None if duration is None else utc_now() + parse_duration(duration)
    with services(settings()) as (_, commands):
        commands.pause(actor=actor(), scope=scope, key=key, reason=reason, until=until)
    ending = f"until {until:%Y-%m-%d %H:%M} UTC" if until else "until 'enrichment resume'"
    out.print(
        f"paused {f'{scope} {key}'.strip()}: what is at work finishes, nothing new starts {ending}",
        highlight=False,
    )


def resume(
    asset_class: AssetClass = None,
    symbol: Symbol = None,
    provider: Provider = None,
    job: Annotated[
        UUID | None, typer.Option(help="Run this job's failed symbols again, lifting no pause.")
    ] = None,
    error_class: Annotated[
        str | None, typer.Option(help="With --job: only those that failed with this error.")
    ] = None,
    reason: Reason = None,
) -> None:
    """Lift a pause, or run a job's failed symbols again."""
    with services(settings()) as (_, commands):
        if job is not None:
            count = commands.resume_failed(
                job, actor=actor(), error_class=error_class, reason=reason
            )
            out.print(f"job {job}: {count} symbols run again", highlight=False)
            return
        scope, key = _scope(asset_class, symbol, provider)
        commands.resume(actor=actor(), scope=scope, key=key, reason=reason)
    out.print(f"resumed {f'{scope} {key}'.strip()}", highlight=False)


def cancel(
    job: Annotated[UUID, typer.Argument(help="As 'history' shows it.")], reason: Reason = None
) -> None:
    """End a job: waiting symbols are cancelled now, those at work at their next step."""
    with services(settings()) as (_, commands):
        commands.cancel(job, actor=actor(), reason=reason)
    out.print(f"job {job} is being cancelled", highlight=False)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (pause, resume, cancel):
        app.command()(command)


def _scope(asset_class: str | None, symbol: str | None, provider: str | None) -> tuple[str, str]:
    chosen = [
        (scope, key)
        for scope, key in (
            ("asset_class", asset_class),
            ("symbol", symbol),
            ("provider", provider),
        )
        if key is not None
    ]
    if len(chosen) > 1:
        raise InvalidRequest("name one scope at a time")
    return chosen[0] if chosen else ("global", "")
