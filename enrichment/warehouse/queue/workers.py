"""The registry of workers: their heartbeats, state and load."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Connection, text

from enrichment.domain.statuses import WorkerState
from enrichment.warehouse.database import Database

ALIVE_SECONDS = 30
TICK_ALIVE_SECONDS = 90


class WorkerRegistry:
    """One worker's row in `workers`."""

    def __init__(self, db: Database, worker_id: str) -> None:
        self._db = db
        self.worker_id = worker_id

    def register(self, *, host: str, pid: int, version: str, threads: int) -> None:
        with self._db.begin() as conn:
            conn.execute(
                text(
                    "INSERT INTO workers (worker_id, host, pid, version, threads)"
                    " VALUES (:id, :host, :pid, :version, :threads)"
                ),
                {
                    "id": self.worker_id,
                    "host": host,
                    "pid": pid,
                    "version": version,
                    "threads": threads,
                },
            )

    def beat(self, *, busy: int, state: str, note: str | None = None) -> None:
        """Write a heartbeat: busy threads, state, and as `note` what the worker waits for."""
        with self._db.begin() as conn:
            conn.execute(
                text(
                    "UPDATE workers SET heartbeat_at = now(), busy = :busy, state = :state,"
                    " note = :note WHERE worker_id = :id"
                ),
                {"id": self.worker_id, "busy": busy, "state": state, "note": note},
            )

    def ticked(self, next_run_at: datetime | None) -> None:
        """Record a tick of this worker's scheduler, and when its next run is due, if any."""
        with self._db.begin() as conn:
            conn.execute(
                text(
                    "UPDATE workers SET ticked_at = now(), next_run_at = :next"
                    " WHERE worker_id = :id"
                ),
                {"id": self.worker_id, "next": next_run_at},
            )


def scheduler_running(conn: Connection) -> bool:
    """Whether the scheduler of a running or waiting worker has ticked within the last 90 s."""
    return running_scheduler(conn)[0]


def running_scheduler(conn: Connection) -> tuple[bool, datetime | None]:
    """`scheduler_running`, and when the next run of these workers was due as of their last tick."""
    row = conn.execute(text(_RUNNING), {"alive": TICK_ALIVE_SECONDS}).one()
    return row.running, row.next_run_at


IS_ALIVE = (
    f"(state <> '{WorkerState.STOPPED}'"
    f" AND heartbeat_at > now() - make_interval(secs => {ALIVE_SECONDS}))"
)

_RUNNING = f"""
SELECT count(*) > 0 AS running, min(next_run_at) AS next_run_at
FROM workers WHERE state IN ('{WorkerState.RUNNING}', '{WorkerState.WAITING}')
    AND ticked_at > now() - make_interval(secs => :alive)
"""
