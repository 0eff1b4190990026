"""Ownership of items: an item in progress belongs to one worker, by its lease and fence."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from enrichment.domain.errors import LeaseLost
from enrichment.domain.model import Task
from enrichment.domain.statuses import ItemStatus
from enrichment.warehouse.database import sql
from enrichment.warehouse.rows import JsonRows

OWNED = (
    "job_id = :job_id AND symbol = :symbol AND worker_id = :worker AND fence = :fence"
    f" AND status = '{ItemStatus.IN_PROGRESS}'"
)
OWNERS = JsonRows("owners", "job_id uuid, symbol text, worker text, fence bigint")
OWNED_BY = (
    "(i.job_id, i.symbol, i.worker_id, i.fence) = ({0}.job_id, {0}.symbol, {0}.worker, {0}.fence)"
)


def owner(task: Task) -> dict[str, object]:
    """The parameters of OWNED."""
    return {
        "job_id": task.job_id,
        "symbol": task.symbol,
        "worker": task.worker_id,
        "fence": task.fence,
    }


def lease_lost(task: Task) -> LeaseLost:
    """The error to raise when an item no longer belongs to the task's worker."""
    return LeaseLost(f"{task.symbol} belongs to another worker now; this result was discarded")


def assert_owned(conn: Connection, task: Task) -> None:
    """Lock the item for this transaction.

    Raises LeaseLost unless the task's worker and fence still match.
    """
    if task not in select_owned(conn, [task]):
        raise lease_lost(task)


def select_owned(conn: Connection, tasks: Sequence[Task]) -> set[Task]:
    """Lock the items for this transaction; returns those whose worker and fence still match."""
    by_key = {(task.job_id, task.symbol): task for task in tasks}
    rows = conn.execute(sql(_LOCK_OWNED), OWNERS.bind([owner(task) for task in tasks]))
    return {by_key[row.job_id, row.symbol] for row in rows}


_LOCK_OWNED = f"""
SELECT i.job_id, i.symbol
FROM {OWNERS.table} JOIN enrichment_job_items i ON {OWNED_BY.format("owners")}
WHERE i.status = '{ItemStatus.IN_PROGRESS}' ORDER BY i.job_id, i.symbol FOR UPDATE OF i
"""
