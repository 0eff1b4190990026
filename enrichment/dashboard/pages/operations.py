"""Operations: is the engine sound, what is wrong, and who changed what."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import streamlit as st

from enrichment.dashboard.components import (
    ago,
    auto_refresh,
    empty_state,
    load_more,
    moment,
    refresh_on_change,
    refreshed_at,
    rows_shown,
    run_command,
    table,
    with_reason,
)
from enrichment.dashboard.data.cache import cached_read
from enrichment.dashboard.services import actor, commands, services
from enrichment.warehouse.alert_rows import Alert, AlertEvent, AlertReport
from enrichment.warehouse.read_models.audit_log import AuditEntry
from enrichment.warehouse.read_models.dto import SlotStatus, WorkerStatus

ACTIONS = 200
EVENTS = 50
HOURS = 2


@cached_read
def report() -> AlertReport:
    return services().reader.alerts.report()


@cached_read
def engine() -> tuple[list[WorkerStatus], list[SlotStatus]]:
    reader = services().reader
    return reader.workers(), reader.slots()


@cached_read
def fired(limit: int) -> list[AlertEvent]:
    return services().reader.alerts.history(limit)


@cached_read
def done(limit: int) -> list[AuditEntry]:
    return services().reader.journal.actions(limit)


def warnings() -> None:
    """What fires, and what did."""
    found = report()
    refreshed_at(found.timestamp)
    alerts(found)
    changes(fired(rows_shown("fired", EVENTS)))


def page() -> None:
    """Workers, slots, audit."""
    working, taken = engine()
    workers(working, report().timestamp)
    slots(taken)
    audit(done(rows_shown("done", ACTIONS)))


def alerts(found: AlertReport) -> None:
    st.subheader("Alerts")
    if found.evaluated_at is None:
        empty_state("The rules have not been evaluated yet: a worker does so every minute.")
        return
    firing = [alert for alert in found.alerts if alert.state == "firing"]
    for alert in firing:
        show = st.error if alert.severity == "critical" else st.warning
        show(
            f"**{alert.rule}** fires since {moment(alert.since)}: {alert.condition}"
            f"{_silenced(alert)}",
            icon=":material/notifications_active:",
        )
    if not firing:
        st.success("Nothing fires.", icon=":material/check_circle:")
    rows = [
        {
            "rule": alert.rule,
            "state": alert.state,
            "severity": alert.severity,
            "condition": alert.condition,
            "value": alert.value,
            "since": alert.since,
            "silenced until": alert.silenced_until,
        }
        for alert in found.alerts
    ]
    table(rows, key="alerts")
    st.caption(f"evaluated {ago(found.evaluated_at, found.timestamp)} by {found.evaluator}")


def changes(events: Sequence[AlertEvent]) -> None:
    if not events:
        return
    with st.expander(f"What fired and was resolved ({len(events)})"):
        rows = [
            {
                "at": event.at,
                "rule": event.rule,
                "change": event.state,
                "detail": event.detail,
                "told": ", ".join(_told(event)) or ("silenced" if event.silenced else "nobody"),
            }
            for event in events
        ]
        table(rows, key="events")
        load_more("fired", EVENTS, len(rows))


def workers(found: Sequence[WorkerStatus], now: datetime) -> None:
    st.subheader("Workers")
    if not found:
        empty_state("No worker has run within the last day. Start one with `enrichment worker`.")
        return
    rows = [
        {
            "worker": worker.worker_id,
            "state": worker.state if worker.alive or worker.state == "stopped" else "lost",
            "host": worker.host,
            "pid": worker.pid,
            "busy": f"{worker.busy} of {worker.threads} threads",
            "started": worker.started_at,
            "heartbeat": worker.heartbeat_at,
            "silent for": f"{max(0.0, (now - worker.heartbeat_at).total_seconds()):.0f} s",
            "waits for": worker.note or "",
        }
        for worker in found
    ]
    table(rows, key="workers")


def slots(found: Sequence[SlotStatus]) -> None:
    st.subheader("Nightly slots")
    if not found:
        empty_state("No nightly run has begun yet.")
        return
    rows = [
        {
            "slot": slot.slot,
            "kind": slot.kind,
            "state": slot.state,
            "late": str(timedelta(seconds=round(slot.late_seconds))),
            "seconds": slot.duration_seconds,
            "successful": slot.successful,
            "failed": slot.failed,
        }
        for slot in found
    ]
    table(rows, key="slots")


def audit(actions: Sequence[AuditEntry]) -> None:
    st.subheader("Who changed what")
    if not actions:
        empty_state("Nobody has changed anything yet.")
        return
    rows = [
        {
            "at": action.at,
            "actor": action.actor,
            "action": action.action.replace("_", " "),
            "target": action.target,
            "reason": action.reason,
        }
        for action in actions
    ]
    table(rows, key="audit")
    load_more("done", ACTIONS, len(rows))


def silence(reason: str) -> None:
    rule = st.session_state["rule"]
    length = timedelta(hours=st.session_state["hours"])
    run_command(
        lambda: commands().silence(rule, length=length, actor=actor(), reason=reason),
        f"{rule} is silent for {length}",
    )


def unsilence(rule: str) -> None:
    run_command(lambda: commands().unsilence(rule, actor=actor()), f"{rule} is heard again")


def silenced() -> list[tuple[str, datetime | None]]:
    return [(alert.rule, alert.silenced_until) for alert in report().alerts]


def silences() -> None:
    """Telling nobody of a rule's alerts for a while."""
    found = report().alerts
    if not found:
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox("Silence a rule", [alert.rule for alert in found], key="rule", width=320)
        st.number_input("Hours", 1, 720, HOURS, key="hours", width=160)
        with_reason(
            "Silence",
            "Nobody is told of it meanwhile; what still fires afterwards is told then.",
            silence,
            key="silence",
        )
    for alert in found:
        if alert.silenced_until is not None:
            st.button(
                f"{alert.rule}: end the silence",
                icon=":material/notifications:",
                key=f"unsilence-{alert.rule}",
                on_click=unsilence,
                args=(alert.rule,),
            )


def _silenced(alert: Alert) -> str:
    until = alert.silenced_until
    return "" if until is None else f" (silenced until {moment(until)})"


def _told(event: AlertEvent) -> list[str]:
    return [
        f"{d.channel} {'took it' if d.delivered_at else f'waits, {d.attempts} attempts'}"
        for d in event.deliveries
    ]


st.title("Operations")
auto_refresh(warnings)
refresh_on_change(silences, of=silenced)
auto_refresh(page)
