"""Resilience patterns in Postgres: published status, operators' commands, shared rate limits.

These classes implement protocols of `resilience`. Each call is one short transaction; the patterns
catch its exceptions and show them in their status.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import Connection, text

from enrichment.domain.redact import redact
from enrichment.warehouse.database import Database
from resilience import (
    BreakerAction,
    Limit,
    OperatorCommand,
    Priority,
    RateLimiter,
    Reservation,
    Snapshot,
    StateChanged,
)

_MICROSECONDS = 1_000_000
STALE_SECONDS = 15


class ResilienceStore:
    """Publishes the patterns of one worker and reads the operators' commands for it."""

    def __init__(self, db: Database, worker_id: str) -> None:
        self._db = db
        self._worker_id = worker_id
        self._last_id = 0  # of the commands

    def publish(self, snapshots: Sequence[Snapshot], transitions: Sequence[StateChanged]) -> None:
        """Upsert the statuses that are newer than the stored ones, and append the transitions."""
        with self._db.begin() as conn:
            if snapshots:
                conn.execute(text(_UPSERT), [self._row(snapshot) for snapshot in snapshots])
            if transitions:
                conn.execute(text(_APPEND), [self._transition(event) for event in transitions])

    def pending(self) -> Sequence[OperatorCommand]:
        """Commands since the last call; at the first call, the newest one of every breaker."""
        with self._db.begin() as conn:
            rows = conn.execute(text(_COMMANDS), {"last_id": self._last_id}).all()
        if rows:
            self._last_id = rows[-1].id
        return [_command(row.name, row.action) for row in rows]

    def _row(self, snapshot: Snapshot) -> dict[str, object]:
        values = snapshot.status.as_dict().items()
        status = {name: redact(v) if isinstance(v, str) else v for name, v in values}
        return {
            "worker_id": self._worker_id,
            "kind": snapshot.status.kind,
            "name": snapshot.status.name,
            "state": status.get("state"),
            "status": json.dumps(status),
            "seq": snapshot.sequence,
        }

    def _transition(self, event: StateChanged) -> dict[str, object]:
        return {
            "at": event.at,
            "worker_id": self._worker_id,
            "name": event.name,
            "from_state": event.old,
            "to_state": event.new,
            "reason": None if event.reason is None else redact(event.reason),
        }


class SharedLimits:
    """Rate limits shared by all workers, as `resilience.SharedLimiter`: SQL functions."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def reserve(
        self, name: str, limit: Limit, n: int, priority: Priority, timeout: float | None
    ) -> Reservation:
        """Reserve n permits, or none if the wait would exceed `timeout` seconds."""
        values = {
            "name": name,
            "n": n,
            "rate": limit.rate,
            "interval": round(limit.interval * _MICROSECONDS),
            "burst": limit.burst,
            "normal_burst": limit.normal_burst,
            "strict": limit.strict,
            "high": priority is Priority.HIGH,
            "timeout": None if timeout is None else round(timeout * _MICROSECONDS),
        }
        with self._db.begin() as conn:
            row = conn.execute(text(_RESERVE), values).one()
        return Reservation(row.granted, float(row.wait_us) / _MICROSECONDS, row.new_ticket)

    def confirm(self, name: str, ticket: int) -> Reservation:
        """Take the permits of a ticket; the wait is above 0 if they were delayed meanwhile."""
        with self._db.begin() as conn:
            row = conn.execute(text(_CONFIRM), {"name": name, "ticket": ticket}).one()
        return Reservation(row.granted, float(row.wait_us or 0) / _MICROSECONDS, ticket)


_LIMITER = "rate_limiter:"  # before the name of a limiter in resilience_overrides


def _command(name: str, action: str) -> OperatorCommand:
    if name.startswith(_LIMITER):
        limiter = name.removeprefix(_LIMITER)
        return OperatorCommand(limiter, BreakerAction(action), RateLimiter.kind)
    return OperatorCommand(name, BreakerAction(action))


def resume_limiter(conn: Connection, *, name: str, actor: str, reason: str | None) -> None:
    """Command the rate limiters of this name, in every worker, to end their pause."""
    target = f"{_LIMITER}{name}"
    override(conn, name=target, action=BreakerAction.RESET, actor=actor, reason=reason)


def limiter_names(conn: Connection) -> list[str]:
    """The names of all rate limiters that a worker has published."""
    return list(conn.execute(text(_LIMITERS)).scalars())


def override(conn: Connection, *, name: str, action: str, actor: str, reason: str | None) -> None:
    """Command the breakers of this name, in every worker."""
    values = {"name": name, "action": action, "actor": actor, "reason": reason}
    conn.execute(text(_OVERRIDE), values)


def breaker_names(conn: Connection) -> list[str]:
    """The names of all breakers that a worker has published."""
    return list(conn.execute(text(_BREAKERS)).scalars())


_UPSERT = """
INSERT INTO resilience_state AS s (worker_id, kind, name, state, status, seq)
VALUES (:worker_id, :kind, :name, :state, CAST(:status AS jsonb), :seq)
ON CONFLICT (worker_id, kind, name) DO UPDATE SET state = EXCLUDED.state,
    status = EXCLUDED.status, seq = EXCLUDED.seq, updated_at = now()
WHERE s.seq < EXCLUDED.seq
"""

_APPEND = """
INSERT INTO resilience_transitions (at, worker_id, kind, name, from_state, to_state, reason)
VALUES (:at, :worker_id, 'circuit_breaker', :name, :from_state, :to_state, :reason)
"""

_COMMANDS = """
SELECT id, name, action FROM resilience_overrides
WHERE id > :last_id
    AND (:last_id > 0 OR id IN (SELECT max(id) FROM resilience_overrides GROUP BY name))
ORDER BY id
"""

_OVERRIDE = """
INSERT INTO resilience_overrides (name, action, actor, reason)
VALUES (:name, :action, :actor, :reason)
"""

_BREAKERS = """
SELECT DISTINCT name FROM resilience_state WHERE kind = 'circuit_breaker' ORDER BY name
"""

_LIMITERS = """
SELECT DISTINCT name FROM resilience_state WHERE kind = 'rate_limiter' ORDER BY name
"""

_RESERVE = """
SELECT granted, wait_us, new_ticket FROM reserve_permits(:name, :n, :rate,
    CAST(:interval AS numeric), :burst, :normal_burst, :strict, :high, CAST(:timeout AS numeric))
"""

_CONFIRM = "SELECT granted, wait_us FROM confirm_permits(:name, :ticket)"
