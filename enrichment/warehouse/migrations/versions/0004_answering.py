"""Hourly rollups with the time of successful fetches, for quick metrics."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for kind in ("fetch", "compute"):
        op.execute(
            f"ALTER TABLE enrichment_{kind}_hourly"
            " ADD COLUMN successful_ms double precision NOT NULL DEFAULT 0"
        )
    op.execute(_FETCHES)
    op.execute(_COMPUTATIONS)


def downgrade() -> None:
    for kind in ("fetch", "compute"):
        op.execute(f"ALTER TABLE enrichment_{kind}_hourly DROP COLUMN successful_ms")


_FETCHES = """
UPDATE enrichment_fetch_hourly h SET successful_ms = l.ms
FROM (SELECT date_trunc('hour', at) AS hour, coalesce(source, 'none') AS source,
          sum(duration_ms) AS ms
      FROM enrichment_fetch_log WHERE success AND duration_ms IS NOT NULL GROUP BY 1, 2) l
WHERE (l.hour, l.source) = (h.hour, h.source)
"""

_COMPUTATIONS = """
UPDATE enrichment_compute_hourly h SET successful_ms = l.ms
FROM (SELECT date_trunc('hour', at) AS hour, sum(duration_ms) AS ms
      FROM enrichment_compute_log WHERE success AND duration_ms IS NOT NULL GROUP BY 1) l
WHERE l.hour = h.hour
"""
