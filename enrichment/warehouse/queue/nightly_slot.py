"""The nightly slot: every worker may open its job, and the database admits one per date."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import text

from enrichment.domain.model import JobKind
from enrichment.domain.statuses import ItemPriority
from enrichment.warehouse import retention
from enrichment.warehouse.database import Database, database_now
from enrichment.warehouse.queue import job_control, jobs, pauses
from enrichment.warehouse.read_models import lifetime_totals
from enrichment.warehouse.series import rollups

CATCH_UP_WINDOW = timedelta(hours=20)
LATE = timedelta(minutes=5)


def due_slot(now: datetime, hour: int, minute: int) -> datetime:
    """The newest daily slot at or before `now` (timezone-aware, any zone), in UTC."""
    now = now.astimezone(UTC)
    today = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    return today if today <= now else today - timedelta(days=1)


class NightlySlotStore:
    """The scheduler's SQL. Every method is idempotent and uses the database's clock."""

    def __init__(self, db: Database, *, hour: int, minute: int, enabled: bool) -> None:
        """hour, minute: time of the slot, UTC. enabled: whether jobs are opened at all."""
        self._db = db
        self._hour, self._minute, self._enabled = hour, minute, enabled

    def open_due_job(self, now: datetime | None = None) -> UUID | None:
        """Open the job of the newest slot, unless it exists, is overdue, or everything is paused.

        Only symbols tracked before the slot count, so a new installation does not start with the
        past night's run. After several missed days one job is opened, not several.

        Args:
            now: Timezone-aware; None for the database's clock, on which all workers agree.

        Returns:
            The id of the new job; None if none was opened.
        """
        if not self._enabled:
            return None
        with self._db.begin() as conn:
            now = now or database_now(conn)
            slot = due_slot(now, self._hour, self._minute)
            if now - slot > CATCH_UP_WINDOW or pauses.paused_globally(conn):
                return None
            if not conn.execute(text(_TRACKED_BEFORE), {"slot": slot}).first():
                return None
            job_control.supersede_older(conn, slot)
            kind = JobKind.CATCHUP if now - slot > LATE else JobKind.SCHEDULED
            job_id = jobs.insert_job(conn, kind=kind, requested_by="scheduler", slot=slot)
            if job_id is not None:
                jobs.snapshot_items(
                    conn, job_id, symbols=None, asset_class=None, priority=ItemPriority.NIGHTLY
                )
            return job_id

    def next_slot(self) -> datetime | None:
        """When the next job is due; None if none is opened."""
        if not self._enabled:
            return None
        with self._db.begin() as conn:
            now = database_now(conn)
        return due_slot(now, self._hour, self._minute) + timedelta(days=1)

    def maintain(self) -> None:
        """Create the logs' next partitions, update the rollups and find vendors' outages."""
        with self._db.begin() as conn:
            retention.create_partitions(conn)
        with self._db.begin() as conn:
            rollups.roll_up(conn)
        with self._db.begin() as conn:
            lifetime_totals.advance(conn)
        with self._db.begin() as conn:
            rollups.explain_gaps_by_outages(conn)


_TRACKED_BEFORE = "SELECT 1 FROM tracked_symbols WHERE active AND created_at <= :slot LIMIT 1"
