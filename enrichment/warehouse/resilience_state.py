"""The Postgres side of the resilience patterns: status for others to see, commands, shared limits.

These implement the protocols that `resilience` declares. Each call is one short transaction; what
goes wrong surfaces as an exception, which the patterns turn into a visible flag.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import Connection, text

from enrichment.warehouse.database import Database
from resilience import BreakerAction, OperatorCommand, Reservation, Snapshot, StateChanged

_MICROSECONDS = 1_000_000
STALE_SECONDS = 15


class ResilienceStore:
    """Publishes one worker's patterns and hands it the operators' commands."""

    def __init__(self, db: Database, worker_id: str) -> None:
        self._db = db
        self._worker_id = worker_id
        self._seen = 0

    def publish(self, snapshots: Sequence[Snapshot], transitions: Sequence[StateChanged]) -> None:
        """Upsert the statuses, unless newer ones are there, and append the transitions, at once."""
        with self._db.begin() as conn:
            if snapshots:
                conn.execute(text(_UPSERT), [self._row(snapshot) for snapshot in snapshots])
            if transitions:
                conn.execute(text(_APPEND), [self._transition(event) for event in transitions])

    def pending(self) -> Sequence[OperatorCommand]:
        """Commands since the last call; at first, for every breaker the newest one."""
        with self._db.begin() as conn:
            rows = conn.execute(text(_COMMANDS), {"seen": self._seen}).all()
        if rows:
            self._seen = rows[-1].id
        return [OperatorCommand(row.name, BreakerAction(row.action)) for row in rows]

    def _row(self, snapshot: Snapshot) -> dict[str, object]:
        status = snapshot.status.as_dict()
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
            "reason": event.reason,
        }


class SharedLimits:
    """One limit for all workers: `resilience.SharedLimiter` on one atomic call in Postgres."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def reserve(
        self,
        name: str,
        n: int,
        rate: int,
        interval: float,
        burst: int,
        strict: bool,
        timeout: float | None,
    ) -> Reservation:
        """Reserve n permits, or nothing if the wait would exceed `timeout` seconds."""
        with self._db.begin() as conn:
            row = conn.execute(
                text(_RESERVE),
                {
                    "name": name,
                    "n": n,
                    "rate": rate,
                    "interval": round(interval * _MICROSECONDS),
                    "burst": burst,
                    "strict": strict,
                    "timeout": None if timeout is None else round(timeout * _MICROSECONDS),
                },
            ).one()
        return Reservation(row.granted, float(row.wait_us) / _MICROSECONDS)


def override(conn: Connection, *, name: str, action: str, actor: str, reason: str | None) -> None:
    """Leave a command for every worker's breaker of this name."""
    conn.execute(
        text(
            "INSERT INTO resilience_overrides (name, action, actor, reason)"
            " VALUES (:name, :action, :actor, :reason)"
        ),
        {"name": name, "action": action, "actor": actor, "reason": reason},
    )


def breaker_names(conn: Connection) -> list[str]:
    """The breakers that any worker has ever published."""
    return list(
        conn.execute(
            text(
                "SELECT DISTINCT name FROM resilience_state"
                " WHERE kind = 'circuit_breaker' ORDER BY name"
            )
        ).scalars()
    )


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
WHERE id > :seen AND (:seen > 0 OR id IN (SELECT max(id) FROM resilience_overrides GROUP BY name))
ORDER BY id
"""

_RESERVE = """
SELECT granted, wait_us FROM reserve_permits(:name, :n, :rate, CAST(:interval AS numeric), :burst,
    :strict, CAST(:timeout AS numeric))
"""
