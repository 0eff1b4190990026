"""Slots of the schedules: every worker may open their jobs, the database admits one per slot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Connection

from enrichment.domain.model import AssetClass, JobKind
from enrichment.domain.schedules import Schedule, Slot, nightly
from enrichment.domain.statuses import ItemPriority
from enrichment.warehouse import retention
from enrichment.warehouse.database import Database, database_now, sql
from enrichment.warehouse.queue import job_control, jobs, pauses
from enrichment.warehouse.read_models import lifetime_totals
from enrichment.warehouse.series import rollups

LATE = timedelta(minutes=5)


class NightlySlotStore:
    """The scheduler's SQL. Every method is idempotent and uses the database's clock."""

    def __init__(
        self, db: Database, schedules: Sequence[Schedule] = (nightly(),), *, enabled: bool = True
    ) -> None:
        """enabled: whether jobs are opened at all."""
        self._db = db
        self._schedules, self._enabled = schedules, enabled

    def open_due_jobs(self, now: datetime | None = None) -> dict[str, UUID]:
        """Open the job of each schedule's newest slot, unless it exists, is too late, or is paused.

        Only slots since the schedule is known and symbols tracked before the slot count, so a new
        installation or schedule does not start with the past night's run. After several missed
        slots one job is opened, not several.

        Args:
            now: Timezone-aware; None for the database's clock, on which all workers agree.

        Returns:
            Schedule → id of its new job.
        """
        opened: dict[str, UUID] = {}
        for schedule in self._schedules if self._enabled else ():
            with self._db.begin() as conn:
                job_id = _open_due_job(conn, schedule, now or database_now(conn))
            if job_id is not None:
                opened[schedule.name] = job_id
        return opened

    def next_run_time(self) -> datetime | None:
        """When the next job is due; None if none is opened."""
        if not self._enabled:
            return None
        with self._db.begin() as conn:
            now = database_now(conn)
        return min(schedule.next_slot(now).at for schedule in self._schedules)

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


def _open_due_job(conn: Connection, schedule: Schedule, now: datetime) -> UUID | None:
    slot = schedule.last_slot(now)
    values = {"name": schedule.name, "date": slot.date, "at": slot.at}
    conn.execute(sql(_KNOWN_SINCE), {**values, "now": now})
    if not schedule.may_catch_up(slot, now) or pauses.paused_globally(conn):
        return None
    if not conn.execute(sql(_IS_FREE), values).scalar_one():
        return None
    symbols = _symbols(conn, schedule, slot)
    if not symbols:
        return None
    job_control.supersede_older(conn, slot)
    kind = JobKind.CATCHUP if now - slot.at > LATE else JobKind.SCHEDULED
    job_id = jobs.insert_job(conn, kind=kind, requested_by="scheduler", slot=slot)
    if job_id is not None:
        jobs.snapshot_items(
            conn, job_id, symbols=symbols, asset_class=None, priority=ItemPriority.NIGHTLY
        )
    return job_id


def _symbols(conn: Connection, schedule: Schedule, slot: Slot) -> list[str]:
    """The schedule's symbols; none if all of them are newer than the slot."""
    values = {"asset_classes": list(schedule.asset_classes), "slot": slot.at}
    rows = [
        row
        for row in conn.execute(sql(_TRACKED), values)
        if schedule.covers(AssetClass(row.asset_class), row.symbol)
    ]
    return [row.symbol for row in rows] if any(row.before_slot for row in rows) else []


_KNOWN_SINCE = """
INSERT INTO schedules (name, since) VALUES (:name, :now) ON CONFLICT DO NOTHING
"""

# Every tick asks this; only one in a day goes on.
_IS_FREE = """
SELECT since <= :at AND NOT EXISTS (SELECT 1 FROM enrichment_jobs
    WHERE schedule = :name AND slot_date = :date) FROM schedules WHERE name = :name
"""

_TRACKED = """
SELECT symbol, asset_class, created_at <= :slot AS before_slot FROM tracked_symbols
WHERE active AND asset_class = ANY(:asset_classes) ORDER BY symbol
"""
