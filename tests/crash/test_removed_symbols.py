"""A job whose symbols are removed while it runs still ends."""

from __future__ import annotations

from enrichment.services.commands import Commands
from tests.helpers.crash_harness import SYMBOLS, CrashHarness


def test_what_is_at_work_finishes_and_the_rest_is_cancelled(harness: CrashHarness) -> None:
    job = harness.trigger(SYMBOLS, "1d")
    worker = harness.start("worker", threads=1, step="fetched", item=2)
    at_work = worker.wait_until_stopped()
    for symbol in SYMBOLS:
        Commands(harness.db).untrack(symbol, actor="test")
    worker.resume()
    harness.until_closed(job)
    first, second, *others = SYMBOLS
    assert at_work == second
    assert harness.rows("SELECT symbol, status FROM enrichment_job_items ORDER BY symbol") == [
        (first, "completed"),
        (second, "completed"),
        *((symbol, "cancelled") for symbol in others),
    ]
    assert harness.rows(
        "SELECT state, total, successful, failed, cancelled FROM enrichment_jobs"
    ) == [("completed", 6, 2, 0, 4)]
    assert harness.rows("SELECT DISTINCT symbol FROM bars ORDER BY symbol") == [(first,), (second,)]


def test_a_job_of_which_nothing_is_left_ends_without_a_worker(harness: CrashHarness) -> None:
    harness.trigger(SYMBOLS, "1d")
    for symbol in SYMBOLS:
        Commands(harness.db).untrack(symbol, actor="test")
    assert harness.rows(
        "SELECT state, total, successful, failed, cancelled FROM enrichment_jobs"
    ) == [("completed", 6, 0, 0, 6)]
