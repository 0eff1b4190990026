"""`enrichment doctor --data` and `enrichment repair`, as an operator runs them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import text

from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database

# A session of hours, and a flat row at its close.
HOURS = """
INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume)
SELECT 'AAPL', '1h', ts, 10, 11, 9, 10, CASE WHEN ts < '2026-03-17T20:00Z' THEN 5 ELSE 0 END
FROM generate_series(timestamptz '2026-03-17T13:00Z', '2026-03-17T20:00Z', '1 hour') ts
"""
STATUS = """
INSERT INTO enrichment_status (symbol, timeframe, status, bars, first_ts, last_ts, source)
SELECT symbol, timeframe, 'healthy', count(*), min(ts), max(ts), 'polygon' FROM bars GROUP BY 1, 2
"""


class Console:
    def __init__(self, script: Path, db: Database, home: Path) -> None:
        self._script, self._db, self._home = script, db, home

    def run(self, *arguments: str, answers: str = "") -> subprocess.CompletedProcess[str]:
        url = self._db.url.render_as_string(hide_password=False)
        own = {"ENRICHMENT_HOME": str(self._home), "DATABASE_URL": url, "COLUMNS": "200"}
        return subprocess.run(
            [str(self._script), *arguments],
            env={**os.environ, **own},
            cwd=self._home,
            input=answers,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def console(script: Path, db: Database, tmp_path: Path) -> Console:
    Commands(db).track([parse_tracked("AAPL", "stock", "1h")], actor="test")
    return Console(script, db, tmp_path)


def damage(db: Database) -> None:
    with db.begin() as conn:
        conn.execute(text(HOURS))
        conn.execute(text(STATUS))


def repairs(db: Database) -> list[tuple[str, str]]:
    query = "SELECT actor, reason FROM operator_actions WHERE action = 'repair'"
    with db.begin() as conn:
        return [(row.actor, row.reason) for row in conn.execute(text(query))]


def test_nothing_is_found_in_an_empty_warehouse(console: Console) -> None:
    found = console.run("doctor", "--data")
    assert (found.returncode, found.stdout) == (0, "✓ no damaged series found\n")
    assert console.run("repair", "--all", "--dry-run").stdout == "nothing to repair\n"


def test_damage_is_listed_and_repaired_when_confirmed(console: Console, db: Database) -> None:
    damage(db)
    found = console.run("doctor", "--data", "--json")
    assert found.returncode == 1
    (finding,) = json.loads(found.stdout)["findings"]
    assert (finding["kind"], finding["symbol"], finding["timeframe"]) == (
        "after_close",
        "AAPL",
        "1h",
    )
    assert (finding["first"], finding["count"]) == ("2026-03-17T20:00:00Z", 1)
    assert "20:00 UTC" in finding["example"]
    assert "AAPL 1h after_close" in console.run("doctor", "--data").stdout

    preview = console.run("repair", "AAPL", "--dry-run")
    assert (preview.returncode, "from polygon, 1 requests" in preview.stdout) == (0, True)
    assert console.run("repair", "AAPL", answers="n\n").returncode == 1
    assert console.run("repair", "AAPL", "--yes").returncode == 1  # without a reason
    assert repairs(db) == []
    assert console.run("repair", "AAPL", answers="y\nrows at the close\n").returncode == 0
    ((actor, reason),) = repairs(db)
    assert (actor.startswith("cli:"), reason) == (True, "rows at the close")
    again = console.run("repair", "--all", "--yes", "--reason", "again")
    assert (again.returncode, "repairs already" in again.stderr) == (1, True)
