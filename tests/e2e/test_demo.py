"""`enrichment demo` and `up`, from the wheel: exact bars and features, nothing left running."""

from __future__ import annotations

import csv
import gzip
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import talib
from sqlalchemy import text

from enrichment.warehouse.database import Database
from tests.helpers.memory_folder import memory_folder
from tests.helpers.recorded_series import DAILY_STOCKS, daily_stocks
from tests.helpers.running_stack import RunningStack, run_command, running_stack, stored_bars
from tests.helpers.vendor_faults import clear_faults, inject_faults

ROOT = "/api/v1/enrichment"


@pytest.fixture
def folder() -> Iterator[Path]:
    with memory_folder() as found:
        yield found


def recorded(symbol: str) -> dict[str, np.ndarray]:
    """The columns of the recorded file, read independently of the program."""
    with gzip.open(DAILY_STOCKS, "rt") as file:
        rows = [row for row in csv.DictReader(file) if row["symbol"] == symbol]
    return {
        name: np.array([float(row[name]) for row in rows])
        for name in ("open", "high", "low", "close", "volume")
    }


def test_it_prints_what_was_stored_and_the_urls(demo: RunningStack) -> None:
    assert "10 symbols" in demo.output
    assert demo.dashboard in demo.output
    assert demo.api in demo.output
    assert "✗" not in demo.output
    assert "WARNING" not in demo.output


def test_every_recorded_bar_is_stored_exactly(demo_db: Database) -> None:
    for symbol, count in (
        ("AAPL", 3270),
        ("IBM", 3270),
        ("MSFT", 3270),
        ("GOOG", 2148),
        ("FB", 196),
    ):
        file = recorded(symbol)
        rows = stored_bars(demo_db, symbol, "open, high, low, close, volume")
        assert len(rows) == count
        for column, name in zip(zip(*rows, strict=True), file, strict=True):
            np.testing.assert_array_equal(column, file[name], err_msg=f"{symbol} {name}")


def test_features_equal_talib_on_the_recorded_file(demo_db: Database) -> None:
    """On each bar's own share basis: TA-Lib's on the series adjusted for the two splits."""
    file = recorded("AAPL")
    days = daily_stocks()["AAPL"].bars.ts.astype("datetime64[D]").astype(str)
    shares = np.where(days < "2000-06-21", 4.0, np.where(days < "2005-02-28", 2.0, 1.0))
    high, low, close = (file[name] / shares for name in ("high", "low", "close"))
    expected = {
        "atr_14": talib.ATR(high, low, close, 14) * shares,
        "rsi_14": talib.RSI(close, 14),
        "sma_200": talib.SMA(close, 200) * shares,
        "ema_26": talib.EMA(close, 26) * shares,
    }
    rows = stored_bars(demo_db, "AAPL", ", ".join(expected))
    for column, name in zip(zip(*rows, strict=True), expected, strict=True):
        values = np.array([np.nan if v is None else v for v in column], dtype=float)
        np.testing.assert_allclose(values, expected[name], rtol=1e-9, err_msg=name)


def test_the_overview_shows_the_run(demo: RunningStack) -> None:
    status, overview = demo.request(f"{ROOT}/dashboard/overview")
    assert status == 200
    assert overview["scheduler"]["running"] is True
    status, history = demo.request(f"{ROOT}/history?limit=100")
    first = history["jobs"][-1]  # other tests may have triggered later ones
    assert (status, first["successful"], first["failed"]) == (200, 10, 0)
    assert overview["metrics"]["fetch_pipeline"]["success_rate"] == 100.0
    assert overview["metrics"]["data_quality"]["avg_quality_score"] > 0.9
    status, aapl = demo.request(f"{ROOT}/dashboard/job-status/AAPL")
    assert (status, aapl["status"]) == (200, "completed")


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor")
def test_the_worker_is_pinned_to_one_processor_and_the_server_is_not(
    demo: RunningStack, demo_db: Database
) -> None:
    with demo_db.begin() as conn:
        newest = text("SELECT pid, pg_backend_pid() FROM workers ORDER BY heartbeat_at DESC")
        worker, server = conn.execute(newest).one()
    assert len(os.sched_getaffinity(worker)) == 1 < len(os.sched_getaffinity(server))


def test_running_again_changes_no_row(demo: RunningStack, demo_db: Database) -> None:
    def corrections() -> int:
        with demo_db.begin() as conn:
            return int(conn.execute(text("SELECT count(*) FROM data_corrections")).scalar_one())

    before, corrected = stored_bars(demo_db, "AAPL", "bars::text"), corrections()
    status, result = demo.request(
        f"{ROOT}/trigger?symbols=AAPL&symbols=X:SIM1USD&wait=60", method="POST"
    )
    assert (status, result["symbols_to_process"]) == (202, 2)
    assert (result["result_summary"]["successful"], result["result_summary"]["failed"]) == (2, 0)
    assert stored_bars(demo_db, "AAPL", "bars::text") == before
    assert corrections() == corrected


def test_an_unknown_ticker_fails_with_its_reason(demo: RunningStack, script: Path) -> None:
    home = {"ENRICHMENT_HOME": str(demo.home)}
    assert run_command(script, "symbols", "add", "NOSUCH", **home).returncode == 0
    completed = run_command(script, "trigger", "NOSUCH", "--wait", **home)
    assert completed.returncode == 1
    assert "NOSUCH" in completed.stdout
    status, item = demo.request(f"{ROOT}/dashboard/job-status/NOSUCH")
    assert (status, item["status"], item["retry_count"]) == (200, "failed", 0)
    assert run_command(script, "symbols", "remove", "NOSUCH", **home).returncode == 0


@pytest.mark.parametrize(
    ("kind", "reason"), [("unauthorized", "POLYGON_API_KEY"), ("html", "not JSON")]
)
def test_a_vendor_error_is_reported_and_the_bars_stay(
    demo: RunningStack, script: Path, demo_db: Database, kind: str, reason: str
) -> None:
    home = {"ENRICHMENT_HOME": str(demo.home)}
    before = stored_bars(demo_db, "IBM", "bars::text")
    fault = {"ticker": "IBM", "kind": kind} | ({"status": 200} if kind == "html" else {})
    inject_faults(demo.sandbox, fault)
    try:
        completed = run_command(script, "trigger", "IBM", "--wait", **home)
    finally:
        clear_faults(demo.sandbox)
    assert completed.returncode == 1
    assert reason in completed.stdout
    assert run_command(script, "trigger", "IBM", "--wait", **home).returncode == 0
    assert stored_bars(demo_db, "IBM", "bars::text") == before


def test_the_command_line_shows_the_same_values(demo: RunningStack, script: Path) -> None:
    home = {"ENRICHMENT_HOME": str(demo.home)}
    status = json.loads(run_command(script, "status", "--json", **home).stdout)
    assert status["overview"]["scheduler"]["running"] is True
    assert {s["status"] for s in status["series"] if s["active"]} <= {"healthy", "warning"}
    (newest, *_), *_ = [json.loads(run_command(script, "history", "--json", **home).stdout)]
    assert newest["failed"] == 0 or newest["failed"] == 1
    assert "3,270" in run_command(script, "symbols", "list", **home).stdout
    ports = {f"ENRICHMENT_{name.upper()}_PORT": str(port) for name, port in demo.ports.items()}
    doctor = run_command(script, "doctor", **ports, **home)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert all(f"the {name} is running" in doctor.stdout for name in ("API", "dashboard"))
    assert "daily bars of AAPL" in doctor.stdout


def test_pause_cancel_resume_and_prune_commands(demo: RunningStack, script: Path) -> None:
    home = {"ENRICHMENT_HOME": str(demo.home)}
    patterns = json.loads(run_command(script, "breakers", "--json", **home).stdout)
    assert {p["kind"] for p in patterns if p["name"] == "polygon_api" and not p["stale"]} == {
        "circuit_breaker",
        "rate_limiter",
        "retry",
        "bulkhead",
    }
    paused = run_command(script, "pause", "--symbol", "AAPL", "--for", "1h", **home)
    assert paused.returncode == 0, paused.stderr
    job = json.loads(run_command(script, "trigger", "AAPL", "--json", **home).stdout)["job_id"]
    assert run_command(script, "cancel", job, "--reason", "test", **home).returncode == 0
    status, details = demo.request(f"{ROOT}/jobs/{job}")
    assert (status, details["state"], details["counts"]) == (200, "cancelled", {"cancelled": 1})
    assert run_command(script, "resume", "--symbol", "AAPL", **home).returncode == 0
    assert "0 months of logs, 0 jobs" in run_command(script, "db", "prune", **home).stdout


def test_a_port_in_use_is_named(demo: RunningStack, script: Path) -> None:
    completed = run_command(script, "up", f"--api-port={demo.ports['api']}")
    assert completed.returncode == 1
    assert f"port {demo.ports['api']}" in completed.stderr
    assert "--api-port or ENRICHMENT_API_PORT" in completed.stderr
    for part in ("api", "dashboard", "sandbox"):
        single = run_command(script, part, f"--port={demo.ports[part]}")
        assert single.returncode == 1
        *started, error = single.stderr.splitlines()
        assert str(demo.ports[part]) in error
        assert all(" starts" in line for line in started)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_stopping_leaves_nothing_running(
    script: Path, folder: Path, number: signal.Signals
) -> None:
    with running_stack(script, "up", folder, ENRICHMENT_HOME=str(folder / "home")) as up:
        processes = up.processes()
        assert len(processes) >= 6
        assert up.stop(number) == 0, up.output
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert alive == []


def test_a_crashed_database_server_is_restarted(script: Path, folder: Path) -> None:
    with running_stack(script, "up", folder, ENRICHMENT_HOME=str(folder / "home")) as up:
        (before, *_) = (up.home / "postgres" / "postmaster.pid").read_text().splitlines()
        os.kill(int(before), signal.SIGQUIT)
        never = threading.Event()
        for _ in range(300):
            status, _ = up.request("/readyz")
            (after, *_) = (*_lines(up.home / "postgres" / "postmaster.pid"), before)
            if status == 200 and after != before:
                break
            never.wait(0.1)
        assert (status, after != before) == (200, True), up.output
        assert up.stop() == 0


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.exists() else []


def test_killing_it_stops_its_children_too(script: Path, folder: Path) -> None:
    home = {"ENRICHMENT_HOME": str(folder / "home")}
    with running_stack(script, "up", folder, **home) as up:
        children = psutil.Process(up.process.pid).children(recursive=True)
        up.process.kill()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert alive == []
    # The embedded server keeps running; the next command uses it, and stops it when it ends.
    assert run_command(script, "db", "url", **home).returncode == 0
    remaining = [
        p
        for p in psutil.process_iter(["name", "cmdline"])
        if p.info["name"] == "postgres" and str(folder) in " ".join(p.info["cmdline"] or [])
    ]
    _, alive = psutil.wait_procs(remaining, timeout=10)
    assert alive == []
