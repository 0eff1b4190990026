"""Quality reports and flags by the command line, on the running demo."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest

from enrichment.warehouse.database import Database
from tests.helpers.recorded_series import DAILY_STOCKS
from tests.helpers.running_stack import RunningStack, run_command, stored_bars
from tests.helpers.vendor_faults import clear_faults, inject_faults

SPLITS = {"AAPL": ["2000-06-21", "2005-02-28"], "MSFT": ["2003-02-18"]}
CRASH = "2000-09-29"


class DemoTerminal:
    """The command line on the data of the running demo."""

    def __init__(self, demo: RunningStack, script: Any) -> None:
        self.demo, self.script = demo, script

    def run(self, *arguments: str) -> str:
        result = run_command(self.script, *arguments, ENRICHMENT_HOME=str(self.demo.home))
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    def quality(self, symbol: str) -> dict[str, Any]:
        (series,) = json.loads(self.run("quality", symbol, "--json"))["series"]
        assert isinstance(series, dict)
        return series

    @contextmanager
    def fault(self, **fault: Any) -> Iterator[None]:
        """Inject a fault into the sandbox's answers within the block."""
        inject_faults(self.demo.sandbox, fault)
        try:
            yield
        finally:
            clear_faults(self.demo.sandbox)


@pytest.fixture
def terminal(demo: RunningStack, script: Any) -> DemoTerminal:
    return DemoTerminal(demo, script)


def recorded_days(symbol: str) -> list[str]:
    with gzip.open(DAILY_STOCKS, "rt") as file:
        return [row["date"] for row in csv.DictReader(file) if row["symbol"] == symbol]


def recorded_day(db: Database, symbol: str, timestamp: str) -> str:
    """The recorded date of a replayed bar: the sandbox shifts dates by whole sessions."""
    times = [row[0] for row in stored_bars(db, symbol, "ts")]
    return recorded_days(symbol)[times.index(datetime.fromisoformat(timestamp))]


def test_the_recorded_splits_are_known_and_only_the_crash_is_flagged(
    terminal: DemoTerminal, demo_db: Database
) -> None:
    for symbol in ("AAPL", "IBM", "MSFT", "GOOG", "FB"):
        series = terminal.quality(symbol)
        assert series["gaps"] == []
        assert series["quarantined"] == []
        flagged = {
            check: [
                recorded_day(demo_db, symbol, flag["timestamp"])
                for flag in series["flags"]
                if flag["check"] == check
            ]
            for check in ("split", "outlier")
        }
        assert flagged["split"] == []
        actions = json.loads(terminal.run("actions", "list", symbol, "--json", "--limit", "500"))
        known = [a["effective_date"] for a in actions if a["kind"] == "split" and a["applies"]]
        days = [recorded_day(demo_db, symbol, f"{day}T00:00:00+00:00") for day in sorted(known)]
        assert days == SPLITS.get(symbol, [])
        assert symbol != "AAPL" or flagged["outlier"] == [CRASH]
        lost = sum(deduction["points"] for deduction in series["deductions"])
        assert series["score"] == pytest.approx(1 - lost, abs=1e-12)


def test_confirming_a_flag_raises_the_score(terminal: DemoTerminal, demo_db: Database) -> None:
    report = terminal.run("quality", "AAPL")
    assert "robust deviations away from the usual" in report
    assert "without it" in report
    (crash,) = [f for f in terminal.quality("AAPL")["flags"] if f["check"] == "outlier"]
    before = terminal.quality("AAPL")["score"]
    confirmation = ("confirm", "AAPL", crash["timestamp"], "--check", "outlier")
    terminal.run(*confirmation, "--reason", "profit warning of that evening")
    after = terminal.quality("AAPL")
    assert after["score"] > before
    assert "outlier" not in [flag["check"] for flag in after["flags"]]
    assert "profit warning" in terminal.run("quality", "AAPL")
    repeated = run_command(
        terminal.script, *confirmation, "--reason", "x", ENRICHMENT_HOME=str(terminal.demo.home)
    )
    assert repeated.returncode == 1
    assert "no flag 'outlier'" in repeated.stderr


def test_a_gap_is_reported_and_filled_by_the_next_run(
    terminal: DemoTerminal, demo_db: Database
) -> None:
    days = [row[0] for row in stored_bars(demo_db, "AAPL", "ts")][2000:2003]
    terminal.run("symbols", "add", "SIM70")
    with terminal.fault(
        ticker="SIM70", kind="missing", bars=[f"{day:%Y-%m-%dT%H:%M:%SZ}" for day in days]
    ):
        terminal.run("trigger", "SIM70", "--wait")
        before = terminal.quality("SIM70")
        assert [datetime.fromisoformat(gap["timestamp"]) for gap in before["gaps"]] == days
        assert {gap["cause"] for gap in before["gaps"]} == {"unexplained"}
        assert before["components"]["completeness"] < 1
        assert "(3 bars): unexplained, 1 attempt" in terminal.run("quality", "SIM70")
    terminal.run("trigger", "SIM70", "--wait")
    after = terminal.quality("SIM70")
    assert (after["gaps"], after["score"]) == ([], 1.0)
    assert after["bars"] == before["bars"] + 3
    terminal.run("symbols", "remove", "SIM70")


def test_a_restated_history_is_rebased(terminal: DemoTerminal, demo_db: Database) -> None:
    terminal.run("symbols", "add", "SIM71")
    terminal.run("trigger", "SIM71", "--wait")
    before = stored_bars(demo_db, "SIM71", "close")
    with terminal.fault(ticker="SIM71", kind="restated", n=100_000, factor=0.5, columns="all"):
        terminal.run("trigger", "SIM71", "--wait")
        assert stored_bars(demo_db, "SIM71", "close") == [(close / 2,) for (close,) in before]
        (correction,) = terminal.quality("SIM71")["corrections"]
        assert (correction["reason"], correction["new_value"]) == ("rebased", 0.5)
        assert "prices × 0.5" in terminal.run("quality", "SIM71")
    terminal.run("trigger", "SIM71", "--wait")
    assert stored_bars(demo_db, "SIM71", "close") == before
    terminal.run("symbols", "remove", "SIM71")
