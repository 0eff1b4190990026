"""Alerts: the present state of every rule, and the history of changes. Times are UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text

from enrichment.domain.statuses import AlertSeverity, AlertStatus
from enrichment.warehouse.database import Reader, fetch_all, from_row


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule at its last evaluation."""

    rule: str
    severity: str
    condition: str
    state: str
    since: datetime
    value: float | None
    updated_at: datetime
    silenced_until: datetime | None  # None if it is not silenced
    silenced_by: str | None
    silence_reason: str | None


@dataclass(frozen=True, slots=True)
class AlertReport:
    """All alerts, the most severe first."""

    timestamp: datetime
    evaluated_at: datetime | None  # None before the first evaluation
    evaluator: str | None
    alerts: list[Alert]


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    """The delivery of a notification to a channel."""

    channel: str
    attempts: int
    delivered_at: datetime | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """A change of state of an alert."""

    id: int
    event_id: UUID
    at: datetime
    rule: str
    severity: str
    state: str
    value: float | None
    condition: str
    detail: str
    silenced: bool  # whether the rule was silenced, so that nothing was sent
    deliveries: list[DeliveryStatus]


class AlertReports(Reader):
    """Reads alerts; see `warehouse.alerts` for what changes them."""

    def report(self) -> AlertReport:
        with self._db.begin() as conn:
            head = conn.execute(text(_HEAD)).one()
            alerts = fetch_all(conn, Alert, _ALERTS)
            return AlertReport(head.now, head.evaluated_at, head.evaluator, alerts)

    def history(self, limit: int, before: int | None = None) -> list[AlertEvent]:
        """Up to `limit` changes with an id below `before`, newest first."""
        with self._db.begin() as conn:
            rows = conn.execute(text(_HISTORY), {"limit": limit, "before": before}).all()
        return [from_row(AlertEvent, r, deliveries=_deliveries(r.deliveries)) for r in rows]


def _deliveries(rows: list[dict[str, Any]]) -> list[DeliveryStatus]:
    return [
        DeliveryStatus(row["channel"], row["attempts"], _moment(row["at"]), row["last_error"])
        for row in rows
    ]


def _moment(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)


_HEAD = """
SELECT now() AS now, nullif(evaluated_at, '-infinity') AS evaluated_at,
    CASE WHEN evaluated_at > '-infinity' THEN evaluator END AS evaluator
FROM alert_evaluation
"""

_ALERTS = f"""
SELECT a.rule, a.severity, a.condition, a.state, a.since, a.value, a.updated_at,
    s.until AS silenced_until, s.silenced_by, s.reason AS silence_reason
FROM alert_states a LEFT JOIN alert_silences s ON s.rule = a.rule AND s.until > now()
ORDER BY a.state = '{AlertStatus.FIRING}' DESC, a.state = '{AlertStatus.PENDING}' DESC,
    a.severity = '{AlertSeverity.CRITICAL}' DESC, a.rule
"""

_HISTORY = """
SELECT e.id, e.event_id, e.at, e.rule, e.severity, e.state, e.value, e.condition, e.detail,
    e.silenced, coalesce(d.deliveries, '[]'::jsonb) AS deliveries
FROM alert_events e
LEFT JOIN LATERAL (
    SELECT jsonb_agg(jsonb_build_object('channel', channel, 'attempts', attempts,
        'at', delivered_at, 'last_error', last_error) ORDER BY channel) AS deliveries
    FROM alert_deliveries WHERE event = e.id) d ON true
WHERE CAST(:before AS bigint) IS NULL OR e.id < CAST(:before AS bigint)
ORDER BY e.id DESC LIMIT :limit
"""
