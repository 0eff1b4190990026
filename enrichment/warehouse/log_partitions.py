"""The logs' monthly partitions, without Alembic, which no running worker needs."""

from __future__ import annotations

from sqlalchemy import Connection, text


def ensure(conn: Connection, months_ahead: int = 2) -> None:
    """Create the logs' monthly partitions from the current month on, by the database's clock."""
    for log in ("enrichment_fetch_log", "enrichment_compute_log"):
        for month in conn.execute(text(_MISSING), {"log": log, "ahead": months_ahead}).all():
            conn.execute(
                text(
                    f"CREATE TABLE IF NOT EXISTS {month.partition} PARTITION OF {log}"
                    f" FOR VALUES FROM ('{month.first}') TO ('{month.next}')"
                )
            )


_MISSING = """
SELECT partition, first, first + interval '1 month' AS next
FROM generate_series(date_trunc('month', now()),
    date_trunc('month', now()) + make_interval(months => :ahead), interval '1 month') AS first,
LATERAL (SELECT CAST(:log AS text) || to_char(first, '_YYYY_MM')) AS name (partition)
WHERE to_regclass(partition) IS NULL
"""
