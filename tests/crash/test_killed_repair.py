"""A worker killed while it repairs: the next one continues, and every bar is replaced once."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from enrichment.services.commands import Commands
from enrichment.warehouse.read_models.damage import DamageReports
from tests.helpers.crash_harness import CrashHarness, SeriesFingerprints, fingerprints

SYMBOLS = ("X:SIM1USD", "X:SIM2USD")
TIMEFRAMES = ("4h", "1d")
LIVE_ROWS = """
INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume)
SELECT symbol, timeframe, max(ts) - interval '10 days' + interval '17 minutes', 1, 1, 1, 1, 0
FROM bars GROUP BY symbol, timeframe
"""
WRONG_BARS = """
UPDATE bars SET close = low WHERE ts = (SELECT max(ts) - interval '11 days' FROM bars b
    WHERE (b.symbol, b.timeframe) = (bars.symbol, bars.timeframe))
"""


@pytest.mark.parametrize("step", ["claimed", "fetched", "written", "before_commit"])
def test_a_killed_repair_is_continued(
    harness: CrashHarness, undisturbed: SeriesFingerprints, step: str
) -> None:
    _fill(harness)
    with harness.db.begin() as conn:
        for statement in (LIVE_ROWS, WRONG_BARS):
            conn.execute(text(statement))
        conn.execute(text("UPDATE enrichment_status SET bars = bars + 1"))
    assert len(DamageReports(harness.db).find(now=harness.now)) == 4

    job = Commands(harness.db).repair(actor="test", reason="live rows").job_id
    killed = harness.start("killed", step=step)
    killed.wait_until_stopped()
    killed.kill()
    harness.start("next")
    harness.until_closed(job)

    assert DamageReports(harness.db).find(now=harness.now) == []
    series = {(symbol, timeframe) for symbol in SYMBOLS for timeframe in TIMEFRAMES}
    counts = {key: fingerprint[0] for key, fingerprint in undisturbed.items() if key in series}
    assert {key: count for key, (count, _) in fingerprints(harness.db).items()} == counts
    assert counts == {
        (symbol, timeframe): bars
        for symbol, timeframe, bars in harness.rows(
            "SELECT symbol, timeframe, bars FROM enrichment_status"
        )
    }
    for table in ("bar_versions", "data_corrections WHERE field IN ('bars', 'close')"):
        replaced = harness.rows(f"SELECT symbol, timeframe, count(*) FROM {table} GROUP BY 1, 2")
        assert sorted(replaced) == sorted((*key, 2) for key in series)
    assert harness.rows("SELECT state FROM enrichment_jobs WHERE job_id = :job", job=job) == [
        ("completed",)
    ]


def _fill(harness: CrashHarness) -> None:
    job = harness.trigger(SYMBOLS, ",".join(TIMEFRAMES))
    worker = harness.start("filling")
    harness.until_closed(job)
    worker.terminate()
