"""What an analyst is told of the data: on the running demo, by the command line."""

from __future__ import annotations

import csv
import gzip
import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import pytest

from enrichment.warehouse.database import Database
from tests.helpers.recorded_series import DAILY_STOCKS
from tests.helpers.running_stack import RunningStack, run_command, stored_bars

SPLITS = {"AAPL": ["2000-06-21", "2005-02-28"], "MSFT": ["2003-02-18"]}
CRASH = "2000-09-29"


class Analyst:
    """Somebody with a terminal beside the running demo."""

    def __init__(self, demo: RunningStack, script: Any) -> None:
        self.demo, self.script = demo, script

    def types(self, *words: str) -> str:
        done = run_command(self.script, *words, ENRICHMENT_HOME=str(self.demo.home))
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def quality(self, symbol: str) -> dict[str, Any]:
        (series,) = json.loads(self.types("quality", symbol, "--json"))["series"]
        assert isinstance(series, dict)
        return series

    @contextmanager
    def fault(self, **fault: Any) -> Iterator[None]:
        """The vendor does this to its answers for as long as the block."""
        faults = f"http://127.0.0.1:{self.demo.ports['sandbox']}/_sandbox/faults"
        body = json.dumps([fault]).encode()
        headers = {"Content-Type": "application/json"}
        posted = urllib.request.Request(faults, data=body, headers=headers, method="POST")
        urllib.request.urlopen(posted, timeout=10).close()
        try:
            yield
        finally:
            cleared = urllib.request.Request(faults, method="DELETE")
            urllib.request.urlopen(cleared, timeout=10).close()


@pytest.fixture
def analyst(demo: RunningStack, script: Any) -> Analyst:
    return Analyst(demo, script)


def recorded_days(symbol: str) -> list[str]:
    with gzip.open(DAILY_STOCKS, "rt") as file:
        return [row["date"] for row in csv.DictReader(file) if row["symbol"] == symbol]


def recorded_day(db: Database, symbol: str, timestamp: str) -> str:
    """The recorded date of a replayed bar: the sandbox shifts dates by whole sessions."""
    moments = [row[0] for row in stored_bars(db, symbol, "ts")]
    return recorded_days(symbol)[moments.index(datetime.fromisoformat(timestamp))]


def test_exactly_the_recorded_splits_are_flagged(analyst: Analyst, demo_db: Database) -> None:
    for symbol in ("AAPL", "IBM", "MSFT", "GOOG", "FB"):
        series = analyst.quality(symbol)
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
        assert flagged["split"] == SPLITS.get(symbol, [])
        assert symbol != "AAPL" or flagged["outlier"] == [CRASH]
        lost = sum(deduction["points"] for deduction in series["deductions"])
        assert series["score"] == pytest.approx(1 - lost, abs=1e-12)


def test_a_person_reads_why_and_confirms_a_real_move(analyst: Analyst, demo_db: Database) -> None:
    said = analyst.types("quality", "AAPL")
    assert "looks like a split of 2 for 1" in said
    assert "without it" in said
    (crash,) = [f for f in analyst.quality("AAPL")["flags"] if f["check"] == "outlier"]
    before = analyst.quality("AAPL")["score"]
    told = ("confirm", "AAPL", crash["timestamp"], "--check", "outlier")
    analyst.types(*told, "--reason", "profit warning of that evening")
    after = analyst.quality("AAPL")
    assert after["score"] > before
    assert "outlier" not in [flag["check"] for flag in after["flags"]]
    assert "profit warning" in analyst.types("quality", "AAPL")
    again = run_command(
        analyst.script, *told, "--reason", "x", ENRICHMENT_HOME=str(analyst.demo.home)
    )
    assert again.returncode == 1
    assert "no flag 'outlier'" in again.stderr


def test_a_hole_of_the_vendor_is_named_and_filled_by_the_next_run(
    analyst: Analyst, demo_db: Database
) -> None:
    days = [row[0] for row in stored_bars(demo_db, "AAPL", "ts")][2000:2003]
    analyst.types("symbols", "add", "SIM70")
    with analyst.fault(
        ticker="SIM70", kind="missing", bars=[f"{day:%Y-%m-%dT%H:%M:%SZ}" for day in days]
    ):
        analyst.types("trigger", "SIM70", "--wait")
        found = analyst.quality("SIM70")
        assert [datetime.fromisoformat(gap["timestamp"]) for gap in found["gaps"]] == days
        assert {gap["cause"] for gap in found["gaps"]} == {"unexplained"}
        assert found["components"]["completeness"] < 1
        assert "(3 bars): unexplained, asked for once" in analyst.types("quality", "SIM70")
    analyst.types("trigger", "SIM70", "--wait")
    healed = analyst.quality("SIM70")
    assert (healed["gaps"], healed["score"]) == ([], 1.0)
    assert healed["bars"] == found["bars"] + 3
    analyst.types("symbols", "remove", "SIM70")


def test_a_history_on_another_basis_is_fetched_again(analyst: Analyst, demo_db: Database) -> None:
    analyst.types("symbols", "add", "SIM71")
    analyst.types("trigger", "SIM71", "--wait")
    before = stored_bars(demo_db, "SIM71", "close")
    with analyst.fault(ticker="SIM71", kind="restated", n=100_000, factor=0.5, columns="all"):
        analyst.types("trigger", "SIM71", "--wait")
        assert stored_bars(demo_db, "SIM71", "close") == [(close / 2,) for (close,) in before]
        (correction,) = analyst.quality("SIM71")["corrections"]
        assert (correction["reason"], correction["new_value"]) == ("rebased", 0.5)
        assert "prices × 0.5" in analyst.types("quality", "SIM71")
    analyst.types("trigger", "SIM71", "--wait")
    assert stored_bars(demo_db, "SIM71", "close") == before
    analyst.types("symbols", "remove", "SIM71")
