"""Expected bars against exchange_calendars, asked directly, and against known days."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import cache

import exchange_calendars
import numpy as np
import pandas as pd
import pytest

from enrichment.domain import calendars
from enrichment.domain.bars import Timestamps, to_datetime
from enrichment.domain.model import AssetClass, Timeframe

STOCK, CRYPTO = AssetClass.STOCK, AssetClass.CRYPTO


@cache
def xnys() -> exchange_calendars.ExchangeCalendar:
    return exchange_calendars.get_calendar("XNYS", start="1995-01-01", end="2027-12-31")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def starts(asset_class: AssetClass, timeframe: Timeframe, start: str, end: str) -> Timestamps:
    return calendars.bar_starts(asset_class, timeframe, at(start), at(end))


def new_york(ts: Timestamps) -> list[str]:
    local = pd.DatetimeIndex(ts).tz_localize("UTC").tz_convert("America/New_York")
    return [f"{moment:%H:%M}" for moment in local]


def iso(ts: Timestamps) -> list[str]:
    return [str(t)[:16] for t in ts]


def test_daily_sessions_of_thirteen_years() -> None:
    actual = starts(STOCK, Timeframe.D1, "2000-03-01", "2013-03-02")
    assert len(actual) == 3_270
    expected = xnys().sessions_in_range("2000-03-01", "2013-03-01")
    np.testing.assert_array_equal(actual, expected.to_numpy(dtype="datetime64[us]"))


@pytest.mark.parametrize("asset_class", [AssetClass.STOCK, AssetClass.ETF])
@pytest.mark.parametrize("year", [1999, 2009, 2010, 2024, 2026])
def test_daily_sessions_of_a_year(asset_class: AssetClass, year: int) -> None:
    actual = starts(asset_class, Timeframe.D1, f"{year}-01-01", f"{year + 1}-01-01")
    expected = xnys().sessions_in_range(f"{year}-01-01", f"{year}-12-31")
    np.testing.assert_array_equal(actual, expected.to_numpy(dtype="datetime64[us]"))


def test_the_end_is_open() -> None:
    assert iso(starts(STOCK, Timeframe.D1, "2024-01-08", "2024-01-10")) == [
        "2024-01-08T00:00",
        "2024-01-09T00:00",
    ]
    assert len(starts(STOCK, Timeframe.D1, "2024-01-13", "2024-01-16")) == 0
    assert len(starts(CRYPTO, Timeframe.M5, "2024-01-13", "2024-01-13")) == 0


@pytest.mark.parametrize("timeframe", [Timeframe.M5, Timeframe.M15, Timeframe.M30])
def test_intraday_bars_fill_the_sessions(timeframe: Timeframe) -> None:
    actual = starts(STOCK, timeframe, "2024-01-01", "2025-01-01")
    index = xnys().trading_index(
        "2024-01-01", "2024-12-31", timeframe.duration, closed="left", intervals=False
    )
    expected = index.tz_localize(None).to_numpy(dtype="datetime64[us]")
    np.testing.assert_array_equal(actual, expected)


def test_a_half_day_ends_at_one() -> None:
    day = ("2025-11-28", "2025-11-29")
    assert new_york(starts(STOCK, Timeframe.H1, *day)) == ["09:00", "10:00", "11:00", "12:00"]
    fives = new_york(starts(STOCK, Timeframe.M5, *day))
    assert (len(fives), fives[0], fives[-1]) == (42, "09:30", "12:55")
    assert new_york(starts(STOCK, Timeframe.H4, *day)) == ["08:00", "12:00"]


@pytest.mark.parametrize(
    ("friday", "monday", "shift"),
    [("2024-03-08", "2024-03-11", -1), ("2024-11-01", "2024-11-04", 1)],
)
def test_daylight_saving_time_moves_the_session_in_utc(
    friday: str, monday: str, shift: int
) -> None:
    before, after = (starts(STOCK, Timeframe.H1, day, f"{day}T23:59") for day in (friday, monday))
    clock = ["09:00", "10:00", "11:00", "12:00", "13:00", "14:00", "15:00"]
    assert new_york(before) == new_york(after) == clock
    assert after[0] - before[0] == np.timedelta64(3 * 24 + shift, "h")
    assert new_york(starts(STOCK, Timeframe.H4, monday, f"{monday}T23:59")) == ["08:00", "12:00"]


@pytest.mark.parametrize("timeframe", list(Timeframe))
def test_crypto_trades_around_the_clock(timeframe: Timeframe) -> None:
    actual = starts(CRYPTO, timeframe, "2024-01-01", "2024-12-30")
    assert len(actual) == timedelta(days=364) // timeframe.duration
    assert set(np.diff(actual)) == {np.timedelta64(timeframe.duration)}
    assert iso(actual[:1]) == ["2024-01-01T00:00"]
    assert calendars.is_aligned(CRYPTO, timeframe, actual).all()


def test_weekly_bars_start_on_monday_even_if_it_is_a_holiday() -> None:
    actual = starts(STOCK, Timeframe.W1, "2023-12-25", "2024-01-29")
    assert iso(actual) == [
        f"{day}T00:00"
        for day in ("2023-12-25", "2024-01-01", "2024-01-08", "2024-01-15", "2024-01-22")
    ]
    sessions = xnys().sessions_in_range("2010-01-04", "2019-12-29")
    mondays = (sessions - pd.to_timedelta(sessions.day_of_week, unit="D")).unique()
    actual = starts(STOCK, Timeframe.W1, "2010-01-04", "2019-12-30")
    np.testing.assert_array_equal(actual, mondays.to_numpy(dtype="datetime64[us]"))


@pytest.mark.parametrize("timeframe", list(Timeframe))
def test_expected_bars_are_aligned(timeframe: Timeframe) -> None:
    actual = starts(STOCK, timeframe, "2024-01-01", "2025-01-01")
    assert calendars.is_aligned(STOCK, timeframe, actual).all()
    assert not calendars.is_aligned(STOCK, timeframe, actual + np.timedelta64(1, "m")).any()


@pytest.mark.parametrize("symbol", ["VOD.L", "7203.T", "SAP.DE", "RY.TO", "BHP.AX", "NZ.NZ"])
@pytest.mark.parametrize("timeframe", Timeframe)
def test_expected_bars_of_every_exchange_are_aligned(symbol: str, timeframe: Timeframe) -> None:
    market = calendars.market_of(symbol, STOCK)
    window = datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)
    actual = calendars.bar_starts(market, timeframe, *window)
    assert len(actual) > 50
    assert calendars.is_aligned(market, timeframe, actual).all()


@pytest.mark.parametrize(
    ("asset_class", "timeframe", "now", "newest"),
    [
        (STOCK, Timeframe.D1, "2024-01-10T20:59:59", "2024-01-09T00:00"),
        (STOCK, Timeframe.D1, "2024-01-10T21:00:00", "2024-01-10T00:00"),
        (STOCK, Timeframe.D1, "2024-07-10T19:59:59", "2024-07-09T00:00"),
        (STOCK, Timeframe.D1, "2024-07-10T20:00:00", "2024-07-10T00:00"),
        (STOCK, Timeframe.D1, "2025-11-28T17:59:59", "2025-11-26T00:00"),
        (STOCK, Timeframe.D1, "2025-11-28T18:00:00", "2025-11-28T00:00"),
        (STOCK, Timeframe.D1, "2024-01-14T12:00:00", "2024-01-12T00:00"),
        (STOCK, Timeframe.D1, "2024-01-16T12:00:00", "2024-01-12T00:00"),
        (STOCK, Timeframe.W1, "2024-01-12T20:59:59", "2024-01-01T00:00"),
        (STOCK, Timeframe.W1, "2024-01-12T21:00:00", "2024-01-08T00:00"),
        (STOCK, Timeframe.W1, "2024-03-28T20:00:00", "2024-03-25T00:00"),
        (STOCK, Timeframe.H1, "2024-01-14T12:00:00", "2024-01-12T20:00"),
        (STOCK, Timeframe.H1, "2024-01-12T16:59:59", "2024-01-12T15:00"),
        (STOCK, Timeframe.M5, "2025-11-28T23:00:00", "2025-11-28T17:55"),
        (CRYPTO, Timeframe.D1, "2024-01-14T12:00:00", "2024-01-13T00:00"),
        (CRYPTO, Timeframe.W1, "2024-01-14T23:59:59", "2024-01-01T00:00"),
        (CRYPTO, Timeframe.W1, "2024-01-15T00:00:00", "2024-01-08T00:00"),
        (CRYPTO, Timeframe.M5, "2024-01-14T12:03:00", "2024-01-14T11:55"),
    ],
)
def test_the_newest_complete_bar(
    asset_class: AssetClass, timeframe: Timeframe, now: str, newest: str
) -> None:
    moment, ts = at(now), np.array([newest], dtype="datetime64[us]")
    assert calendars.last_complete(asset_class, timeframe, moment) == ts[0]
    assert calendars.is_complete(asset_class, timeframe, ts, moment).all()
    later = calendars.bar_starts(
        asset_class, timeframe, to_datetime(ts[0] + np.timedelta64(1, "s")), moment
    )
    assert not calendars.is_complete(asset_class, timeframe, later, moment).any()


@pytest.mark.parametrize(
    ("asset_class", "timeframe", "newest", "now", "behind"),
    [
        (STOCK, Timeframe.D1, "2024-01-12", "2024-01-15T22:00", 0),
        (STOCK, Timeframe.D1, "2024-01-12", "2024-01-16T20:59", 0),
        (STOCK, Timeframe.D1, "2024-01-12", "2024-01-16T21:00", 1),
        (STOCK, Timeframe.D1, "2024-01-08", "2024-01-12T22:00", 4),
        (STOCK, Timeframe.W1, "2024-01-01", "2024-01-12T20:00", 0),
        (STOCK, Timeframe.W1, "2024-01-01", "2024-01-13T00:00", 1),
        (STOCK, Timeframe.H1, "2024-01-12T20:00", "2024-01-15T22:00", 0),
        (STOCK, Timeframe.H1, "2024-01-11T20:00", "2024-01-12T20:59", 0),
        (STOCK, Timeframe.H1, "2024-01-11T20:00", "2024-01-12T21:00", 1),
        (STOCK, Timeframe.H1, "2024-01-09T00:00", "2024-01-09T22:00", 1),
        (CRYPTO, Timeframe.D1, "2024-01-12", "2024-01-13T23:59", 0),
        (CRYPTO, Timeframe.D1, "2024-01-12", "2024-01-14T00:00", 1),
        (CRYPTO, Timeframe.H1, "2024-01-12T05:00", "2024-01-13T23:00", 0),
        (CRYPTO, Timeframe.H1, "2024-01-12T05:00", "2024-01-14T00:00", 1),
    ],
)
def test_sessions_behind(
    asset_class: AssetClass, timeframe: Timeframe, newest: str, now: str, behind: int
) -> None:
    actual = calendars.sessions_behind(asset_class, timeframe, at(newest), at(now))
    assert actual == behind


@pytest.mark.parametrize("asset_class", list(AssetClass))
def test_a_series_without_bars_is_far_behind(asset_class: AssetClass) -> None:
    assert calendars.sessions_behind(asset_class, Timeframe.D1, None, at("2024-01-12")) > 30


def test_canonical_starts_are_session_dates() -> None:
    midnight = np.array(["2024-01-10T05:00", "2024-07-10T04:00"], dtype="datetime64[us]")
    dates = np.array(["2024-01-10", "2024-07-10"], dtype="datetime64[us]")
    np.testing.assert_array_equal(calendars.canonical(STOCK, Timeframe.D1, midnight), dates)
    np.testing.assert_array_equal(calendars.local_midnights(STOCK, dates), midnight)
    sunday = np.array(["2024-01-07T05:00"], dtype="datetime64[us]")
    monday = np.array(["2024-01-08"], dtype="datetime64[us]")
    np.testing.assert_array_equal(calendars.canonical(STOCK, Timeframe.W1, sunday), monday)
    np.testing.assert_array_equal(calendars.canonical(CRYPTO, Timeframe.H1, midnight), midnight)


_PRINT = """
from datetime import UTC, datetime
from enrichment.domain.calendars import bar_starts, last_complete
from enrichment.domain.model import AssetClass, Timeframe
start, end = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 4, 1, tzinfo=UTC)
for asset_class in AssetClass:
    for timeframe in Timeframe:
        print(bar_starts(asset_class, timeframe, start, end).tolist())
        print(last_complete(asset_class, timeframe, end))
"""


def test_the_local_time_zone_has_no_effect() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", _PRINT],
            env={**os.environ, "TZ": zone},
            capture_output=True,
            check=True,
        ).stdout
        for zone in ("Pacific/Kiritimati", "America/Los_Angeles")
    }
    assert len(printed) == 1
