"""The logs' monthly partitions, without Alembic, which no running worker needs."""

from __future__ import annotations

from sqlalchemy import Connection, text


def ensure(conn: Connection, months_ahead: int = 2) -> None:
    """Create the logs' monthly partitions from the current month on, by the database's clock."""
    for table in ("enrichment_fetch_log", "enrichment_compute_log"):
        rows = conn.execute(
            text(
                "SELECT date_trunc('month', now()) + make_interval(months => n) AS lower,"
                " date_trunc('month', now()) + make_interval(months => n + 1) AS upper"
                " FROM generate_series(0, :ahead) AS n"
                " WHERE to_regclass(:prefix || to_char(date_trunc('month', now())"
                " + make_interval(months => n), 'YYYY_MM')) IS NULL"
            ),
            {"ahead": months_ahead, "prefix": f"{table}_"},
        ).all()
        for lower, upper in rows:
            conn.execute(
                text(
                    f"CREATE TABLE IF NOT EXISTS {table}_{lower:%Y_%m} PARTITION OF {table}"
                    f" FOR VALUES FROM ('{lower.isoformat()}') TO ('{upper.isoformat()}')"
                )
            )
