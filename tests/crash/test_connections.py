"""Too few database connections, or none: workers wait and log the reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from enrichment.warehouse.database import Database
from tests.helpers.crash_harness import (
    NOW,
    SYMBOLS,
    CrashHarness,
    SeriesFingerprints,
    assert_exactly_once,
    until,
)
from tests.helpers.worker_in_process import bare_worker

LIMIT = 8


def daily(undisturbed: SeriesFingerprints) -> SeriesFingerprints:
    return {key: value for key, value in undisturbed.items() if key[1] == "1d"}


def test_five_threads_share_one_connection(
    harness: CrashHarness, undisturbed: SeriesFingerprints, db_url: str
) -> None:
    job = harness.trigger(SYMBOLS, "1d")
    work = Database(db_url, pool_size=1, max_overflow=0)
    heart = Database(db_url, pool_size=1, max_overflow=0)
    with bare_worker(work, heart, harness.vendor, NOW, threads=5, lease=30.0):
        harness.until_closed(job)
    assert_exactly_once(harness, job, daily(undisturbed))
    assert harness.rows("SELECT max(retry_count) FROM enrichment_job_items") == [(0,)]
    work.close()
    heart.close()


@pytest.fixture
def crowded_url(harness: CrashHarness) -> Iterator[str]:
    """The URL of the same database for a role with a limit of connections."""
    with harness.db.begin() as conn:
        conn.execute(text(f"CREATE ROLE crowded LOGIN PASSWORD 'x' CONNECTION LIMIT {LIMIT}"))
        for kind in ("TABLES", "SEQUENCES"):
            conn.execute(text(f"GRANT ALL ON ALL {kind} IN SCHEMA public TO crowded"))
    url = harness.db.url.set(username="crowded", password="x")
    yield url.render_as_string(hide_password=False)
    with harness.db.begin() as conn:
        conn.execute(text("DROP OWNED BY crowded"))
        conn.execute(text("DROP ROLE crowded"))


def test_used_up_connections_are_waited_for(
    harness: CrashHarness,
    undisturbed: SeriesFingerprints,
    crowded_url: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = harness.trigger(SYMBOLS, "1d")
    work, heart = Database(crowded_url, pool_size=7), Database(crowded_url, pool_size=1)
    others = Database(crowded_url, pool_size=LIMIT)
    with heart.begin():
        pass  # a worker's heartbeat has its connection from the start
    crowd = [others.engine.connect() for _ in range(LIMIT - 1)]
    with (
        caplog.at_level("INFO"),
        bare_worker(work, heart, harness.vendor, NOW, threads=5, lease=2.0),
    ):
        until(lambda: "can't claim items" in caplog.text, "it says so")
        assert "raise its limit of connections" in caplog.text
        assert harness.rows("SELECT DISTINCT status FROM enrichment_job_items") == [("pending",)]
        for connection in crowd[: LIMIT // 2]:  # half of them: fewer than the worker has threads
            connection.invalidate()
            connection.close()
        harness.until_closed(job)
    assert_exactly_once(harness, job, daily(undisturbed))
    for connection in crowd[LIMIT // 2 :]:
        connection.close()
    for database in (others, work, heart):
        database.close()
