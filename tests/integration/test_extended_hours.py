"""Stocks with extended hours through the sandbox's Polygon and a worker, and back to regular ones.

The expected bars are the sandbox's five-minute ones, resampled by pandas between 04:00 and four
hours after the close that exchange_calendars has.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, date, datetime, timedelta

import exchange_calendars
import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text

from enrichment.domain.errors import Conflict, InvalidRequest
from enrichment.domain.model import AssetClass, StockSession, Timeframe, TrackedSymbol, Window
from enrichment.domain.symbol_csv import parse_tracked, read_csv
from enrichment.sandbox import create_app, running
from enrichment.sandbox.extended_hours import extended_bars
from enrichment.sandbox.market import Market
from enrichment.services.commands import Commands
from enrichment.services.request_plan import RequestSettings
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.damage import DamageReports
from tests.helpers.api_client import ROOT, api_client, json_body
from tests.helpers.waiting import until
from tests.helpers.worker_in_process import bare_worker

# After the end of daylight saving time and a half day (24 December), while trading after the close
# goes on: it is 17:30 in New York.
NOW = datetime(2025, 12, 30, 22, 30, tzinfo=UTC)
BARS = "/api/v1/data/bars"
ZONE = "America/New_York"
RULES = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
FREQUENCIES = {"5m": "5min", "30m": "30min", "1h": "1h", "4h": "4h"}


def run(db: Database, now: datetime, *vendors: str) -> None:
    """A run of a worker that asks these vendors at that time."""
    job = Commands(db).trigger(actor="test").job_id
    with db.begin() as conn:
        conn.execute(text("DELETE FROM workers"))
    query = text("SELECT state FROM enrichment_jobs WHERE job_id = :job")

    def state() -> str:
        with db.begin() as conn:
            return str(conn.execute(query, {"job": job}).scalar_one())

    heart = Database(db.url.render_as_string(hide_password=False), pool_size=1)
    with (
        running(create_app(clock=lambda: now, anchor=now)) as vendor,
        closing(heart),
        bare_worker(db, heart, vendor, now, threads=2, lease=30.0, stocks=vendors or ("polygon",)),
    ):
        until(lambda: state() not in ("queued", "running"), "the job ends", 120)
    with db.begin() as conn:
        errors = conn.execute(text("SELECT symbol, last_error FROM enrichment_job_items")).all()
    assert state() == "completed", errors


@pytest.fixture(scope="module")
def stored(shared_db: Database) -> Database:
    """A database with SIM1 in extended hours, and SIM2 changed to regular ones and back."""
    commands = Commands(shared_db)
    commands.track(
        [
            parse_tracked("SIM1", "stock", "5m,30m,1h,4h,1d", "extended"),
            parse_tracked("SIM2", "stock", "30m,1h"),
        ],
        actor="test",
    )
    run(shared_db, NOW)
    return shared_db


def rows(db: Database, query: str, **values: object) -> list[tuple[object, ...]]:
    with db.begin() as conn:
        return [tuple(row) for row in conn.execute(text(query), values)]


def bars_of(db: Database, symbol: str, timeframe: str) -> pd.DataFrame:
    """The stored bars by their start in UTC."""
    query = text("SELECT * FROM bars WHERE symbol = :symbol AND timeframe = :tf ORDER BY ts")
    with db.begin() as conn:
        frame = pd.DataFrame(conn.execute(query, {"symbol": symbol, "tf": timeframe}).mappings())
    return frame.set_index(pd.DatetimeIndex(frame["ts"]).tz_convert("UTC"))


def hours() -> pd.DataFrame:
    """Open and close of each session, on New York's clock."""
    schedule = exchange_calendars.get_calendar("XNYS").schedule["2025-08-01":"2025-12-31"]
    return schedule[["open", "close"]].apply(lambda column: column.dt.tz_convert(ZONE))


def traded(symbol: str, first: pd.Timestamp, *, extended: bool) -> pd.DataFrame:
    """The sandbox's five-minute bars in the hours of each session, on New York's clock."""
    series = Market(NOW).series(symbol)
    assert series is not None
    window = Window(first.to_pydatetime() - timedelta(days=3), NOW)
    bars = extended_bars(symbol, series, Timeframe.M5, window, NOW)
    frame = pd.DataFrame({name: getattr(bars, name) for name in RULES})
    frame.index = pd.DatetimeIndex(bars.ts).tz_localize("UTC").tz_convert(ZONE)
    parts = []
    for day, session in hours().iterrows():
        since, until_ = session["open"], session["close"]
        if extended:
            since = pd.Timestamp(day).tz_localize(ZONE) + pd.Timedelta(hours=4)
            until_ = until_ + pd.Timedelta(hours=4)
        parts.append(frame[(frame.index >= since) & (frame.index < until_)])
    return pd.concat(parts)


def resampled(symbol: str, timeframe: str, stored: pd.DataFrame, *, extended: bool) -> pd.DataFrame:
    frame = traded(symbol, stored.index[0], extended=extended).tz_localize(None)
    bars = frame.resample(FREQUENCIES[timeframe], origin="start_day").agg(RULES)
    bars = bars.dropna(subset=["open"]).tz_localize(ZONE).tz_convert("UTC")
    ended = bars.index + pd.Timedelta(FREQUENCIES[timeframe]) <= pd.Timestamp(NOW)
    return bars[ended & (bars.index >= stored.index[0])]


@pytest.mark.parametrize("timeframe", FREQUENCIES)
def test_bars_cover_the_extended_hours_of_each_session(stored: Database, timeframe: str) -> None:
    bars = bars_of(stored, "SIM1", timeframe)
    expected = resampled("SIM1", timeframe, bars, extended=True)
    assert list(bars.index) == list(expected.index)
    np.testing.assert_allclose(bars[list(RULES)], expected, rtol=1e-12)
    local = bars.index.tz_convert(ZONE)
    half_day = bars[local.date == date(2025, 12, 24)].index.tz_convert(ZONE)
    assert half_day[0].hour == 4
    assert half_day[-1].hour == 16
    assert {offset.utcoffset() for offset in local} == {timedelta(hours=-4), timedelta(hours=-5)}


def test_the_regular_bars_are_the_same_in_both(stored: Database) -> None:
    for timeframe in ("5m", "30m"):
        bars = bars_of(stored, "SIM1", timeframe)
        expected = resampled("SIM1", timeframe, bars, extended=False)
        regular = bars.loc[expected.index]
        np.testing.assert_allclose(regular[list(RULES)], expected, rtol=1e-12)


def test_a_session_is_the_local_day(stored: Database) -> None:
    """Trading after the close reaches into the next day of UTC."""
    bars = bars_of(stored, "SIM1", "5m")
    day = bars.index.tz_convert(ZONE).date
    assert (bars.index.date != day).any()
    price = bars["vwap"].fillna((bars["high"] + bars["low"] + bars["close"]) / 3)
    turnover = (price * bars["volume"]).groupby(day).cumsum()
    vwap = turnover / bars["volume"].groupby(day).cumsum()
    np.testing.assert_allclose(bars["session_vwap"], vwap, rtol=1e-9)
    last = bars["close"].groupby(day).last().shift()
    expected = bars["close"].to_numpy() / last.loc[day].to_numpy() - 1
    np.testing.assert_allclose(bars["return_1d"].astype(float), expected, rtol=1e-9, atol=1e-12)


def test_the_series_are_complete_and_healthy(stored: Database) -> None:
    found = rows(
        stored,
        "SELECT symbol, timeframe, status, session FROM enrichment_status"
        " WHERE symbol = 'SIM1' ORDER BY timeframe",
    )
    extended = {(t, "healthy", "regular" if t == "1d" else "extended") for _, t, _, _ in found}
    assert {row[1:] for row in found} == extended
    assert DamageReports(stored).find(["SIM1"], NOW) == []


@pytest.mark.parametrize("timeframe", FREQUENCIES)
def test_each_bar_says_in_which_part_of_the_day_it_lies(stored: Database, timeframe: str) -> None:
    with api_client(stored) as client:
        answer = client.get(f"{BARS}/SIM1?timeframe={timeframe}&columns=session&columns=close")
        daily = json_body(client.get(f"{BARS}/SIM1?timeframe=1d"))
    session = hours()
    for bar in json_body(answer)["bars"]:
        start = pd.Timestamp(bar["ts"]).tz_convert(ZONE)
        day = session.loc[str(start.date())]
        end = start + pd.Timedelta(FREQUENCIES[timeframe])
        expected = "post" if start >= day["close"] else "pre" if end <= day["open"] else "regular"
        assert bar["session"] == expected
    assert "session" not in daily["bars"][0]


def test_a_change_of_the_hours_fetches_the_series_anew(stored: Database) -> None:
    def regular_and_all(timeframe: str) -> tuple[int, int]:
        bars = bars_of(stored, "SIM2", timeframe)
        wide, narrow = (resampled("SIM2", timeframe, bars, extended=e) for e in (True, False))
        return len(narrow), len(wide)

    assert len(bars_of(stored, "SIM2", "30m")) == regular_and_all("30m")[0]
    before = bars_of(stored, "SIM2", "1h")
    commands = Commands(stored)
    timeframes = (Timeframe.M30, Timeframe.H1)
    stock = TrackedSymbol("SIM2", AssetClass.STOCK, timeframes, session=StockSession.EXTENDED)
    commands.change(stock, actor="test")
    run(stored, NOW)
    for timeframe in ("30m", "1h"):
        bars = bars_of(stored, "SIM2", timeframe)
        expected = resampled("SIM2", timeframe, bars, extended=True)
        pd.testing.assert_frame_equal(
            bars[list(RULES)], expected, check_names=False, check_freq=False, rtol=1e-12
        )
    commands.change(TrackedSymbol("SIM2", AssetClass.STOCK, timeframes), actor="test")
    run(stored, NOW + timedelta(minutes=1))
    after = bars_of(stored, "SIM2", "1h")
    pd.testing.assert_frame_equal(after[list(RULES)], before[list(RULES)])
    reasons = rows(stored, "SELECT DISTINCT reason FROM data_corrections WHERE symbol = 'SIM2'")
    assert {reason for (reason,) in reasons} == {"repaired", "withdrawn"}
    status = rows(stored, "SELECT session, status FROM enrichment_status WHERE symbol = 'SIM2'")
    assert set(status) == {("regular", "healthy")}


def test_a_vendor_without_extended_hours_is_refused(stored: Database) -> None:
    commands = Commands(stored, RequestSettings({AssetClass.STOCK: ["yahoo"]}))
    with pytest.raises(Conflict, match="yahoo has no bars of extended hours; add polygon"):
        commands.track([parse_tracked("SIM3", "stock", "5m", "extended")], actor="test")
    commands.track([parse_tracked("SIM3", "stock", "1d", "extended")], actor="test")
    commands.untrack("SIM3", actor="test")
    with pytest.raises(Conflict, match="only US stocks and ETFs have extended hours"):
        commands.track([parse_tracked("SIM3.L", "stock", "5m", "extended")], actor="test")
    with pytest.raises(InvalidRequest, match="unknown session 'night': choose one of regular"):
        parse_tracked("SIM3", "stock", "5m", "night")


def test_a_file_may_name_the_session() -> None:
    parsed = read_csv("symbol,asset_class,timeframes,session\nSIM1,stock,5m,extended\nSIM2,etf,5m,")
    assert [tracked.session for tracked in parsed.symbols] == [StockSession.EXTENDED, None]


def test_the_api_changes_the_session(stored: Database) -> None:
    with api_client(stored) as client:
        url = f"{ROOT}/symbols/SIM1"
        assert json_body(client.get(url))["symbol"]["session"] == "extended"
        assert (
            json_body(client.patch(url, json={"active": True}))["symbol"]["session"] == "extended"
        )
        assert json_body(client.patch(url, json={"session": None}))["symbol"]["session"] is None
        changed = client.patch(url, json={"session": "extended"})
        assert json_body(changed)["symbol"]["session"] == "extended"
        assert client.patch(url, json={"session": "night"}).status_code == 400
