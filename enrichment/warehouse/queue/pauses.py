"""Pauses: what operators keep from being claimed or requested, for now or until a moment."""

from __future__ import annotations

import time
from datetime import datetime

from sqlalchemy import Connection, text

from enrichment.domain.statuses import PauseScope
from enrichment.warehouse.database import Database

POLL_SECONDS = 2.0


def pause(
    conn: Connection, *, scope: str, key: str, by: str, reason: str | None, until: datetime | None
) -> None:
    """Keep the scope's items from being claimed until it is resumed, or until `until`."""
    values = {"scope": scope, "key": key, "by": by, "reason": reason, "until": until}
    conn.execute(text(_PAUSE), values)


def resume(conn: Connection, *, scope: str, key: str) -> bool:
    """Lift a pause; False if there was none."""
    deleted = conn.execute(
        text("DELETE FROM pauses WHERE scope = :scope AND key = :key"), {"scope": scope, "key": key}
    )
    return deleted.rowcount == 1


def paused_globally(conn: Connection) -> bool:
    return bool(_keys_in_force(conn, PauseScope.GLOBAL))


class ProviderPauses:
    """The providers that are paused now, read at most every two seconds."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._names: frozenset[str] = frozenset()
        self._read_at: float | None = None

    def __call__(self) -> frozenset[str]:
        now = time.monotonic()
        if self._read_at is None or now - self._read_at > POLL_SECONDS:
            with self._db.begin() as conn:
                self._names = _keys_in_force(conn, PauseScope.PROVIDER)
            self._read_at = now
        return self._names


def _keys_in_force(conn: Connection, scope: PauseScope) -> frozenset[str]:
    return frozenset(conn.execute(text(_KEYS), {"scope": scope}).scalars())


IN_FORCE = "(until IS NULL OR until > now())"

_KEYS = f"SELECT key FROM pauses WHERE scope = :scope AND {IN_FORCE}"

_PAUSE = """
INSERT INTO pauses (scope, key, paused_by, reason, until)
VALUES (:scope, :key, :by, :reason, :until)
ON CONFLICT (scope, key) DO UPDATE SET paused_by = EXCLUDED.paused_by, reason = EXCLUDED.reason,
    until = EXCLUDED.until, at = now()
"""
