"""Who owns an item: one worker, by lease and fence, while the item is in progress."""

from __future__ import annotations

from sqlalchemy import Connection, text

from enrichment.domain import Task
from enrichment.errors import LeaseLost

OWNED = (
    "job_id = :job_id AND symbol = :symbol AND worker_id = :worker AND fence = :fence"
    " AND status = 'in_progress'"
)


def owner(task: Task) -> dict[str, object]:
    """The values that OWNED compares."""
    return {
        "job_id": task.job_id,
        "symbol": task.symbol,
        "worker": task.worker_id,
        "fence": task.fence,
    }


def lost(task: Task) -> LeaseLost:
    return LeaseLost(f"{task.symbol} belongs to another worker now; this result was discarded")


def assert_owned(conn: Connection, task: Task) -> None:
    """Lock the item for this transaction; LeaseLost unless worker and fence still match."""
    found = conn.execute(
        text(f"SELECT 1 FROM enrichment_job_items WHERE {OWNED} FOR UPDATE"), owner(task)
    ).first()
    if found is None:
        raise lost(task)
