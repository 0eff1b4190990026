"""Why the symbols of a job have not started."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from uuid import UUID

import pytest
from rich.console import Console
from sqlalchemy import text
from typer.testing import CliRunner

from enrichment.cli import render
from enrichment.cli.main import app
from enrichment.domain.clock import utc_now
from enrichment.domain.model import Failure
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.read_models.dto import WaitReason
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.resilience_state import SharedLimits
from resilience import Limit, Priority

SYMBOLS = ("AAPL", "IBM", "MSFT")


class Queue:
    """A job of three symbols, and a worker that lives unless said otherwise."""

    def __init__(self, db: Database) -> None:
        self.db, self.queue, self.commands = db, JobQueue(db), Commands(db)
        self.reader = ReadModels(db)
        self.commands.track([parse_tracked(name, "stock", "1d") for name in SYMBOLS], actor="me")
        self.job: UUID = self.commands.trigger(actor="me").job_id
        self.worker = WorkerRegistry(db, "w")

    def start_worker(self) -> None:
        self.worker.register(host="here", pid=1, version="test", threads=2)

    def waiting(self) -> list[WaitReason]:
        progress = self.reader.progress(self.job)
        assert progress is not None
        return list(progress.waiting)

    def shown(self) -> str:
        out = StringIO()
        console = Console(file=out, width=200)
        render.print_waiting(console, self.reader.progress_of_open_jobs())
        return out.getvalue()


@pytest.fixture
def queue(db: Database) -> Queue:
    return Queue(db)


@pytest.fixture
def limited(queue: Queue) -> Queue:
    """A queue whose stocks are asked of Polygon, then of Yahoo."""
    queue.reader = ReadModels(queue.db, providers={"stock": ("polygon", "yahoo")})
    queue.start_worker()
    return queue


def test_without_a_worker_all_symbols_wait_for_one(queue: Queue) -> None:
    (reason,) = queue.waiting()
    assert (reason.symbols, reason.until) == (3, None)
    assert "no worker is running" in reason.reason
    assert "no worker is running" in queue.shown()


def test_what_only_waits_for_a_thread_has_no_reason(queue: Queue) -> None:
    queue.start_worker()
    assert queue.waiting() == []
    assert queue.shown() == ""


def test_workers_that_wait_say_for_what(queue: Queue) -> None:
    queue.start_worker()
    queue.worker.beat(busy=0, state="waiting", note="the Dask scheduler does not answer")
    (reason,) = queue.waiting()
    assert "the Dask scheduler does not answer" in reason.reason


def test_a_pause_says_whose_and_until_when(queue: Queue) -> None:
    queue.start_worker()
    until = utc_now() + timedelta(hours=1)
    queue.commands.pause(actor="ops", scope="symbol", key="IBM", reason="bad split", until=until)
    (reason,) = queue.waiting()
    assert reason == WaitReason("symbol IBM is paused by ops: bad split", 1, until)
    queue.commands.pause(actor="ops", reason="maintenance")
    (reason,) = queue.waiting()
    assert reason == WaitReason("everything is paused by ops: maintenance", 3, None)


def test_symbols_that_wait_for_one_breaker_are_one_reason(queue: Queue) -> None:
    queue.start_worker()
    for task, left in zip(queue.queue.claim("w", 3), ("58.7", "59", "1e+03"), strict=True):
        why = "breaker of polygon is open (last error: 500)"
        queue.queue.release(task, float(left), why)
    (reason,) = queue.waiting()
    assert (reason.reason, reason.symbols) == ("breaker of polygon is open (last error: 500)", 3)


def test_following_a_job_without_a_terminal_prints_what_it_waits_for(queue: Queue) -> None:
    out, readings = StringIO(), iter(range(5))
    render.follow_job(
        Console(file=out, width=200),
        lambda: queue.reader.progress(queue.job),
        interrupted=lambda _: next(readings) == 4,
    )
    assert out.getvalue().count("3 symbols wait: no worker is running") == 1


def test_status_begins_with_the_health(
    queue: Queue, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", db_url)
    queue.start_worker()
    until = utc_now() + timedelta(hours=1)
    queue.commands.pause(actor="ops", reason="maintenance", until=until)
    (task, *_) = JobQueue(queue.db).claim("w", 1) or [None]
    assert task is None  # paused
    shown = CliRunner().invoke(app, ["status"]).output
    assert shown.splitlines()[0].startswith("health     critical")
    assert "live worker has ticked" in shown
    assert f"until {until:%Y-%m-%d %H:%M}" in shown
    content = json.loads(CliRunner().invoke(app, ["status", "--json"]).output)
    assert content["health"]["status"] == "critical"


def test_status_shows_the_error_of_a_series(
    queue: Queue, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", db_url)
    error = "no bars of it, as the vendor says in many words " * 3 + "THE END"
    for task in queue.queue.claim("w", 3):
        queue.queue.fail(task, Failure("UnknownSymbol", error, "fetch", "1d"), None)
    assert "THE END" in CliRunner().invoke(app, ["status"]).output


def test_a_vendors_quota_and_a_retry_say_until_when(queue: Queue) -> None:
    queue.start_worker()
    first, second, _ = queue.queue.claim("w", 3)
    queue.queue.release(first, 120.0, "quota of polygon")
    queue.queue.fail(second, Failure("ProviderUnavailable", "503", "fetch", "1d"), 60.0)
    quota, retry = sorted(queue.waiting(), key=lambda reason: reason.reason)
    assert (quota.reason, quota.symbols) == ("quota of polygon", 1)
    assert (retry.reason, retry.symbols) == ("retry after ProviderUnavailable", 1)
    assert quota.until is not None
    assert retry.until is not None
    assert retry.until < quota.until


def use_up(db: Database, seconds: int, waiting: int) -> None:
    """Give away a strict quota of Polygon, one request in `seconds`; so many calls wait for it."""
    limit = Limit(rate=60 // seconds, interval=60.0, burst=1, normal_burst=1, strict=True)
    for _ in range(1 + waiting):
        SharedLimits(db).reserve("polygon_api", limit, 1, Priority.NORMAL, None)


def minutes_left(reason: WaitReason | None) -> float:
    assert reason is not None
    assert reason.until is not None
    return (reason.until - utc_now()).total_seconds() / 60


def test_what_waits_for_a_vendors_quota_has_its_position_and_time(
    limited: Queue, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (running,) = limited.queue.claim("w", 1)
    assert running.symbol == "AAPL"
    use_up(limited.db, 12, waiting=1)
    (reason,) = limited.waiting()
    assert (reason.reason, reason.symbols, reason.before) == ("quota of polygon", 2, 1)
    assert minutes_left(reason) == pytest.approx(1 / 5, abs=0.05)
    assert "2 symbols wait: quota of polygon, 1 before it, about" in limited.shown()
    items = {item.symbol: item.waiting for item in limited.reader.jobs.items(limited.job, 9)}
    assert items["AAPL"] is None
    assert [items[name] and items[name].before for name in ("IBM", "MSFT")] == [1, 2]
    assert minutes_left(items["MSFT"]) == pytest.approx(2 / 5, abs=0.05)
    wait = limited.reader.wait_of("MSFT")
    assert wait is not None
    assert wait.text(str).startswith("quota of polygon, 2 before it, about 20")
    assert limited.reader.wait_of("AAPL") is None
    monkeypatch.setenv("DATABASE_URL", db_url)
    shown = CliRunner().invoke(app, ["status", "MSFT"]).output
    assert "waits for  quota of polygon, 2 before it, about 20" in shown


def test_the_time_follows_the_pace_at_which_symbols_are_completed(limited: Queue) -> None:
    names = [f"S{number:02}" for number in range(30)]
    limited.commands.track([parse_tracked(name, "stock", "1d") for name in names], actor="me")
    night = limited.commands.trigger(actor="me", symbols=names).job_id
    done = "status = 'completed', completed_at = now() - interval '1 minute'"
    with limited.db.begin() as conn:
        conn.execute(text("UPDATE enrichment_jobs SET started_at = now() - interval '5 minutes'"))
        conn.execute(
            text(f"UPDATE enrichment_job_items SET {done} WHERE job_id = :job AND symbol < 'S10'"),
            {"job": night},
        )
    use_up(limited.db, 12, waiting=1)
    last = limited.reader.jobs.items(night, 1, after="S28")[0].waiting
    assert last is not None
    assert last.before == 3 + 19  # the first job's symbols come first
    assert minutes_left(last) == pytest.approx(22 / 2, abs=0.2)  # ten in five minutes


def test_a_paused_vendor_leaves_the_queue_to_the_next_one(limited: Queue) -> None:
    use_up(limited.db, 12, waiting=1)
    assert [reason.reason for reason in limited.waiting()] == ["quota of polygon"]
    limited.commands.pause(actor="ops", scope="provider", key="polygon", reason="bad day")
    assert limited.waiting() == []


def test_a_symbol_that_another_job_is_enriching_says_so(queue: Queue) -> None:
    queue.start_worker()
    queue.queue.claim("w", 1)
    other = queue.commands.trigger(actor="me", symbols=["AAPL"])
    progress = queue.reader.progress(other.job_id)
    assert progress is not None
    assert [reason.reason for reason in progress.waiting] == ["another job is enriching the symbol"]
