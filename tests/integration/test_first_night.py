"""The nights of a free plan: 5 requests a minute, the real worker, Postgres, default settings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import exchange_calendars
import pandas as pd
import pytest

from enrichment.sandbox.faults import Fault
from enrichment.warehouse.database import Database
from tests.helpers.free_plan import FreePlanNights, free_plan_nights
from tests.helpers.virtual_time import START

SYMBOLS = [f"SIM{n}" for n in range(1, 13)]
FIRST_NIGHT, LATER_NIGHT = 6, 2  # requests of a symbol: a page of days, five pages of half-hours
SERIES = """
SELECT symbol, timeframe, count(*), min(ts), max(ts), (
    SELECT string_agg(DISTINCT source, ',') FROM enrichment_status s
    WHERE s.symbol = b.symbol AND s.timeframe = b.timeframe)
FROM bars b GROUP BY symbol, timeframe ORDER BY symbol, timeframe
"""


def expected_bars(now: datetime) -> dict[str, int]:
    """Bars of a year that have ended by then, on New York's clock."""
    calendar = exchange_calendars.get_calendar("XNYS", start="2024-01-01", end="2027-01-01")
    first = pd.Timestamp((now - timedelta(days=365)).date())
    hours = days = 0
    for label in calendar.sessions_in_range(first, pd.Timestamp(now.date())):
        opens, closes = calendar.session_open_close(label)
        if closes <= pd.Timestamp(now):
            days += 1
            hours += len(pd.date_range(opens.floor("1h"), closes, freq="1h", inclusive="left"))
    return {"1d": days, "1h": hours}


def assert_complete(nights: FreePlanNights) -> None:
    """Every series has all bars of a year, from the first vendor."""
    expected = expected_bars(START)
    rows = nights.rows(SERIES)
    assert len(rows) == 2 * len(SYMBOLS)
    for symbol, timeframe, bars, first, _, source in rows:
        assert (source, first <= START.replace(tzinfo=UTC) - timedelta(days=360)) == (
            "polygon",
            True,
        ), (symbol, timeframe, bars, first, source)
        assert bars >= expected[timeframe], (symbol, timeframe, bars, first)
    assert nights.rows("SELECT count(*) FROM bar_gaps WHERE resolved_at IS NULL") == [(0,)]


@pytest.mark.parametrize("threads", [5, 10])
def test_the_first_night_is_complete_from_the_first_vendor(db: Database, threads: int) -> None:
    with free_plan_nights(db, SYMBOLS, threads=threads) as nights:
        outcomes = nights.run()
        assert_complete(nights)
        assert set(outcomes) == {"ok"}
        fallbacks = "SELECT DISTINCT source FROM enrichment_fetch_log"
        assert nights.rows(fallbacks) == [("polygon",)]
        asked = nights.rows("SELECT sum(requests) FROM enrichment_fetch_log")
        assert asked == [(outcomes["ok"],)]  # none was asked twice
        assert outcomes["ok"] == FIRST_NIGHT * len(SYMBOLS)
        nights.next_night()
        assert nights.run() == {"ok": LATER_NIGHT * len(SYMBOLS)}


def test_after_an_outage_in_the_first_night_it_is_complete_two_nights_later(db: Database) -> None:
    with free_plan_nights(db, SYMBOLS, threads=5) as nights:
        nights.faults.add([Fault("*", "server_error", vendor="polygon", status=503)])
        first = nights.run()
        assert nights.rows("SELECT DISTINCT source FROM enrichment_status") == [("yahoo",)]
        nights.faults.clear()
        for _ in range(2):
            nights.next_night()
            outcomes = nights.run()
        assert_complete(nights)
        assert first["server_error"] > 0
        assert set(outcomes) == {"ok"}
