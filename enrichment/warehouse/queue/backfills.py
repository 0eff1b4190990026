"""Backfills: the stretch of history that an item fetches, and how far it has come.

In the item's row: {"from", "to"} and, for every timeframe begun, where the part still to be fetched
ends. Pieces are stored newest first, so an interrupted backfill goes on from there.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from enrichment.domain.model import RowCounts, Task, Timeframe, Window
from enrichment.warehouse.database import sql
from enrichment.warehouse.queue.leases import OWNED, lease_lost, owner


def to_text(window: Window | None) -> str | None:
    """The item's row before anything is fetched."""
    if window is None:
        return None
    return json.dumps({"from": window.start.isoformat(), "to": window.end.isoformat()})


def parse(stored: dict[str, str] | None) -> dict[str, Any]:
    """A task's stretch of history and what is left of it, from the item's row."""
    if stored is None:
        return {}
    moments = {name: datetime.fromisoformat(value) for name, value in stored.items()}
    window = Window(moments.pop("from"), moments.pop("to"))
    left = tuple((Timeframe(name), moment) for name, moment in moments.items())
    return {"backfill": window, "remaining": left}


def record_progress(
    conn: Connection, task: Task, timeframe: Timeframe, left: datetime, written: RowCounts
) -> None:
    """Record how far a backfill has come, in the transaction that stores that much of it."""
    done = conn.execute(
        sql(_NOTE),
        {
            **owner(task),
            "timeframe": timeframe,
            "left": left.isoformat(),
            "inserted": written.inserted,
            "updated": written.updated,
        },
    )
    if done.rowcount != 1:
        raise lease_lost(task)


_NOTE = f"""
UPDATE enrichment_job_items
SET backfill = backfill || jsonb_build_object(CAST(:timeframe AS text), CAST(:left AS text)),
    inserted = inserted + :inserted, updated = updated + :updated
WHERE {OWNED}
"""
