"""Retention: monthly partitions of the logs, and the removal of old rows.

Bars, corrections, quality and the audit log are kept for ever.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sqlalchemy import Connection, text

from enrichment.warehouse.database import Database

_LOGS = ("enrichment_fetch_log", "enrichment_compute_log")


def create_partitions(conn: Connection, months_ahead: int = 2) -> None:
    """Create the logs' monthly partitions, from the current month of the database's clock on."""
    for log in _LOGS:
        for month in conn.execute(text(_MISSING), {"log": log, "ahead": months_ahead}).all():
            conn.execute(
                text(
                    f"CREATE TABLE IF NOT EXISTS {month.partition} PARTITION OF {log}"
                    f" FOR VALUES FROM ('{month.first}') TO ('{month.next}')"
                )
            )


@dataclass(frozen=True, slots=True)
class Pruned:
    """How many were removed."""

    log_partitions: int
    jobs: int
    workers: int
    transitions: int


def prune(db: Database, *, log_months: int, job_days: int) -> Pruned:
    """Drop partitions of the logs and delete old rows.

    Args:
        db: To prune.
        log_months: Age of a partition in whole months.
        job_days: Age in days of finished jobs with their items, of workers and of the breakers'
            transitions.
    """
    with db.begin() as conn:
        partitions = _old_partitions(conn, log_months)
        for name in partitions:
            conn.execute(text(f'DROP TABLE "{name}"'))
        age = {"days": job_days}
        pruned = Pruned(
            log_partitions=len(partitions),
            jobs=conn.execute(text(_JOBS), age).rowcount,
            workers=conn.execute(text(_WORKERS), age).rowcount,
            transitions=conn.execute(text(_TRANSITIONS), age).rowcount,
        )
        conn.execute(text(_STATES))
    return pruned


def _old_partitions(conn: Connection, months: int) -> list[str]:
    """Names of the partitions whose month ended at least `months` whole months ago."""
    limit: str = conn.execute(
        text("SELECT to_char(now() - make_interval(months => :months), 'YYYY_MM')"),
        {"months": months},
    ).scalar_one()
    names = conn.execute(text(_PARTITIONS)).scalars()
    return [name for name in names if re.search(r"\d{4}_\d\d$", name) and name[-7:] < limit]


_MISSING = """
SELECT partition, first, first + interval '1 month' AS next
FROM generate_series(date_trunc('month', now()),
    date_trunc('month', now()) + make_interval(months => :ahead), interval '1 month') AS first,
LATERAL (SELECT CAST(:log AS text) || to_char(first, '_YYYY_MM')) AS name (partition)
WHERE to_regclass(partition) IS NULL
"""

_PARTITIONS = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent IN ('enrichment_fetch_log'::regclass, 'enrichment_compute_log'::regclass)
"""

_JOBS = """
DELETE FROM enrichment_jobs WHERE completed_at < now() - make_interval(days => :days)
"""

_WORKERS = "DELETE FROM workers WHERE heartbeat_at < now() - make_interval(days => :days)"

_TRANSITIONS = """
DELETE FROM resilience_transitions WHERE at < now() - make_interval(days => :days)
"""

_STATES = "DELETE FROM resilience_state WHERE updated_at < now() - interval '1 day'"
