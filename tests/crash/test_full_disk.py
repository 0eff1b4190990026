"""The database's disk fills up: items that could not be stored fail, and can be resumed.

A tmpfs stands for the disk, so these tests need the right to mount one.
"""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from enrichment.domain.errors import DatabaseUnavailable
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.embedded import EmbeddedPostgres
from tests.helpers.crash_harness import (
    LOGS,
    NOW,
    SYMBOLS,
    CrashHarness,
    SeriesFingerprints,
    assert_exactly_once,
    fingerprints,
    until,
)
from tests.helpers.memory_folder import memory_folder
from tests.helpers.own_server import OwnServer, mounted_disk
from tests.helpers.worker_in_process import bare_worker


def statuses(harness: CrashHarness) -> dict[str, str]:
    return dict(harness.rows("SELECT symbol, status FROM enrichment_job_items"))


def test_what_does_not_fit_fails_and_is_resumed(
    own_server: OwnServer, vendor: str, undisturbed: SeriesFingerprints, tmp_path: Path
) -> None:
    home = own_server.postgres.folder
    expected = {key: value for key, value in undisturbed.items() if key[1] == "4h"}
    with mounted_disk(home.parent / "small", 640) as small:
        (small.folder / "space").mkdir()
        owner = home.stat()
        shutil.chown(small.folder / "space", owner.st_uid, owner.st_gid)
        harness = CrashHarness(own_server.database("starved"), vendor, NOW, tmp_path)
        own_server.run(f"CREATE TABLESPACE small LOCATION '{small.folder / 'space'}'")
        with harness.db.begin() as conn:
            conn.execute(text("ALTER TABLE bars SET TABLESPACE small"))
        job = harness.trigger(SYMBOLS, "4h")
        heart = Database(harness.db.url.render_as_string(False), pool_size=1)
        with bare_worker(harness.db, heart, vendor, NOW, threads=2, lease=30.0, max_retries=0):
            harness.until_closed(job)
            _assert_some_are_missing(harness, expected)
            small.grow(64_000)
            failed = sum(status == "failed" for status in statuses(harness).values())
            resumed = Commands(harness.db).resume_failed(
                job, actor="test", error_class="DatabaseUnavailable"
            )
            assert resumed == failed
            harness.until_closed(job)
        assert set(statuses(harness).values()) == {"completed"}
        assert fingerprints(harness.db) == expected
        for log in LOGS:
            assert harness.rows(
                f"SELECT DISTINCT count(*) FROM {log} WHERE success GROUP BY symbol"
            ) == [(1,)]
        heart.close()
        own_server.drop("starved")
        own_server.run("DROP TABLESPACE small")


def _assert_some_are_missing(harness: CrashHarness, expected: SeriesFingerprints) -> None:
    """Completed items have all their bars, failed ones none."""
    found = statuses(harness)
    assert set(found.values()) == {"completed", "failed"}
    stored = fingerprints(harness.db)
    assert stored == {key: expected[key] for key in expected if found[key[0]] == "completed"}
    said = harness.rows(
        "SELECT DISTINCT error_class, step, last_error FROM enrichment_job_items"
        " WHERE status = 'failed'"
    )
    for error_class, step, error in said:
        assert (error_class, step) == ("DatabaseUnavailable", "store")
        assert "No space left on device" in error
        assert "free some disk" in error


def test_a_server_that_a_full_disk_has_ended_comes_back(
    vendor: str, undisturbed: SeriesFingerprints, tmp_path: Path
) -> None:
    with (
        memory_folder() as folder,
        mounted_disk(folder / "d", 110_000) as small,
        EmbeddedPostgres(small.folder / "p") as postgres,
        closing(OwnServer(postgres)) as server,
        closing(CrashHarness(server.database("starved"), vendor, NOW, tmp_path)) as harness,
    ):
        job = harness.trigger(SYMBOLS, "1d")
        worker = harness.start("worker", step="before_commit", item=3)
        symbol = worker.wait_until_stopped()
        ballast = small.fill()
        with pytest.raises(DatabaseUnavailable):
            _use_up_the_log(harness)
        until(lambda: not server.is_running(), "the server gives up")
        with pytest.raises(DatabaseUnavailable, match="free some disk"):
            postgres.revive()
        worker.resume()
        ballast.unlink()
        assert postgres.revive()
        assert harness.rows("SELECT 1 FROM bars WHERE symbol = :symbol", symbol=symbol) == []
        harness.start("other")
        harness.until_closed(job)
        assert_exactly_once(harness, job, {k: v for k, v in undisturbed.items() if k[1] == "1d"})


def _use_up_the_log(harness: CrashHarness) -> None:
    """Write until the write-ahead log needs a new segment, for which there is no space."""
    for _ in range(3):
        harness.rows("SELECT pg_switch_wal(), pg_logical_emit_message(true, '', '')")
