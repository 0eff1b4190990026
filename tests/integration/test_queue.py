"""The queue on real Postgres: who gets an item, who may finish it, what a job's end says."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from uuid import UUID

import pytest
from sqlalchemy import text

from enrichment.domain.errors import InvalidRequest, LeaseLost, NotTracked
from enrichment.domain.model import Failure, RowCounts, Task
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.read_models.facade import ReadModels

BROKEN = Failure("ProviderUnavailable", "the vendor answered 500", "fetch")


def track(db: Database, *names: str, asset_class: str = "stock") -> Commands:
    commands = Commands(db)
    commands.track([parse_tracked(n, asset_class, "1d") for n in names], actor="test")
    return commands


def finish(db: Database, task: Task, written: RowCounts | None = None) -> None:
    with db.begin() as conn:
        jobs.assert_owned(conn, task)
        jobs.complete(conn, {task: written or RowCounts()})


def item(db: Database, symbol: str) -> tuple[str, int]:
    with db.begin() as conn:
        row = conn.execute(
            text(
                "SELECT status, retry_count FROM enrichment_job_items WHERE symbol = :s"
                " ORDER BY created_at DESC LIMIT 1"
            ),
            {"s": symbol},
        ).one()
    return row.status, row.retry_count


def make_due(db: Database) -> None:
    """Let the delays of waiting items pass."""
    with db.begin() as conn:
        conn.execute(text("UPDATE enrichment_job_items SET run_after = now() - interval '1 s'"))


def expire_leases(db: Database) -> None:
    with db.begin() as conn:
        conn.execute(
            text(
                "UPDATE enrichment_job_items SET lease_until = now() - interval '1 s'"
                " WHERE status = 'in_progress'"
            )
        )


def reader(db: Database) -> ReadModels:
    return ReadModels(db)


def test_claim_gives_no_more_than_asked_and_each_item_once(db: Database) -> None:
    track(db, "A", "B", "C", "D", "E").trigger(actor="test")
    queue = JobQueue(db)
    first, second = queue.claim("w1", 3), queue.claim("w2", 10)
    assert [len(first), len(second)] == [3, 2]
    assert sorted(t.symbol for t in first + second) == ["A", "B", "C", "D", "E"]
    assert queue.claim("w3", 10) == []


def test_racing_workers_never_share_an_item(db: Database) -> None:
    names = [f"S{n}" for n in range(60)]
    track(db, *names).trigger(actor="test")
    claimed: list[str] = []
    lock, start = threading.Lock(), threading.Barrier(4)

    def work(worker: str) -> None:
        queue = JobQueue(db)
        start.wait()
        while tasks := queue.claim(worker, 3):
            with lock:
                claimed.extend(task.symbol for task in tasks)

    threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(names)


def test_one_symbol_of_two_jobs_is_at_work_once_at_a_time(db: Database) -> None:
    commands = track(db, "AAPL")
    commands.trigger(actor="test")
    commands.trigger(actor="test")
    queue = JobQueue(db)
    (first,) = queue.claim("w1", 5)
    assert queue.claim("w2", 5) == []
    finish(db, first)
    (second,) = queue.claim("w2", 5)
    assert first.job_id != second.job_id


def test_manual_triggers_go_before_the_nights_items(db: Database) -> None:
    commands = track(db, "AAPL", "MSFT")
    with db.begin() as conn:
        night = jobs.insert_job(conn, kind="backfill", requested_by="test")
        assert night is not None
        jobs.snapshot_items(conn, night, symbols=None, asset_class=None, priority=10)
    manual = commands.trigger(actor="test", symbols=["MSFT"])
    (task,) = JobQueue(db).claim("w", 1)
    assert (task.job_id, task.symbol) == (manual.job_id, "MSFT")


def test_a_stale_worker_writes_nothing(db: Database) -> None:
    track(db, "AAPL").trigger(actor="test")
    queue = JobQueue(db)
    (stale,) = queue.claim("w1", 1)
    expire_leases(db)
    assert queue.reclaim_expired(max_retries=3) == 1
    (fresh,) = queue.claim("w2", 1)
    assert fresh.fence == stale.fence + 1
    with pytest.raises(LeaseLost):
        finish(db, stale)
    with pytest.raises(LeaseLost):
        queue.fail(stale, BROKEN, 2.0)
    finish(db, fresh)
    assert item(db, "AAPL") == ("completed", 1)


def test_reaping_fails_an_item_at_the_limit(db: Database) -> None:
    track(db, "AAPL").trigger(actor="test")
    queue = JobQueue(db)
    for lost in range(3):
        assert queue.claim(f"w{lost}", 1)
        expire_leases(db)
        queue.reclaim_expired(max_retries=2)
    assert item(db, "AAPL") == ("failed", 2)


def test_failure_waits_before_the_next_attempt(db: Database) -> None:
    track(db, "AAPL").trigger(actor="test")
    queue = JobQueue(db)
    (task,) = queue.claim("w", 1)
    queue.fail(task, BROKEN, 2.0)
    assert item(db, "AAPL") == ("retry", 1)
    assert queue.claim("w", 1) == []
    make_due(db)
    (again,) = queue.claim("w", 1)
    assert again.retry_count == 1


def test_giving_back_counts_no_retry(db: Database) -> None:
    track(db, "AAPL").trigger(actor="test")
    queue = JobQueue(db)
    (task,) = queue.claim("w", 1)
    queue.release(task)
    assert item(db, "AAPL") == ("pending", 0)
    assert [t.symbol for t in queue.claim("w", 1)] == ["AAPL"]


def test_paused_scopes_are_not_claimed(db: Database) -> None:
    commands = track(db, "AAPL", "MSFT")
    track(db, "X:BTCUSD", asset_class="crypto")
    commands.trigger(actor="test")
    queue = JobQueue(db)
    commands.pause(actor="test")
    assert queue.claim("w", 5) == []
    commands.resume(actor="test")
    commands.pause(actor="test", scope="asset_class", key="stock")
    assert [t.symbol for t in queue.claim("w", 5)] == ["X:BTCUSD"]
    commands.resume(actor="test", scope="asset_class", key="stock")
    commands.pause(actor="test", scope="symbol", key="AAPL")
    assert [t.symbol for t in queue.claim("w", 5)] == ["MSFT"]


def test_a_job_closes_when_its_last_item_is_final(db: Database) -> None:
    job = track(db, "AAPL", "MSFT").trigger(actor="test")
    queue = JobQueue(db)
    good, bad = queue.claim("w", 2)
    finish(db, good, RowCounts(inserted=250, updated=3))
    assert queue.close_finished_jobs() == []
    queue.fail(bad, BROKEN, None)
    assert queue.close_finished_jobs() == [job.job_id]
    page = reader(db).history(10)
    (historic,), (details,) = page.jobs, page.details
    assert (historic.successful, historic.failed, historic.retried) == (1, 1, 0)
    assert (historic.total_records_inserted, historic.total_records_updated) == (250, 3)
    assert details.state == "partial"
    assert [f.symbol for f in reader(db).failed_items(job.job_id)] == [bad.symbol]


def test_the_history_can_be_of_some_kinds_or_of_jobs_with_failures(db: Database) -> None:
    commands = track(db, "AAPL", "MSFT")
    manual = commands.trigger(actor="test").job_id
    queue = JobQueue(db)
    good, bad = queue.claim("w", 2)
    finish(db, good, RowCounts(inserted=1))
    history = reader(db).history
    assert history(10, with_failures=True).jobs == []
    queue.fail(bad, BROKEN, None)
    failing = [j.job_id for j in history(10, with_failures=True).jobs]
    assert failing == [manual]  # although the job has not been closed yet
    queue.close_finished_jobs()
    since = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
    backfill = commands.backfill(["AAPL"], *since, actor="test").job_id
    assert [j.job_id for j in history(10).jobs] == [backfill, manual]
    assert [j.job_id for j in history(10, kinds=("backfill",)).jobs] == [backfill]
    assert [j.job_id for j in history(10, kinds=("manual", "backfill")).jobs] == [backfill, manual]
    assert history(10, kinds=("scheduled",)).jobs == []
    assert [j.job_id for j in history(10, kinds=("backfill",), with_failures=True).jobs] == []
    page = history(1, kinds=("manual", "backfill"))
    assert page.next is not None
    assert [j.job_id for j in history(1, page.next, kinds=("manual", "backfill")).jobs] == [manual]


def test_idempotency_key_gives_one_job_and_one_audit_row(db: Database) -> None:
    commands = track(db, "AAPL")
    found: list[UUID] = []
    start = threading.Barrier(12)

    def ask() -> None:
        start.wait()
        found.append(commands.trigger(actor="test", idempotency_key="k").job_id)

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert len(set(found)) == 1
    with db.begin() as conn:
        audited = conn.execute(
            text("SELECT count(*) FROM operator_actions WHERE action = 'trigger'")
        ).scalar()
    assert audited == 1


def test_audit_can_only_grow(db: Database) -> None:
    track(db, "AAPL")
    with pytest.raises(Exception, match="append-only"), db.begin() as conn:
        conn.execute(text("DELETE FROM operator_actions"))


def test_triggering_nothing_or_the_unknown_says_how_to_mend(db: Database) -> None:
    commands = Commands(db)
    with pytest.raises(InvalidRequest, match="symbols add"):
        commands.trigger(actor="test")
    with pytest.raises(NotTracked, match=r"NOPE is not tracked.*symbols add NOPE"):
        commands.trigger(actor="test", symbols=["NOPE"])
    with pytest.raises(InvalidRequest, match="malformed symbol"):
        commands.trigger(actor="test", symbols=["'; DROP TABLE bars"])
    with pytest.raises(InvalidRequest, match="stock, etf, crypto"):
        commands.trigger(actor="test", asset_class="bond")
