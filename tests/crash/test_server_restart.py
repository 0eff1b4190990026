"""The database server is shut down in immediate mode in the middle of a job, and restarted."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from enrichment.engine.worker import WorkerTiming
from enrichment.sandbox import Fault, create_app, running
from tests.helpers.crash_harness import (
    NOW,
    SYMBOLS,
    CrashHarness,
    SeriesFingerprints,
    assert_exactly_once,
    fingerprints,
    until,
)
from tests.helpers.own_server import OwnServer
from tests.helpers.worker_in_process import running_worker_process, settings_for

PACE = WorkerTiming(poll=0.05, heartbeat=0.2, lease=15.0)


@contextmanager
def api(url: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`enrichment api` as a process, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    started = subprocess.Popen(
        [sys.executable, "-m", "enrichment", "api", f"--port={port}"],
        env={**os.environ, "DATABASE_URL": url},
        cwd=folder,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield started, f"http://127.0.0.1:{port}"
    finally:
        started.terminate()
        started.wait(30)


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code
    except OSError:
        return 0


def test_worker_and_api_live_through_it(
    own_server: OwnServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    db = own_server.database("restarted")
    url = db.url.render_as_string(hide_password=False)
    slow = Fault.of({"ticker": "*", "kind": "latency", "seconds": 0.4})
    with (
        api(url, tmp_path) as (server, address),
        running(create_app(faults=[slow])) as vendor,
        caplog.at_level("INFO"),
    ):
        until(lambda: status(f"{address}/readyz") == 200, "the API gets ready")
        harness = CrashHarness(db, vendor, NOW, tmp_path)
        job = harness.trigger(SYMBOLS, "1d")
        with running_worker_process(settings_for(url, vendor), PACE):
            completed = "SELECT 1 FROM enrichment_job_items WHERE status = 'completed'"
            until(lambda: harness.rows(completed), "a first symbol is completed")
            own_server.stop_immediately()
            until(lambda: status(f"{address}/readyz") == 503, "the API reports it")
            assert status(f"{address}/livez") == 200
            until(lambda: "can't claim items" in caplog.text, "the worker reports it")
            own_server.restart()
            until(lambda: status(f"{address}/readyz") == 200, "the API is ready again")
            assert status(f"{address}/livez") == 200
            assert server.poll() is None
            harness.until_closed(job)
    series = fingerprints(db)
    assert sorted(symbol for symbol, _ in series) == sorted(SYMBOLS)
    assert {count for count, _ in series.values()} == {365}
    assert_exactly_once(harness, job, series)


@pytest.mark.parametrize("step", ["before_commit", "after_commit"])
def test_a_transaction_cut_off_leaves_all_or_nothing(
    own_server: OwnServer, vendor: str, undisturbed: SeriesFingerprints, tmp_path: Path, step: str
) -> None:
    harness = CrashHarness(own_server.database(f"cut_{step}"), vendor, NOW, tmp_path)
    job = harness.trigger(SYMBOLS, "1d")
    try:
        worker = harness.start("worker", step=step, item=3)
        symbol = worker.wait_until_stopped()
        worker.freeze()  # so that its other thread does not take the item up before the check
        own_server.stop_immediately()
        own_server.restart()
        stored = [row[0] for row in harness.rows("SELECT DISTINCT symbol FROM bars")]
        assert (symbol in stored) == (step == "after_commit")
        worker.thaw()
        worker.resume()  # it continues, or stops itself after a lease without a database
        harness.start("other")
        harness.until_closed(job)
        assert worker.terminate() == 0
    finally:
        harness.close()
    assert_exactly_once(harness, job, {k: v for k, v in undisturbed.items() if k[1] == "1d"})
