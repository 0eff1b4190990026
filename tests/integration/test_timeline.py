"""A job's timeline shows the threads as they were used: by real workers, and without a record."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import groupby, pairwise
from uuid import UUID

import pytest
from sqlalchemy import text

from enrichment.domain.symbol_csv import parse_tracked
from enrichment.engine.worker import WorkerTiming
from enrichment.sandbox import Fault, create_app, running
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.read_models.jobs import Timeline
from tests.helpers.dashboard_pages import open_page, page_text
from tests.helpers.waiting import until
from tests.helpers.worker_in_process import running_worker_process, settings_for

QUICK = WorkerTiming(poll=0.05, heartbeat=0.2)
THREADS = 3
CLOCK_READING = timedelta(seconds=0.2)  # how long it takes to read the server's clock, at most


class Job:
    """A job of many small symbols."""

    def __init__(self, db: Database, symbols: int = 60) -> None:
        self.db, self.commands = db, Commands(db)
        self.reader = ReadModels(db)
        names = [f"SIM{number}" for number in range(symbols)]
        self.commands.track([parse_tracked(name, "stock", "1d") for name in names], actor="test")
        self.job_id: UUID = self.commands.trigger(actor="test").job_id

    @property
    def finished(self) -> bool:
        progress = self.reader.progress(self.job_id)
        return progress is not None and progress.finished

    def timeline(self, limit: int = 1000) -> Timeline:
        return self.reader.jobs.timeline(self.job_id, limit)


@pytest.fixture
def vendor() -> Iterator[str]:
    app = create_app()
    app.extensions["sandbox"].faults.add([Fault("*", "latency", seconds=0.02)])
    with running(app) as address:
        yield address


def assert_threads_are_used_one_item_at_a_time(used: Timeline) -> None:
    assert {span.thread for span in used.spans} <= set(range(1, THREADS + 1))
    assert all(span.begun_at <= span.ended_at for span in used.spans)
    lanes = sorted(used.spans, key=lambda span: (span.worker_id, span.thread, span.begun_at))
    for _, spans in groupby(lanes, key=lambda span: (span.worker_id, span.thread)):
        assert all(before.ended_at <= after.begun_at for before, after in pairwise(spans))


def test_workers_record_their_threads(db: Database, db_url: str, vendor: str) -> None:
    settings = settings_for(db_url, vendor, threads=THREADS)
    with running_worker_process(settings, QUICK), running_worker_process(settings, QUICK):
        job = Job(db)
        until(lambda: job.finished, "the job ends")
    used = job.timeline()
    assert (len(used.spans), used.total, used.earlier_attempts) == (60, 60, 0)
    assert_threads_are_used_one_item_at_a_time(used)
    assert len({(span.worker_id, span.thread) for span in used.spans}) > THREADS
    claimed_to_stored = {item.symbol: item for item in job.reader.jobs.items(job.job_id, 100)}
    for span in used.spans:
        item = claimed_to_stored[span.symbol]
        assert item.started_at is not None
        assert item.completed_at is not None
        assert item.started_at - CLOCK_READING < span.begun_at
        assert span.ended_at < item.completed_at + CLOCK_READING
    seconds = [(span.ended_at - span.begun_at).total_seconds() for span in used.spans]
    assert sum(seconds) / len(seconds) >= 0.015  # the vendor takes 0.02 s


def test_a_failed_symbol_is_on_its_thread(db: Database, db_url: str, vendor: str) -> None:
    Commands(db).track([parse_tracked("NOSUCH", "stock", "1d")], actor="test")
    job = Job(db, symbols=2)
    settings = settings_for(db_url, vendor, threads=THREADS, max_retries=0)
    with running_worker_process(settings, QUICK):
        until(lambda: job.finished, "the job ends")
    used = job.timeline()
    assert {span.symbol: span.status for span in used.spans} == {
        "SIM0": "completed",
        "SIM1": "completed",
        "NOSUCH": "failed",
    }
    with db.begin() as conn:
        took = conn.execute(
            text("SELECT duration_ms FROM enrichment_fetch_log WHERE symbol = 'NOSUCH'")
        ).scalar_one()
    assert took >= 20.0  # the vendor answered that late that it has no bars
    assert_threads_are_used_one_item_at_a_time(used)


def test_a_running_symbol_is_shown_from_the_heartbeat_on(db: Database, db_url: str) -> None:
    app = create_app()
    app.extensions["sandbox"].faults.add([Fault("SIM0", "latency", seconds=2.0)])
    with running(app) as slow:
        job = Job(db, symbols=2)
        with running_worker_process(settings_for(db_url, slow, threads=THREADS), QUICK):
            until(
                lambda: any(
                    span.status == "in_progress" and span.symbol == "SIM0"
                    for span in job.timeline().spans
                ),
                "the heartbeat has published the thread",
            )
            until(lambda: job.finished, "the job ends")


def test_what_ran_before_threads_were_recorded_is_shown_as_that(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch, main_module_kept: None
) -> None:
    job = Job(db, symbols=4)
    JobQueue(db).claim("host:1:abc", 4)
    with db.begin() as conn:  # as stored by an earlier version
        conn.execute(
            text(
                "UPDATE enrichment_job_items SET status = 'completed', lease_until = NULL,"
                " step = NULL, completed_at = now() + interval '1 s'"
            )
        )
    JobQueue(db).close_finished_jobs()
    used = job.timeline(limit=3)
    assert (len(used.spans), used.total) == (3, 4)
    assert {span.thread for span in used.spans} == {None}
    page = open_page("jobs", db_url, monkeypatch)
    assert "4 of 4 ran before threads were recorded" in page_text(page)


def test_what_the_timeline_leaves_out_is_counted(db: Database) -> None:
    job = Job(db, symbols=3)
    with db.begin() as conn:
        conn.execute(
            text(
                "UPDATE enrichment_job_items SET status = 'failed', started_at = now(),"
                " worker_id = 'w', thread = 1, begun_at = now(), finished_at = now(),"
                " completed_at = now(), retry_count = 2"
            )
        )
    assert job.timeline(limit=1).total == 3
    assert job.timeline().earlier_attempts == 6
