"""Backfills: the window of history that an item fetches, and how much of it remains.

The column `backfill` of an item holds {"from", "to"} and, for every timeframe that has started, the
end of its remaining window. Chunks are stored newest first, so an interrupted backfill resumes
there.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from enrichment.domain.model import RowCounts, Task, Timeframe, Window
from enrichment.warehouse.database import sql
from enrichment.warehouse.queue.leases import OWNED, lease_lost, owner


def to_json(window: Window | None) -> str | None:
    """The column's value before anything is fetched."""
    if window is None:
        return None
    return json.dumps({"from": window.start.isoformat(), "to": window.end.isoformat()})


def parse(stored: dict[str, str] | None) -> dict[str, Any]:
    """The fields `backfill` and `remaining` of a task, from the column's value."""
    if stored is None:
        return {}
    moments = {name: datetime.fromisoformat(value) for name, value in stored.items()}
    window = Window(moments.pop("from"), moments.pop("to"))
    remaining = tuple((Timeframe(name), moment) for name, moment in moments.items())
    return {"backfill": window, "remaining": remaining}


def record_progress(
    conn: Connection, task: Task, timeframe: Timeframe, remaining_until: datetime, counts: RowCounts
) -> None:
    """Record the end of the remaining window, in the transaction that stores a chunk.

    Raises LeaseLost if the item no longer belongs to the task's worker.
    """
    updated = conn.execute(
        sql(_RECORD),
        {
            **owner(task),
            "timeframe": timeframe,
            "remaining_until": remaining_until.isoformat(),
            "inserted": counts.inserted,
            "updated": counts.updated,
        },
    )
    if updated.rowcount != 1:
        raise lease_lost(task)


_RECORD = f"""
UPDATE enrichment_job_items
SET backfill = backfill
        || jsonb_build_object(CAST(:timeframe AS text), CAST(:remaining_until AS text)),
    inserted = inserted + :inserted, updated = updated + :updated
WHERE {OWNED}
"""
