"""Random sequences of item state changes on real Postgres, compared with a model of the states.

More examples: pytest tests/integration/test_item_states.py --hypothesis-profile=thorough
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from enrichment.domain.errors import InvalidRequest, LeaseLost
from enrichment.domain.model import Failure, RowCounts, Task
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.read_models.facade import ReadModels

CLASSES = {"A": "stock", "B": "stock", "X:C": "crypto"}
SCOPES = [("global", ""), ("asset_class", "stock"), ("symbol", "X:C")]
MAX_RETRIES, MAX_JOBS = 2, 3
WAITING, FINAL = {"pending", "retry"}, {"completed", "failed", "cancelled"}
LEGAL = {
    "pending": {"in_progress", "cancelled"},
    "retry": {"in_progress", "cancelled"},
    "in_progress": {"completed", "failed", "cancelled", "retry", "pending"},
    "failed": {"pending"},  # an operator resumes it
    "completed": set(),
    "cancelled": set(),
}

Key = tuple[UUID, str]


@dataclass
class Item:
    """The model of an item. due: whether its delay has passed."""

    status: str = "pending"
    retries: int = 0
    fence: int = 0
    due: bool = True

    def wait(self, *, due: bool) -> None:
        self.status, self.due = ("retry" if self.retries else "pending"), due


@dataclass
class Job:
    open: bool = True
    cancelled: bool = False


class Items(RuleBasedStateMachine):
    """Two workers, three symbols, up to three jobs; outcomes of old claims may arrive late."""

    def __init__(self, db: Database) -> None:
        super().__init__()
        self.db = db
        self.commands, self.queue = Commands(db), JobQueue(db)
        self.reader = ReadModels(db)
        with db.begin() as conn:
            conn.execute(text("TRUNCATE enrichment_jobs, pauses CASCADE"))
        self.items: dict[Key, Item] = {}
        self.jobs: dict[UUID, Job] = {}
        self.tasks: list[Task] = []
        self.paused: set[tuple[str, str]] = set()
        self.before: dict[Key, str] = {}

    # Commands.

    @initialize()
    def start_with_a_job(self) -> None:
        self.trigger()
        self.claim("w1", 2)

    @precondition(lambda self: len(self.jobs) < MAX_JOBS)
    @rule()
    def trigger(self) -> None:
        job_id = self.commands.trigger(actor="test").job_id
        self.jobs[job_id] = Job()
        self.items |= {(job_id, symbol): Item() for symbol in CLASSES}

    @rule(scope=st.sampled_from(SCOPES))
    def pause(self, scope: tuple[str, str]) -> None:
        self.commands.pause(actor="test", scope=scope[0], key=scope[1])
        self.paused.add(scope)

    @precondition(lambda self: self.paused)
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        scope = data.draw(st.sampled_from(sorted(self.paused)))
        self.commands.resume(actor="test", scope=scope[0], key=scope[1])
        self.paused.remove(scope)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(list(self.jobs)))
        if not self.jobs[job_id].open:
            with pytest.raises(InvalidRequest, match="nothing to cancel"):
                self.commands.cancel(job_id, actor="test")
            return
        self.commands.cancel(job_id, actor="test")
        self.jobs[job_id].cancelled = True
        self.end_waiting_items_of_cancelled_jobs(only=job_id)
        self.close_in_model()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def resume_failed(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(list(self.jobs)))
        failed = [i for (j, _), i in self.items.items() if j == job_id and i.status == "failed"]
        if self.jobs[job_id].open or not failed:
            with pytest.raises(InvalidRequest, match=r"still|no failed symbols"):
                self.commands.resume_failed(job_id, actor="test")
            return
        assert self.commands.resume_failed(job_id, actor="test") == len(failed)
        self.jobs[job_id] = Job()
        for item in failed:
            item.retries = 0
            item.wait(due=True)

    @rule()
    def close(self) -> None:
        closed = set(self.queue.close_finished_jobs())
        assert closed == self.close_in_model()

    # Workers.

    @rule(worker=st.sampled_from(["w1", "w2"]), limit=st.integers(1, 4))
    def claim(self, worker: str, limit: int) -> None:
        claimable = {key for key in self.items if self.is_claimable(key)}
        tasks = self.queue.claim(worker, limit)
        assert len(tasks) <= limit
        assert bool(tasks) == bool(claimable)
        assert len({task.symbol for task in tasks}) == len(tasks)
        for task in tasks:
            key = (task.job_id, task.symbol)
            assert key in claimable
            item = self.items[key]
            item.status, item.fence = "in_progress", item.fence + 1
            assert (task.fence, task.retry_count) == (item.fence, item.retries)
        self.tasks += tasks

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        task, item = self.draw_task(data)
        if item is None:
            with pytest.raises(LeaseLost):
                self.write(task)
            return
        self.write(task)
        item.status = "completed"

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), permanent=st.booleans())
    def fail(self, data: st.DataObject, permanent: bool) -> None:
        task, item = self.draw_task(data)
        last = permanent or task.retry_count >= MAX_RETRIES
        failure, delay = Failure("Broken", "it broke", "fetch"), None if last else 3600.0
        if item is None:
            with pytest.raises(LeaseLost):
                self.queue.fail(task, failure, delay)
            return
        self.queue.fail(task, failure, delay)
        if last:
            item.status = "failed"
        else:
            item.retries += 1
            item.wait(due=False)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data(), snooze=st.booleans())
    def release(self, data: st.DataObject, snooze: bool) -> None:
        task, item = self.draw_task(data)
        self.queue.release(task, 3600.0 if snooze else 0.0, "rate limited" if snooze else None)
        if item is not None:
            item.wait(due=not snooze)

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        """Renew leases; discard the items whose jobs have been cancelled."""
        tasks = data.draw(st.sets(st.sampled_from(self.tasks)))
        cancelled = self.queue.renew(dict.fromkeys(tasks, "fetch 1d"))
        assert cancelled == {task for task in tasks if self.jobs[task.job_id].cancelled}
        for task in cancelled:
            item = self.owned_item(task)
            self.queue.discard(task)
            if item is not None:
                item.status = "cancelled"

    @precondition(lambda self: self.tasks)
    @rule(data=st.data())
    def expire_leases(self, data: st.DataObject) -> None:
        """Leases expire and are reclaimed."""
        tasks = data.draw(st.sets(st.sampled_from(self.tasks)))
        lost = {(t.job_id, t.symbol): item for t in tasks if (item := self.owned_item(t))}
        for job_id, symbol in lost:
            self.execute(
                "UPDATE enrichment_job_items SET lease_until = now() - interval '1 s'"
                " WHERE job_id = :job_id AND symbol = :symbol",
                job_id=job_id,
                symbol=symbol,
            )
        assert self.queue.reclaim_expired(MAX_RETRIES) == len(lost)
        for item in lost.values():
            if item.retries < MAX_RETRIES:
                item.retries += 1
                item.wait(due=True)
            else:
                item.status = "failed"
        self.end_waiting_items_of_cancelled_jobs()

    @rule()
    def skip_delays(self) -> None:
        self.execute("UPDATE enrichment_job_items SET run_after = now() WHERE run_after > now()")
        for item in self.items.values():
            item.due = True

    # Invariants.

    @invariant()
    def the_database_agrees_with_the_model(self) -> None:
        with self.db.begin() as conn:
            rows = {
                (row.job_id, row.symbol): row
                for row in conn.execute(text("SELECT * FROM enrichment_job_items"))
            }
        assert rows.keys() == self.items.keys()
        for key, row in rows.items():
            item = self.items[key]
            assert (row.status, row.retry_count, row.fence) == (
                item.status,
                item.retries,
                item.fence,
            )
            assert row.retry_count <= MAX_RETRIES
            before = self.before.get(key, row.status)
            assert row.status == before or row.status in LEGAL[before], (before, row.status)
        self.before = {key: row.status for key, row in rows.items()}

    @invariant()
    def item_counts_add_up(self) -> None:
        for job_id, job in self.jobs.items():
            progress = self.reader.progress(job_id)
            assert progress is not None
            assert sum(progress.counts.values()) == progress.total == len(CLASSES)
            assert progress.finished == (not job.open)
            if progress.finished:
                assert set(progress.counts) <= FINAL
                self.totals_agree(job_id, progress.counts)

    def totals_agree(self, job_id: UUID, counts: Any) -> None:
        with self.db.begin() as conn:
            job = conn.execute(
                text("SELECT * FROM enrichment_jobs WHERE job_id = :id"), {"id": job_id}
            ).one()
        assert (job.successful, job.failed, job.cancelled) == tuple(
            counts.get(status, 0) for status in ("completed", "failed", "cancelled")
        )

    def teardown(self) -> None:
        """After any sequence, workers complete every job."""
        for scope, key in self.paused:
            self.commands.resume(actor="test", scope=scope, key=key)
        self.execute("UPDATE enrichment_job_items SET run_after = now() WHERE run_after > now()")
        self.execute(
            "UPDATE enrichment_job_items SET lease_until = now() - interval '1 s'"
            " WHERE status = 'in_progress'"
        )
        self.queue.reclaim_expired(MAX_RETRIES)
        while tasks := self.queue.claim("last", 10):
            for task in tasks:
                self.write(task)
        self.queue.close_finished_jobs()
        assert self.reader.progress_of_open_jobs() == []

    # The model.

    def is_claimable(self, key: Key) -> bool:
        job_id, symbol = key
        item, job = self.items[key], self.jobs[job_id]
        busy = any(i.status == "in_progress" for (_, s), i in self.items.items() if s == symbol)
        scopes = {("global", ""), ("asset_class", CLASSES[symbol]), ("symbol", symbol)}
        return (
            item.status in WAITING
            and item.due
            and job.open
            and not job.cancelled
            and not busy
            and not scopes & self.paused
        )

    def draw_task(self, data: st.DataObject) -> tuple[Task, Item | None]:
        """Any task ever claimed, and its item if the claim is still valid."""
        task = data.draw(st.sampled_from(self.tasks))
        return task, self.owned_item(task)

    def owned_item(self, task: Task) -> Item | None:
        item = self.items[task.job_id, task.symbol]
        return item if item.status == "in_progress" and item.fence == task.fence else None

    def end_waiting_items_of_cancelled_jobs(self, only: UUID | None = None) -> None:
        for (job_id, _), item in self.items.items():
            if self.jobs[job_id].cancelled and only in (None, job_id) and item.status in WAITING:
                item.status = "cancelled"

    def close_in_model(self) -> set[UUID]:
        unfinished = {j for (j, _), item in self.items.items() if item.status not in FINAL}
        closed = {j for j, job in self.jobs.items() if job.open} - unfinished
        for job_id in closed:
            self.jobs[job_id].open = False
        return closed

    def write(self, task: Task) -> None:
        with self.db.begin() as conn:
            jobs.assert_owned(conn, task)
            jobs.complete(conn, {task: RowCounts(inserted=1)})

    def execute(self, statement: str, **values: object) -> None:
        with self.db.begin() as conn:
            conn.execute(text(statement), values)


def test_items_follow_the_model(db_url: str) -> None:
    separator = "&" if "?" in db_url else "?"
    db = Database(f"{db_url}{separator}options=-c%20synchronous_commit%3Doff", pool_size=1)
    Commands(db).track([parse_tracked(s, c, "1d") for s, c in CLASSES.items()], actor="test")
    try:
        run_state_machine_as_test(
            lambda: Items(db),
            settings=settings(
                max_examples=settings().max_examples // 4,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )
    finally:
        db.close()
