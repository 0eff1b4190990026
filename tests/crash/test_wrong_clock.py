"""A worker whose machine's clock is two hours off: only the database's clock counts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from enrichment.sandbox import create_app, running
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from tests.helpers.crash_harness import NOW, CrashHarness, until

HOUR = timedelta(hours=1)
DUE, LATER, OTHERS, PAUSED = (f"X:SIM{n}USD" for n in range(1, 5))


@pytest.fixture(scope="module")
def wrong_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that shifts the wall clock of the process that preloads it."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("there is no C compiler, or it is not Linux: the clock can't be made wrong")
    library = tmp_path_factory.mktemp("clock") / "skewed.so"
    source = Path(__file__).with_name("skewed_clock.c")
    subprocess.run((compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"), check=True)
    return library


@contextmanager
def worker(harness: CrashHarness, environment: dict[str, str]) -> Iterator[Path]:
    """`enrichment worker` in this environment; yields its log."""
    log = harness.folder / "worker.log"
    with log.open("wb") as output:
        started = subprocess.Popen(
            [sys.executable, "-m", "enrichment", "worker"],
            env={**os.environ, **environment},
            cwd=harness.folder,
            stdout=output,
            stderr=output,
        )
    try:
        yield log
    finally:
        started.terminate()
        started.wait(30)


@pytest.mark.parametrize(
    ("skew", "slot", "scheduled"),
    [
        pytest.param(2 * HOUR, HOUR, [], id="fast"),
        pytest.param(-2 * HOUR, -HOUR, [(1,)], id="slow"),
    ],
)
def test_nothing_comes_early_and_nothing_stays_away(
    db: Database,
    wrong_clock: Path,
    tmp_path: Path,
    skew: timedelta,
    slot: timedelta,
    scheduled: list[tuple[int]],
) -> None:
    clock = {"LD_PRELOAD": str(wrong_clock), "CLOCK_SKEW": str(int(skew.total_seconds()))}
    _assert_wrong(clock, skew)
    with running(create_app()) as vendor:
        harness = CrashHarness(db, vendor, NOW, tmp_path)
        job = harness.trigger((DUE, LATER, OTHERS, PAUSED), "1h")
        _prepare(harness)
        at = harness.database_time() + slot
        settings = {
            "DATABASE_URL": db.url.render_as_string(hide_password=False),
            "ENRICHMENT_SANDBOX_PORT": str(urlsplit(vendor).port),
            "ENRICHMENT_HOUR": str(at.hour),
            "ENRICHMENT_MINUTE": str(at.minute),
            "HISTORY_DAYS": "10",
        }
        with worker(harness, {**clock, **settings}) as log:
            items = "SELECT symbol, status, fence FROM enrichment_job_items WHERE job_id = :job"
            ticked = (
                "SELECT 1 FROM workers WHERE ticked_at IS NOT NULL AND heartbeat_at > started_at"
            )
            done = f"{items} AND status = 'completed'"
            until(lambda: harness.rows(done, job=job) and harness.rows(ticked), log.read_text)
            found = harness.rows(f"{items} ORDER BY symbol", job=job)
    assert found == [
        (DUE, "completed", 1),
        (LATER, "retry", 0),
        (OTHERS, "in_progress", 1),
        (PAUSED, "pending", 0),
    ]
    others = "SELECT count(*) FROM enrichment_jobs WHERE kind <> 'manual' HAVING count(*) > 0"
    assert harness.rows(others) == scheduled
    # The last bar is that of the hour before the one that has begun, by the database's clock.
    ((newest, completed),) = harness.rows(
        "SELECT max(b.ts), max(i.completed_at) FROM bars b JOIN enrichment_job_items i"
        " USING (symbol) WHERE job_id = :job AND i.completed_at IS NOT NULL",
        job=job,
    )
    assert HOUR <= completed - newest < 2 * HOUR + timedelta(minutes=1)


def _prepare(harness: CrashHarness) -> None:
    """Make one item due for a retry in an hour, lease one to another worker and pause one for an
    hour; all symbols have been tracked for days.
    """
    Commands(harness.db).pause(
        actor="test", scope="symbol", key=PAUSED, until=harness.database_time() + HOUR
    )
    with harness.db.begin() as conn:
        for statement in (
            "UPDATE tracked_symbols SET created_at = now() - interval '9 days'",
            "UPDATE enrichment_job_items SET status = 'retry', run_after = now() + interval '1 h'"
            f" WHERE symbol = '{LATER}'",
            "UPDATE enrichment_job_items SET status = 'in_progress', worker_id = 'another',"
            f" fence = 1, lease_until = now() + interval '1 h' WHERE symbol = '{OTHERS}'",
        ):
            conn.execute(text(statement))


def _assert_wrong(environment: dict[str, str], skew: timedelta) -> None:
    """The preloaded library shifts the clock."""
    believed = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert abs(float(believed.stdout) - time.time() - skew.total_seconds()) < 600
