"""A worker frozen for longer than its lease: another does its work, and what it comes back with is
refused.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from enrichment.domain.errors import DatabaseUnavailable
from enrichment.domain.model import Task
from enrichment.services.commands import Commands
from enrichment.warehouse.queue import leases
from enrichment.warehouse.queue.jobs import JobQueue
from tests.helpers.crash_harness import (
    HEARTBEAT,
    CrashHarness,
    SeriesKey,
    assert_exactly_once,
    until,
)

SYMBOLS = ("X:SIM1USD", "X:SIM2USD", "X:SIM3USD")


@pytest.mark.parametrize("step", ["claimed", "fetched", "written", "before_commit"])
def test_a_stale_commit_changes_nothing(
    stage: CrashHarness, undisturbed: SeriesKey, step: str
) -> None:
    job = stage.trigger(SYMBOLS, "1d")
    frozen = stage.start("frozen", threads=1, step=step, item=2, idle=0.6)
    frozen.stopped_at()
    frozen.freeze()
    rescuer = stage.start("rescuer")
    stage.until_closed(job)
    assert_exactly_once(
        stage, job, {k: v for k, v in undisturbed.items() if k[0] in SYMBOLS and k[1] == "1d"}
    )
    rescuer.end()
    before = stage.effects()

    frozen.go_on()
    frozen.thaw()
    until(lambda: "belongs to another worker" in frozen.said, lambda: frozen.said)
    assert stage.effects() == before
    again = Commands(stage.db).trigger(actor="test", symbols=SYMBOLS).job_id
    stage.until_closed(again)
    assert stage.rows(
        "SELECT DISTINCT status, starts_with(worker_id, 'frozen') FROM enrichment_job_items"
        " WHERE job_id = :job",
        job=again,
    ) == [("completed", True)]
    assert frozen.end() == 0


def test_an_item_that_is_being_stored_holds_up_nobody(stage: CrashHarness) -> None:
    """Its row is locked by its own transaction, for as long as that takes."""
    stage.trigger(SYMBOLS, "1d")
    queue = JobQueue(stage.db, lease_seconds=0.01)
    stored, lost, kept = sorted(queue.claim("slow", 3), key=lambda task: task.symbol)
    until(
        lambda: stage.rows("SELECT 1 FROM enrichment_job_items WHERE lease_until < now()"), "ends"
    )
    with stage.db.begin() as conn:
        leases.assert_owned(conn, stored)
        others = JobQueue(stage.db)
        assert others.renew({stored: "store", kept: "fetch 1d"}) == set()
        assert others.reclaim_expired(3) == 1
        assert _statuses(stage, stored, lost, kept) == ["in_progress", "retry", "in_progress"]
    assert queue.reclaim_expired(3) == 1
    assert _statuses(stage, stored, lost, kept) == ["retry", "retry", "in_progress"]


def test_the_server_ends_a_transaction_that_its_worker_forgot(stage: CrashHarness) -> None:
    """Or the locks of a machine that has frozen would outlive every lease."""
    stage.trigger(SYMBOLS[:1], "1d")
    frozen = stage.start("frozen", step="before_commit", idle=4 * HEARTBEAT)
    frozen.stopped_at()
    frozen.freeze()
    until(
        lambda: (
            not stage.rows(
                "SELECT 1 FROM pg_stat_activity"
                " WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
                " AND pid <> pg_backend_pid()"
            )
        ),
        "the server ends the transaction",
    )
    assert stage.rows("SELECT count(*) FROM bars") == [(0,)]


def test_a_copy_that_its_worker_forgot_gives_its_item_back(stage: CrashHarness) -> None:
    """No timeout of the server's reaches a COPY whose client says nothing more."""
    stage.trigger(SYMBOLS[:1], "1d")
    queue = JobQueue(stage.db, lease_seconds=0.01)
    (task,) = queue.claim("frozen", 1)
    asleep, awake = threading.Event(), threading.Event()

    class Frozen:
        def read(self, size: int) -> bytes:
            asleep.set()
            awake.wait()
            return b""

    def copy() -> None:
        with stage.db.begin() as conn:
            leases.assert_owned(conn, task)
            driver: Any = conn.connection.driver_connection
            with driver.cursor() as cursor:
                cursor.copy_expert("COPY bars FROM STDIN", Frozen())

    with ThreadPoolExecutor(1) as thread:
        copying = thread.submit(copy)
        assert asleep.wait(10.0)
        until(lambda: queue.reclaim_expired(3), "the item comes back")
        awake.set()
        with pytest.raises(DatabaseUnavailable):
            copying.result()
    assert _statuses(stage, task) == ["retry"]


def _statuses(stage: CrashHarness, *tasks: Task) -> list[str]:
    found = dict(stage.rows("SELECT symbol, status FROM enrichment_job_items"))
    return [found[task.symbol] for task in tasks]
