"""`enrichment alerts …`: list alerts, test the channels, silence rules."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from enrichment.cli.context import Json, Plain, Reason, actor, err, load_settings, out, services
from enrichment.cli.tables import Table, print_table
from enrichment.domain.clock import utc_now
from enrichment.domain.durations import parse_duration
from enrichment.domain.errors import ConfigurationError, EnrichmentError
from enrichment.domain.plurals import counted
from enrichment.domain.statuses import AlertChange, AlertSeverity

if TYPE_CHECKING:
    from enrichment.services.alerts.rules import Rule
    from enrichment.services.alerts.service import Sender
    from enrichment.warehouse.alerts import Delivery
    from enrichment.warehouse.read_models.alerts import Alert, AlertEvent, AlertReport

app = typer.Typer(no_args_is_help=True, help="List, test and silence alerts.")

RuleName = Annotated[str, typer.Argument(help="Name, as shown by 'enrichment alerts list'.")]


@app.command("list")
def alerts_list(
    history: Annotated[int, typer.Option(min=0, max=500, help="Number of events to show.")] = 10,
    as_json: Json = False,
    plain: Plain = False,
) -> None:
    """List the rules with their state and silences, and the latest events."""
    from enrichment.cli import render
    from enrichment.wiring.alerts import load_rules

    settings = load_settings()
    rules = load_rules(settings)
    with services(settings) as (reader, _):
        report = reader.alerts.report()
        events = reader.alerts.history(history) if history else []
    if as_json:
        render.print_json(out, {"report": report, "events": events})
        return
    print_table(out, _alerts_table(rules, report), plain=plain)
    if plain:
        return
    by = f" by {report.evaluator}" if report.evaluator else ""
    out.print(f"\nevaluated {render.timestamp(report.evaluated_at)}{by}", highlight=False)
    if events:
        out.print()
        out.print(_events_table(events))


@app.command("test")
def alerts_test() -> None:
    """Send a test alert, firing and resolved, to every channel; exit code 1 if one fails."""
    from enrichment.wiring.alerts import build_channels
    from resilience import init_resilience_manager

    manager = init_resilience_manager()
    try:
        channels = build_channels(load_settings(), manager)
        if not channels:
            raise ConfigurationError(
                "no channel is configured: set ALERT_WEBHOOK_URL or PAGERDUTY_ROUTING_KEY"
            )
        results = [_send_test(name, channel) for name, channel in channels.items()]
    finally:
        manager.close()
    if not all(results):
        raise typer.Exit(1)


@app.command("silence")
def alerts_silence(
    rule: RuleName,
    duration: Annotated[str, typer.Option("--for", help="Duration, e.g. 30m, 2h, 1d.")] = "2h",
    reason: Reason = None,
) -> None:
    """Send no notifications of a rule for a while; if it still fires then, they are sent."""
    length = parse_duration(duration)
    with services() as (_, commands):
        until = commands.silence(rule, length=length, actor=actor(), reason=reason)
    out.print(f"{rule} is silenced until {until:%Y-%m-%d %H:%M} UTC", highlight=False)


@app.command("unsilence")
def alerts_unsilence(rule: RuleName, reason: Reason = None) -> None:
    """End a silence early."""
    with services() as (_, commands):
        commands.unsilence(rule, actor=actor(), reason=reason)
    out.print(f"silence of {rule} ended", highlight=False)


def _send_test(name: str, channel: Sender) -> bool:
    """Send the test alert to one channel and print the result; whether it was delivered."""
    episode = uuid.uuid4()
    try:
        for change in AlertChange:
            channel.send(_test_delivery(name, change, episode))
    except EnrichmentError as exc:
        err.print(f"✗ {name}: {exc}", style="red", highlight=False)
        return False
    out.print(Text.assemble(("✓", "green"), f" {name}: delivered"))
    return True


def _test_delivery(channel: str, change: AlertChange, episode: uuid.UUID) -> Delivery:
    from enrichment.warehouse.alerts import Delivery

    return Delivery(
        event=0,
        channel=channel,
        attempts=1,
        event_id=uuid.uuid4(),
        episode=episode,
        at=utc_now(),
        rule="TestAlert",
        severity=AlertSeverity.INFO,
        state=change,
        value=None,
        condition="'enrichment alerts test' was run",
        detail="this is a test",
    )


def _alerts_table(rules: tuple[Rule, ...], report: AlertReport) -> Table:
    from enrichment.cli import render

    table = Table(
        *("rule", "state", "severity", "value", "since", "silenced until"),
        right=("value",),
        optional=("silenced until", "since", "severity"),
        prose="condition",
    )
    alerts: dict[str, Alert] = {alert.rule: alert for alert in report.alerts}
    for rule in rules:
        alert = alerts.get(rule.name)
        table.add_row(
            rule.name,
            alert.state if alert else "not evaluated",
            rule.severity,
            "–" if alert is None or alert.value is None else f"{alert.value:g}",
            render.timestamp(alert.since if alert else None),
            render.timestamp(alert.silenced_until if alert else None),
            rule.condition,
        )
    return table


def _events_table(events: list[AlertEvent]) -> Table:
    from enrichment.cli import render

    table = Table("at", "rule", "change", "delivered", optional=("delivered",), prose="detail")
    for event in events:
        deliveries = [
            f"{d.channel} ✓"
            if d.delivered_at
            else f"{d.channel} pending ({counted(d.attempts, 'attempt')})"
            for d in event.deliveries
        ]
        summary = ", ".join(deliveries) or ("silenced" if event.silenced else "–")
        table.add_row(render.timestamp(event.at), event.rule, event.state, summary, event.detail)
    return table
