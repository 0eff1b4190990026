"""A worker frozen for longer than its lease: another one takes over, and its late commit fails."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from enrichment.domain.errors import DatabaseUnavailable
from enrichment.domain.model import Task
from enrichment.services.commands import Commands
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from tests.helpers.crash_harness import (
    HEARTBEAT,
    CrashHarness,
    SeriesFingerprints,
    assert_exactly_once,
    until,
)

SYMBOLS = ("X:SIM1USD", "X:SIM2USD", "X:SIM3USD")


@pytest.mark.parametrize("step", ["claimed", "fetched", "written", "before_commit"])
def test_a_stale_commit_changes_nothing(
    harness: CrashHarness, undisturbed: SeriesFingerprints, step: str
) -> None:
    job = harness.trigger(SYMBOLS, "1d")
    frozen = harness.start("frozen", threads=1, step=step, item=2, idle=0.6)
    frozen.wait_until_stopped()
    frozen.freeze()
    replacement = harness.start("replacement")
    harness.until_closed(job)
    assert_exactly_once(
        harness, job, {k: v for k, v in undisturbed.items() if k[0] in SYMBOLS and k[1] == "1d"}
    )
    replacement.terminate()
    before = harness.stored_state()

    frozen.resume()
    frozen.thaw()
    until(lambda: "belongs to another worker" in frozen.log_text, lambda: frozen.log_text)
    assert harness.stored_state() == before
    again = Commands(harness.db).trigger(actor="test", symbols=SYMBOLS).job_id
    harness.until_closed(again)
    assert harness.rows(
        "SELECT DISTINCT status, starts_with(worker_id, 'frozen') FROM enrichment_job_items"
        " WHERE job_id = :job",
        job=again,
    ) == [("completed", True)]
    assert frozen.terminate() == 0


def test_an_item_that_is_being_stored_holds_up_nobody(harness: CrashHarness) -> None:
    """The transaction that stores an item locks the item's row; heartbeats skip it."""
    harness.trigger(SYMBOLS, "1d")
    queue = JobQueue(harness.db, lease_seconds=0.01)
    stored, lost, kept = sorted(queue.claim("slow", 3), key=lambda task: task.symbol)
    until(
        lambda: harness.rows("SELECT 1 FROM enrichment_job_items WHERE lease_until < now()"), "ends"
    )
    with harness.db.begin() as conn:
        jobs.assert_owned(conn, stored)
        others = JobQueue(harness.db)
        assert others.renew({stored: "store", kept: "fetch 1d"}) == set()
        assert others.reclaim_expired(3) == 1
        assert _statuses(harness, stored, lost, kept) == ["in_progress", "retry", "in_progress"]
    assert queue.reclaim_expired(3) == 1
    assert _statuses(harness, stored, lost, kept) == ["retry", "retry", "in_progress"]


def test_the_server_ends_a_transaction_that_its_worker_forgot(harness: CrashHarness) -> None:
    """Otherwise a frozen machine would hold its locks beyond its leases."""
    harness.trigger(SYMBOLS[:1], "1d")
    frozen = harness.start("frozen", step="before_commit", idle=4 * HEARTBEAT)
    frozen.wait_until_stopped()
    frozen.freeze()
    until(
        lambda: (
            not harness.rows(
                "SELECT 1 FROM pg_stat_activity"
                " WHERE datname = current_database() AND state LIKE 'idle in transaction%'"
                " AND pid <> pg_backend_pid()"
            )
        ),
        "the server ends the transaction",
    )
    assert harness.rows("SELECT count(*) FROM bars") == [(0,)]


def test_a_copy_that_its_worker_forgot_gives_its_item_back(harness: CrashHarness) -> None:
    """No server timeout ends a COPY whose client has stopped sending."""
    harness.trigger(SYMBOLS[:1], "1d")
    queue = JobQueue(harness.db, lease_seconds=0.01)
    (task,) = queue.claim("frozen", 1)
    asleep, awake = threading.Event(), threading.Event()

    class Frozen:
        def read(self, size: int) -> bytes:
            asleep.set()
            awake.wait()
            return b""

    def copy() -> None:
        with harness.db.begin() as conn:
            jobs.assert_owned(conn, task)
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
    assert _statuses(harness, task) == ["retry"]


def _statuses(harness: CrashHarness, *tasks: Task) -> list[str]:
    found = dict(harness.rows("SELECT symbol, status FROM enrichment_job_items"))
    return [found[task.symbol] for task in tasks]
