"""A job whose symbols are removed while it runs still comes to its end."""

from __future__ import annotations

from enrichment.services.commands import Commands
from tests.helpers.crash_harness import SYMBOLS, CrashHarness


def test_what_is_at_work_finishes_and_the_rest_is_cancelled(stage: CrashHarness) -> None:
    job = stage.trigger(SYMBOLS, "1d")
    worker = stage.start("worker", threads=1, step="fetched", item=2)
    at_work = worker.stopped_at()
    for symbol in SYMBOLS:
        Commands(stage.db).untrack(symbol, actor="test")
    worker.go_on()
    stage.until_closed(job)
    first, second, *others = SYMBOLS
    assert at_work == second
    assert stage.rows("SELECT symbol, status FROM enrichment_job_items ORDER BY symbol") == [
        (first, "completed"),
        (second, "completed"),
        *((symbol, "cancelled") for symbol in others),
    ]
    assert stage.rows(
        "SELECT state, total, successful, failed, cancelled FROM enrichment_jobs"
    ) == [("completed", 6, 2, 0, 4)]
    assert stage.rows("SELECT DISTINCT symbol FROM bars ORDER BY symbol") == [(first,), (second,)]


def test_a_job_of_which_nothing_is_left_ends_without_a_worker(stage: CrashHarness) -> None:
    stage.trigger(SYMBOLS, "1d")
    for symbol in SYMBOLS:
        Commands(stage.db).untrack(symbol, actor="test")
    assert stage.rows(
        "SELECT state, total, successful, failed, cancelled FROM enrichment_jobs"
    ) == [("completed", 6, 0, 0, 6)]
