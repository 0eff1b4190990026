"""What operators decide: pauses, and the audit of every action."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, text

from enrichment.warehouse.database import Database

PAUSES_SECONDS = 2.0


def audit(
    conn: Connection,
    *,
    actor: str,
    action: str,
    target: str | None = None,
    reason: str | None = None,
    params: Mapping[str, Any] | None = None,
) -> None:
    """Append one row to the audit, in the transaction of the action itself."""
    conn.execute(
        text(
            "INSERT INTO operator_actions (actor, action, target, reason, params)"
            " VALUES (:actor, :action, :target, :reason, CAST(:params AS jsonb))"
        ),
        {
            "actor": actor,
            "action": action,
            "target": target,
            "reason": reason,
            "params": json.dumps(dict(params or {})),
        },
    )


def pause(
    conn: Connection, *, scope: str, key: str, by: str, reason: str | None, until: datetime | None
) -> None:
    """Keep the scope's items from being claimed until it is resumed, or until `until`."""
    conn.execute(
        text(
            "INSERT INTO pauses (scope, key, paused_by, reason, until)"
            " VALUES (:scope, :key, :by, :reason, :until)"
            " ON CONFLICT (scope, key) DO UPDATE SET paused_by = EXCLUDED.paused_by,"
            " reason = EXCLUDED.reason, until = EXCLUDED.until, at = now()"
        ),
        {"scope": scope, "key": key, "by": by, "reason": reason, "until": until},
    )


def resume(conn: Connection, *, scope: str, key: str) -> bool:
    """Lift a pause; False if there was none."""
    done = conn.execute(
        text("DELETE FROM pauses WHERE scope = :scope AND key = :key"), {"scope": scope, "key": key}
    )
    return bool(done.rowcount == 1)


class ProviderPauses:
    """The providers that are paused now, read at most every two seconds."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._names: frozenset[str] = frozenset()
        self._read_at: float | None = None

    def __call__(self) -> frozenset[str]:
        now = time.monotonic()
        if self._read_at is None or now - self._read_at > PAUSES_SECONDS:
            with self._db.begin() as conn:
                self._names = frozenset(conn.execute(text(_PAUSED_PROVIDERS)).scalars())
            self._read_at = now
        return self._names


_PAUSED_PROVIDERS = """
SELECT key FROM pauses WHERE scope = 'provider' AND (until IS NULL OR until > now())
"""


def now(conn: Connection) -> datetime:
    """The database's clock, timezone-aware UTC."""
    moment: datetime = conn.execute(text("SELECT now()")).scalar_one()
    return moment.astimezone(UTC)


def paused_globally(conn: Connection) -> bool:
    found = conn.execute(
        text(
            "SELECT 1 FROM pauses"
            " WHERE scope = 'global' AND (until IS NULL OR until > now()) LIMIT 1"
        )
    ).first()
    return found is not None


def job_with_key(conn: Connection, idempotency_key: str) -> tuple[UUID, int] | None:
    """The job that this key created, with its number of symbols."""
    row = conn.execute(
        text("SELECT job_id, total FROM enrichment_jobs WHERE idempotency_key = :key"),
        {"key": idempotency_key},
    ).first()
    return None if row is None else (row.job_id, row.total)
