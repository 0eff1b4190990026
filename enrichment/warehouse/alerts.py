"""Alerts in Postgres: states, history, silences, and the outbox of notifications.

An evaluation is one transaction: states, history and outbox change together, so a crash between a
change and its notification loses nothing. Its transaction locks the only row of `alert_evaluation`,
so that one process at a time evaluates, at most once per interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, text

from enrichment.domain.statuses import AlertStatus
from enrichment.warehouse.database import Database, fetch_all, fetch_one
from enrichment.warehouse.queue import pauses


@dataclass(frozen=True, slots=True)
class AlertState:
    """The state of a rule."""

    rule: str
    state: str  # an AlertStatus
    since: datetime
    episode: UUID | None = None  # the newest period of firing
    clear_since: datetime | None = None  # when the condition of a firing alert ceased to hold
    notified: bool = False  # whether the outbox has the notification of the firing


@dataclass(frozen=True, slots=True)
class Delivery:
    """A notification to send: one change of state to one channel."""

    event: int  # id of the change
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


class Evaluation:
    """The transaction of one evaluation, at `now` of the database's clock."""

    def __init__(self, conn: Connection, now: datetime) -> None:
        self._conn = conn
        self.now = now
        self.states = {state.rule: state for state in fetch_all(conn, AlertState, _STATES)}
        self.all_silenced = pauses.paused_globally(conn)
        self._silenced = set(conn.execute(text(_SILENCED)).scalars())

    def silenced(self, rule: str) -> bool:
        """Whether no notification is sent: everything is paused, or the rule is silenced."""
        return self.all_silenced or rule in self._silenced

    def save(
        self, state: AlertState, *, severity: str, condition: str, value: float | None
    ) -> None:
        values = {"severity": severity, "condition": condition, "value": value}
        self._conn.execute(text(_SAVE), {**asdict(state), **values})

    def record(
        self,
        state: AlertState,
        change: str,
        *,
        severity: str,
        condition: str,
        value: float | None,
        detail: str,
    ) -> None:
        """Add a change of state to the history."""
        self._conn.execute(
            text(_RECORD),
            {
                "at": self.now,
                "rule": state.rule,
                "episode": state.episode,
                "state": change,
                "severity": severity,
                "condition": condition,
                "value": value,
                "detail": detail,
                "silenced": self.silenced(state.rule),
            },
        )

    def enqueue(self, state: AlertState, change: str, channels: Sequence[str]) -> None:
        """Put the notification of an episode's change into the outbox of every channel, once."""
        for channel in channels:
            values = {"episode": state.episode, "state": change, "channel": channel}
            self._conn.execute(text(_ENQUEUE), values)

    def orphaned(self, rules: Sequence[str]) -> list[AlertState]:
        """Pending or firing alerts of rules other than these, not evaluated for an hour."""
        return fetch_all(self._conn, AlertState, _ORPHANED, {"rules": list(rules)})


class AlertStore:
    """Evaluations, and the outbox that deliveries are claimed from."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @contextmanager
    def evaluation(self, evaluator: str, interval: float) -> Iterator[Evaluation | None]:
        """The transaction of an evaluation.

        None if another process is evaluating, or has evaluated within the last `interval` seconds.
        """
        with self._db.begin() as conn:
            now = conn.execute(
                text(_BEGIN), {"evaluator": evaluator, "interval": interval}
            ).scalar_one_or_none()
            yield None if now is None else Evaluation(conn, now)

    def claim_delivery(self, channels: Sequence[str], lease: float) -> Delivery | None:
        """Claim the oldest due delivery of these channels for `lease` seconds; None without one.

        The changes of a rule are delivered to a channel in their order.
        """
        with self._db.begin() as conn:
            values = {"channels": list(channels), "lease": lease}
            return fetch_one(conn, Delivery, _CLAIM, values)

    def delivered(self, delivery: Delivery) -> None:
        with self._db.begin() as conn:
            conn.execute(text(_DELIVERED), {"event": delivery.event, "channel": delivery.channel})

    def postpone(self, delivery: Delivery, seconds: float, error: str) -> None:
        """Try again after `seconds`."""
        with self._db.begin() as conn:
            values = {"event": delivery.event, "channel": delivery.channel}
            conn.execute(text(_POSTPONE), {**values, "seconds": seconds, "error": error})


def rule_names(conn: Connection) -> list[str]:
    """The names of all rules that have been evaluated."""
    return list(conn.execute(text("SELECT rule FROM alert_states ORDER BY rule")).scalars())


def silence(conn: Connection, *, rule: str, by: str, reason: str | None, until: datetime) -> None:
    """Send no notification of a rule's alerts before `until`."""
    conn.execute(text(_SILENCE), {"rule": rule, "by": by, "reason": reason, "until": until})


def unsilence(conn: Connection, *, rule: str) -> bool:
    """End a silence; False if there was none."""
    deleted = conn.execute(text("DELETE FROM alert_silences WHERE rule = :rule"), {"rule": rule})
    return deleted.rowcount == 1


# SKIP LOCKED: do not wait for another evaluation.
_BEGIN = """
UPDATE alert_evaluation SET evaluated_at = now(), evaluator = :evaluator
WHERE single IN (SELECT single FROM alert_evaluation
    WHERE evaluated_at <= now() - make_interval(secs => :interval) FOR UPDATE SKIP LOCKED)
RETURNING now()
"""

_STATES = "SELECT rule, state, since, episode, clear_since, notified FROM alert_states"

_SILENCED = "SELECT rule FROM alert_silences WHERE until > now()"

_SAVE = """
INSERT INTO alert_states (rule, severity, condition, state, since, value, episode, clear_since,
    notified)
VALUES (:rule, :severity, :condition, :state, :since, :value, :episode, :clear_since, :notified)
ON CONFLICT (rule) DO UPDATE SET severity = EXCLUDED.severity, condition = EXCLUDED.condition,
    state = EXCLUDED.state, since = EXCLUDED.since, value = EXCLUDED.value,
    episode = EXCLUDED.episode, clear_since = EXCLUDED.clear_since,
    notified = EXCLUDED.notified, updated_at = now()
"""

_RECORD = """
INSERT INTO alert_events
    (at, rule, episode, state, severity, value, condition, detail, silenced)
VALUES (:at, :rule, :episode, :state, :severity, :value, :condition, :detail, :silenced)
"""

_ENQUEUE = """
INSERT INTO alert_deliveries (event, channel)
SELECT id, :channel FROM alert_events WHERE episode = :episode AND state = :state
ON CONFLICT DO NOTHING
"""

_ORPHANED = f"""
{_STATES} WHERE state <> '{AlertStatus.OK}' AND rule <> ALL(CAST(:rules AS text[]))
    AND updated_at < now() - interval '1 hour'
"""

_CLAIM = """
UPDATE alert_deliveries d
SET attempts = d.attempts + 1, next_attempt_at = now() + make_interval(secs => :lease)
FROM alert_events e
WHERE e.id = d.event AND (d.event, d.channel) IN (
    SELECT w.event, w.channel FROM alert_deliveries w JOIN alert_events we ON we.id = w.event
    WHERE w.delivered_at IS NULL AND w.next_attempt_at <= now()
        AND w.channel = ANY(CAST(:channels AS text[]))
        AND NOT EXISTS (
            SELECT 1 FROM alert_deliveries p JOIN alert_events pe ON pe.id = p.event
            WHERE p.channel = w.channel AND p.delivered_at IS NULL
                AND pe.rule = we.rule AND p.event < w.event)
    ORDER BY w.event LIMIT 1 FOR UPDATE OF w SKIP LOCKED)
RETURNING d.event, d.channel, d.attempts, e.event_id, e.episode, e.at, e.rule, e.severity, e.state,
    e.value, e.condition, e.detail
"""

_DELIVERED = """
UPDATE alert_deliveries SET delivered_at = now(), last_error = NULL
WHERE event = :event AND channel = :channel
"""

_POSTPONE = """
UPDATE alert_deliveries
SET next_attempt_at = now() + make_interval(secs => :seconds), last_error = :error
WHERE event = :event AND channel = :channel AND delivered_at IS NULL
"""

_SILENCE = """
INSERT INTO alert_silences (rule, silenced_by, reason, until) VALUES (:rule, :by, :reason, :until)
ON CONFLICT (rule) DO UPDATE SET silenced_by = EXCLUDED.silenced_by, reason = EXCLUDED.reason,
    until = EXCLUDED.until, at = now()
"""
