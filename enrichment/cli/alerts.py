"""`enrichment alerts …`: what fires, whether it reaches anybody, and silences."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated

import typer

from enrichment.cli.context import Json, actor, err, out, services, settings
from enrichment.domain.clock import utc_now
from enrichment.domain.durations import parse_duration
from enrichment.domain.errors import ConfigurationError, EnrichmentError

if TYPE_CHECKING:
    from rich.table import Table

    from enrichment.services.alerts.rules import Rule
    from enrichment.warehouse.alerts import Delivery
    from enrichment.warehouse.read_models.alerts import Alert, AlertEvent, AlertReport

app = typer.Typer(no_args_is_help=True, help="List, test and silence alerts.")

RuleName = Annotated[str, typer.Argument(help="As 'enrichment alerts list' shows it.")]
Reason = Annotated[str | None, typer.Option(help="Why, for the audit.")]


@app.command("list")
def alerts_list(
    history: Annotated[int, typer.Option(min=0, max=500, help="Changes of state to show.")] = 10,
    as_json: Json = False,
) -> None:
    """List the rules in force, what fires, what is silenced, and the newest changes."""
    from enrichment.cli import render
    from enrichment.wiring import alerts as alerting

    chosen = settings()
    rules = alerting.load_rules(chosen)
    with services(chosen) as (reader, _):
        report = reader.alerts.report()
        events = reader.alerts.history(history) if history else []
    if as_json:
        out.print(render.as_json({"report": report, "events": events}), highlight=False)
        return
    out.print(_alerts_table(rules, report))
    when = render.moment(report.evaluated_at)
    by = f" by {report.evaluator}" if report.evaluator else ""
    out.print(f"\nevaluated {when}{by}", highlight=False)
    if events:
        out.print()
        out.print(_events_table(events))


@app.command("test")
def alerts_test() -> None:
    """Send a test alert, firing and resolved, to every channel; exit code 1 if one fails."""
    from enrichment.wiring import alerts as alerting
    from resilience import init_resilience_manager

    chosen = settings()
    manager = init_resilience_manager()
    try:
        channels = alerting.build_channels(chosen, manager)
        if not channels:
            raise ConfigurationError(
                "no channel is set up: set ALERT_WEBHOOK_URL or PAGERDUTY_ROUTING_KEY"
            )
        failed = False
        episode = uuid.uuid4()
        for name, channel in channels.items():
            try:
                for state in ("firing", "resolved"):
                    channel.send(_trial(name, state, episode))
                out.print(f"[green]✓[/] {name} took it", highlight=False)
            except EnrichmentError as exc:
                failed = True
                err.print(f"✗ {name}: {exc}", style="red", markup=False, highlight=False)
    finally:
        manager.close()
    if failed:
        raise typer.Exit(1)


@app.command("silence")
def alerts_silence(
    rule: RuleName,
    duration: Annotated[str, typer.Option("--for", help="How long, e.g. 30m, 2h, 1d.")] = "2h",
    reason: Reason = None,
) -> None:
    """Tell nobody of a rule's alerts for a while; what still fires afterwards is told then."""
    length = parse_duration(duration)
    with services(settings()) as (_, commands):
        until = commands.silence(rule, length=length, actor=actor(), reason=reason)
    out.print(f"{rule} is silent until {until:%Y-%m-%d %H:%M} UTC", highlight=False)


@app.command("unsilence")
def alerts_unsilence(rule: RuleName, reason: Reason = None) -> None:
    """End a silence before its time."""
    with services(settings()) as (_, commands):
        commands.unsilence(rule, actor=actor(), reason=reason)
    out.print(f"{rule} is heard again", highlight=False)


def _trial(channel: str, state: str, episode: uuid.UUID) -> Delivery:
    from enrichment.warehouse.alerts import Delivery

    return Delivery(
        event=0,
        channel=channel,
        attempts=1,
        event_id=uuid.uuid4(),
        episode=episode,
        at=utc_now(),
        rule="TestAlert",
        severity="info",
        state=state,
        value=None,
        condition="'enrichment alerts test' was run",
        detail="this is a test: nothing is wrong",
    )


def _alerts_table(rules: tuple[Rule, ...], report: AlertReport) -> Table:
    from rich.table import Table

    from enrichment.cli import render

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("rule", "state", "since", "severity", "condition", "value", "silenced until"):
        table.add_column(name)
    known: dict[str, Alert] = {alert.rule: alert for alert in report.alerts}
    for rule in rules:
        alert = known.get(rule.name)
        table.add_row(
            rule.name,
            alert.state if alert else "not evaluated",
            render.moment(alert.since) if alert else "–",
            rule.severity,
            rule.condition,
            "–" if alert is None or alert.value is None else f"{alert.value:g}",
            render.moment(alert.silenced_until) if alert and alert.silenced_until else "–",
        )
    return table


def _events_table(events: list[AlertEvent]) -> Table:
    from rich.table import Table

    from enrichment.cli import render

    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("at", "rule", "change", "detail", "delivered"):
        table.add_column(name)
    for event in events:
        told = [
            f"{d.channel} {'✓' if d.delivered_at else f'waits ({d.attempts} attempts)'}"
            for d in event.deliveries
        ]
        said = ", ".join(told) or ("silenced" if event.silenced else "–")
        table.add_row(render.moment(event.at), event.rule, event.state, event.detail, said)
    return table
