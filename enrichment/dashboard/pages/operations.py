"""Operations: alerts, workers, scheduled runs, and the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import streamlit as st

from enrichment.dashboard.auth import actor, is_operator
from enrichment.dashboard.components import (
    SECONDS,
    action_button,
    button_with_reason,
    empty_state,
    load_more,
    row_limit,
    run_command,
    table,
)
from enrichment.dashboard.data.cache import cached_read, live_read
from enrichment.dashboard.formatting import age, label
from enrichment.dashboard.refresh import Section, show
from enrichment.dashboard.services import commands, services
from enrichment.dashboard.times import format_time
from enrichment.domain.escape import for_markdown
from enrichment.domain.plurals import counted
from enrichment.domain.statuses import AlertSeverity, AlertStatus, WorkerState
from enrichment.warehouse.read_models.alerts import Alert, AlertEvent, AlertReport
from enrichment.warehouse.read_models.audit_log import AuditEntry
from enrichment.warehouse.read_models.dto import ListTotals, SlotStatus, WorkerStatus

AUDIT_ENTRIES = 200
ALERT_EVENTS = 50
SLOTS = 30
SILENCE_HOURS = 2
LATE = timedelta(minutes=5)  # since the last evaluation of the alert rules


@cached_read
def read_alerts() -> AlertReport:
    return services().reader.alerts.report()


@live_read
def read_workers() -> list[WorkerStatus]:
    return services().reader.workers()


@cached_read
def read_slots(limit: int) -> list[SlotStatus]:
    return services().reader.slots(limit)


@cached_read
def read_totals() -> ListTotals:
    return services().reader.list_totals()


def slots_shown() -> list[SlotStatus]:
    return read_slots(row_limit("slots-limit", SLOTS))


@cached_read
def read_alert_history(limit: int) -> list[AlertEvent]:
    return services().reader.alerts.history(limit)


@cached_read
def read_audit_log(limit: int) -> list[AuditEntry]:
    return services().reader.audit_log.actions(limit)


def alert_events() -> list[AlertEvent]:
    return read_alert_history(row_limit("alert-events-limit", ALERT_EVENTS))


def audit_entries() -> list[AuditEntry]:
    return read_audit_log(row_limit("audit-limit", AUDIT_ENTRIES))


def alert_inputs() -> object:
    report = read_alerts()
    return report.alerts, evaluated_text(report), alert_events()


def alert_sections() -> None:
    alerts(read_alerts())
    alert_history(alert_events())


def alerts(report: AlertReport) -> None:
    st.subheader("Alerts")
    if report.evaluated_at is None:
        empty_state("The alert rules have not been evaluated yet: a worker does so every minute.")
        return
    firing = [alert for alert in report.alerts if alert.state == AlertStatus.FIRING]
    for alert in firing:
        show = st.error if alert.severity == AlertSeverity.CRITICAL else st.warning
        show(
            f"**{alert.rule}** firing since {format_time(alert.since)}: {alert.condition}"
            f"{silence_text(alert)}",
            icon=":material/notifications_active:",
        )
    if report.timestamp - report.evaluated_at > LATE:
        st.warning(
            f"The alert rules were last evaluated {age(report.evaluated_at, report.timestamp)}, "
            "although a worker does so every minute: below is what they said then.",
            icon=":material/history_toggle_off:",
        )
    elif not firing:
        st.success("No active alerts.", icon=":material/check_circle:")
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
        for alert in report.alerts
    ]
    table(rows, key="alerts")
    st.caption(evaluated_text(report))


def evaluated_text(report: AlertReport) -> str:
    if report.evaluated_at is None:
        return ""
    return for_markdown(
        f"evaluated {age(report.evaluated_at, report.timestamp)} by {report.evaluator}"
    )


def alert_history(events: Sequence[AlertEvent]) -> None:
    if not events:
        return
    with st.expander(f"Alert history ({read_totals().alert_events:,})"):
        rows = [
            {
                "at": event.at,
                "rule": event.rule,
                "change": event.state,
                "detail": event.detail,
                "notifications": notifications_text(event),
            }
            for event in events
        ]
        table(rows, key="alert-events")
        load_more("alert-events-limit", ALERT_EVENTS, len(rows), read_totals().alert_events)


def workers() -> None:
    statuses = read_workers()
    st.subheader("Workers")
    if not statuses:
        empty_state("No worker has run in the last day. Start one with `enrichment worker`.")
        return
    rows = [
        {
            "worker": worker.worker_id,
            "state": worker.state
            if worker.alive or worker.state == WorkerState.STOPPED
            else "lost",
            "host": worker.host,
            "pid": worker.pid,
            "busy": f"{worker.busy} of {counted(worker.threads, 'thread')}",
            "started": worker.started_at,
            "last heartbeat": worker.heartbeat_at,
            "waiting for": worker.note or "",
        }
        for worker in statuses
    ]
    table(rows, key="workers")


def scheduled_runs() -> None:
    slots = slots_shown()
    st.subheader("Scheduled runs")
    if not slots:
        empty_state("No scheduled run has started yet.")
        return
    rows = [
        {
            "schedule": slot.schedule,
            "scheduled": slot.slot,
            "kind": slot.kind,
            "state": slot.state,
            "delay": ""
            if slot.late_seconds is None
            else str(timedelta(seconds=round(slot.late_seconds))),
            "seconds": slot.duration_seconds,
            "successful": slot.successful,
            "failed": slot.failed,
        }
        for slot in slots
    ]
    table(rows, {"seconds": SECONDS}, key="slots")
    load_more("slots-limit", SLOTS, len(rows), read_totals().slots)


def audit_log() -> None:
    entries = audit_entries()
    st.subheader("Audit log")
    if not entries:
        empty_state("No changes have been made yet.")
        return
    rows = [
        {
            "at": entry.at,
            "actor": entry.actor,
            "action": label(entry.action),
            "target": entry.target,
            "reason": entry.reason,
        }
        for entry in entries
    ]
    table(rows, key="audit")
    load_more("audit-limit", AUDIT_ENTRIES, len(rows), read_totals().actions)


def silence(reason: str) -> None:
    rule = st.session_state["rule"]
    length = timedelta(hours=st.session_state["hours"])
    run_command(
        lambda: commands().silence(rule, length=length, actor=actor(), reason=reason),
        f"{rule} is silenced for {length}",
    )


def unsilence(rule: str) -> None:
    run_command(
        lambda: commands().unsilence(rule, actor=actor()), f"The silence of {rule} has ended"
    )


def silences() -> list[tuple[str, datetime | None]]:
    """Each rule, and until when it is silenced."""
    return [(alert.rule, alert.silenced_until) for alert in read_alerts().alerts]


def silence_controls() -> None:
    """Stopping the notifications of a rule for a while, and ending that early."""
    rules = silences()
    if not (rules and is_operator()):
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.selectbox("Silence a rule", [rule for rule, _ in rules], key="rule", width=320)
        st.number_input("Hours", 1, 720, SILENCE_HOURS, key="hours", width=160)
        button_with_reason(
            "Silence",
            "The rule sends no notifications until then. If it still fires afterwards, it sends "
            "one.",
            silence,
            key="silence",
        )
    for rule, silenced_until in rules:
        if silenced_until is not None:
            action_button(
                f"{rule}: end the silence",
                icon=":material/notifications:",
                key=f"unsilence-{rule}",
                on_click=unsilence,
                args=(rule,),
            )


def silence_text(alert: Alert) -> str:
    until = alert.silenced_until
    return "" if until is None else f" (silenced until {format_time(until)})"


def notifications_text(event: AlertEvent) -> str:
    """Whether each channel has delivered the event's notification."""
    deliveries = [
        f"{d.channel} delivered"
        if d.delivered_at
        else f"{d.channel} pending after {counted(d.attempts, 'attempt')}"
        for d in event.deliveries
    ]
    return ", ".join(deliveries) or ("silenced" if event.silenced else "none")


st.title("Operations")
show(
    Section("alert-rules", alert_sections, alert_inputs),
    Section("silences", silence_controls, silences),
    Section("workers-alive", workers, read_workers),
    Section("runs", scheduled_runs, slots_shown),
    Section("audit-log", audit_log, audit_entries),
)
