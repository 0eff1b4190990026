"""What is stored and shown of alerts: frozen values. Times are timezone-aware UTC."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class AlertState:
    """A rule's state: ok, pending or firing, since when.

    episode: the newest firing. clear_since: since when a firing alert's condition has not held.
    notified: whether the firing was handed to the channels.
    """

    rule: str
    state: str
    since: datetime
    episode: UUID | None = None
    clear_since: datetime | None = None
    notified: bool = False


@dataclass(frozen=True, slots=True)
class Alert:
    """A rule as it stood at the last evaluation; `silenced_until` where an operator silenced it."""

    rule: str
    severity: str
    condition: str
    state: str
    since: datetime
    value: float | None
    updated_at: datetime
    silenced_until: datetime | None
    silenced_by: str | None
    silence_reason: str | None


@dataclass(frozen=True, slots=True)
class AlertReport:
    """Every alert, gravest first; evaluated_at: None before the first evaluation."""

    timestamp: datetime
    evaluated_at: datetime | None
    evaluator: str | None
    alerts: list[Alert]


@dataclass(frozen=True, slots=True)
class DeliveryStatus:
    channel: str
    attempts: int
    delivered_at: datetime | None
    last_error: str | None


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """A change of state. silenced: nobody was told at that moment."""

    id: int
    event_id: UUID
    at: datetime
    rule: str
    severity: str
    state: str
    value: float | None
    condition: str
    detail: str
    silenced: bool
    deliveries: list[DeliveryStatus]


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notification to be sent: one change of state to one channel."""

    event: int
    channel: str
    attempts: int
    event_id: UUID
    episode: UUID
    at: datetime
    rule: str
    severity: str
    state: str
    value: float | None
    condition: str
    detail: str
