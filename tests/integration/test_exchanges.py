"""Stocks of other exchanges through Yahoo and a worker: each by its own calendar and currency.

The expected bars are the sandbox's five-minute ones, resampled by pandas on the sessions of
exchange_calendars.
"""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime

import exchange_calendars
import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text

from enrichment.domain.damage import DamageKind
from enrichment.domain.model import Timeframe, Window
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.sandbox import create_app, running
from enrichment.sandbox.market import Market
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models import damage
from enrichment.warehouse.read_models.damage import DamageReports
from enrichment.warehouse.read_models.facade import ReadModels
from tests.helpers.dashboard_pages import open_page, page_text
from tests.helpers.waiting import until
from tests.helpers.worker_in_process import bare_worker

# Before and after the clocks change in Toronto (8 March), Europe (29 March) and Sydney (5 April);
# at the second one London, Frankfurt and Toronto have a session that has not ended.
NIGHTS = (datetime(2026, 3, 6, 22, 30, tzinfo=UTC), datetime(2026, 4, 14, 12, 0, tzinfo=UTC))
EXCHANGES = {
    "SIM1.L": ("XLON", "Europe/London", "GBp"),
    "SIM1.T": ("XTKS", "Asia/Tokyo", "JPY"),
    "SIM1.DE": ("XETR", "Europe/Berlin", "EUR"),
    "SIM1.TO": ("XTSE", "America/Toronto", "CAD"),
    "SIM1.AX": ("XASX", "Australia/Sydney", "AUD"),
}
RULES = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
NOISE = 1e-6  # Yahoo sends prices as float32
HOURS = {"30m": "30min", "1h": "1h"}


@pytest.fixture(scope="module")
def stored(shared_db: Database) -> Database:
    """A database after both nights."""
    commands = Commands(shared_db)
    symbols = [parse_tracked(name, "stock", "30m,1h,1d,1w") for name in EXCHANGES]
    commands.track(symbols, actor="test")
    for night in NIGHTS:
        run(shared_db, night)
    return shared_db


def run(db: Database, now: datetime) -> None:
    """A run of a worker that asks Yahoo at that time."""
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
        bare_worker(db, heart, vendor, now, threads=2, lease=30.0, stocks=("yahoo",)),
    ):
        until(lambda: state() not in ("queued", "running"), "the job ends", 120)
    with db.begin() as conn:
        errors = conn.execute(text("SELECT symbol, last_error FROM enrichment_job_items")).all()
    assert state() == "completed", errors


def bars_of(db: Database, symbol: str, timeframe: str) -> pd.DataFrame:
    """The stored bars by their start in UTC."""
    query = text("SELECT * FROM bars WHERE symbol = :symbol AND timeframe = :tf ORDER BY ts")
    with db.begin() as conn:
        rows = conn.execute(query, {"symbol": symbol, "tf": timeframe})
        frame = pd.DataFrame(rows.mappings().all())
    return frame.set_index(pd.DatetimeIndex(frame["ts"]).tz_convert("UTC"))


def five_minutes(symbol: str) -> pd.DataFrame:
    """The sandbox's bars on the exchange's clock, until the second night."""
    series = Market(NIGHTS[-1]).series(symbol)
    assert series is not None
    bars = series.bars(
        Timeframe.M5, Window(datetime(2025, 10, 1, tzinfo=UTC), NIGHTS[-1]), NIGHTS[-1]
    )
    frame = pd.DataFrame({name: getattr(bars, name) for name in RULES})
    return frame.set_index(pd.DatetimeIndex(bars.ts).tz_localize("UTC"))


def half_hours(symbol: str, first: pd.Timestamp) -> pd.DatetimeIndex:
    """The starts of half-hours of sessions from `first` on that have ended."""
    mic = EXCHANGES[symbol][0]
    schedule = exchange_calendars.get_calendar(mic).schedule["2025-10-01":"2026-04-20"]
    starts = []
    for row in schedule.itertuples():
        bounds = [row.open, row.break_start, row.break_end, row.close]
        parts = [bounds] if pd.isna(row.break_start) else [bounds[:2], bounds[2:]]
        for part in parts:
            starts += list(pd.date_range(part[0], part[-1], freq="30min", inclusive="left"))
    index = pd.DatetimeIndex(starts)
    return index[(index >= first) & (index + pd.Timedelta(minutes=30) <= NIGHTS[-1])]


@pytest.mark.parametrize("symbol", EXCHANGES)
def test_every_series_is_complete_and_healthy(stored: Database, symbol: str) -> None:
    with stored.begin() as conn:
        rows = conn.execute(
            text(
                "SELECT timeframe, status, quality_score, reasons, bars FROM enrichment_status"
                " WHERE symbol = :symbol"
            ),
            {"symbol": symbol},
        ).all()
        gaps = conn.execute(text("SELECT * FROM bar_gaps WHERE symbol = :s"), {"s": symbol}).all()
    assert {row.timeframe for row in rows} == {"30m", "1h", "1d", "1w"}
    assert {(r.timeframe, r.status, r.quality_score) for r in rows} == {
        (tf, "healthy", 1.0) for tf in ("30m", "1h", "1d", "1w")
    }, rows
    assert gaps == []


@pytest.mark.parametrize("symbol", EXCHANGES)
def test_days_and_weeks_are_those_of_the_exchange(stored: Database, symbol: str) -> None:
    mic, zone, _ = EXCHANGES[symbol]
    days = bars_of(stored, symbol, "1d")
    calendar = exchange_calendars.get_calendar(mic)
    schedule = calendar.schedule["2025-10-01":"2026-04-20"]
    ended = schedule.index[schedule["close"] <= NIGHTS[-1]]
    expected = ended[ended >= days.index[0].tz_localize(None)]
    assert days.index.tz_localize(None).tolist() == expected.tolist()
    assert str(days.index[-1].date()) == ("2026-04-14" if mic in ("XTKS", "XASX") else "2026-04-13")
    local = five_minutes(symbol).tz_convert(zone)
    resampled = local.groupby(local.index.date).agg(RULES).loc[[d.date() for d in expected]]
    for name in ("open", "high", "low", "close"):
        np.testing.assert_allclose(days[name], resampled[name], rtol=NOISE)
    weeks = bars_of(stored, symbol, "1w")
    by_week = days.groupby(days.index.tz_localize(None).to_period("W-SUN").start_time).agg(RULES)
    assert weeks.index.tz_localize(None).isin(by_week.index).all()
    for name in RULES:
        np.testing.assert_allclose(
            weeks[name], by_week.loc[weeks.index.tz_localize(None), name], rtol=NOISE
        )
    assert weeks.index[-1] == pd.Timestamp("2026-04-06", tz="UTC")


@pytest.mark.parametrize("symbol", EXCHANGES)
@pytest.mark.parametrize("timeframe", HOURS)
def test_intraday_bars_follow_the_local_sessions(
    stored: Database, symbol: str, timeframe: str
) -> None:
    zone = EXCHANGES[symbol][1]
    bars = bars_of(stored, symbol, timeframe)
    parts = half_hours(symbol, bars.index[0]).tz_convert(zone)
    starts = parts.floor(HOURS[timeframe], ambiguous=False).unique().tz_convert("UTC")
    ended = starts[starts + pd.Timedelta(HOURS[timeframe]) <= NIGHTS[-1]]
    assert bars.index.tolist() == ended.tolist()
    assert (bars.index[-1] - bars.index[0]).days > 55
    local = five_minutes(symbol).tz_convert(zone)
    resampled = local.groupby(local.index.floor(HOURS[timeframe])).agg(RULES)
    resampled = resampled.loc[bars.index.tz_convert(zone)]
    for name in ("open", "high", "low", "close"):
        np.testing.assert_allclose(bars[name], resampled[name], rtol=NOISE)
    np.testing.assert_allclose(bars["volume"], resampled["volume"])

    day = bars.index.tz_convert(zone).date
    typical = (bars["high"] + bars["low"] + bars["close"]) / 3
    traded = (typical * bars["volume"]).groupby(day).cumsum()
    vwap = traded / bars["volume"].groupby(day).cumsum()
    np.testing.assert_allclose(bars["session_vwap"], vwap, rtol=1e-9)
    previous = bars["close"].groupby(day).last().shift()
    expected = bars["close"] / previous.reindex(day).to_numpy() - 1
    np.testing.assert_allclose(bars["return_1d"], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("main_module_kept")
@pytest.mark.parametrize("symbol", EXCHANGES)
def test_readers_use_the_exchange(
    stored: Database, symbol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ReadModels(stored)
    details = reader.symbols.find(symbol)
    assert details is not None
    assert (details.currency, details.simulated) == (EXCHANGES[symbol][2], True)
    for timeframe in (Timeframe.M30, Timeframe.D1, Timeframe.W1):
        candles = reader.prices.candles(
            symbol, timeframe, datetime(2026, 1, 1, tzinfo=UTC), NIGHTS[-1]
        )
        assert len(candles.frame) > 10
        assert len(candles.missing) == 0
    url = stored.url.render_as_string(hide_password=False)
    page = open_page("symbols", url, monkeypatch, search=symbol)
    assert f"{EXCHANGES[symbol][2]} adjusted for splits" in page_text(page)


def test_nothing_of_them_is_damaged(stored: Database) -> None:
    assert DamageReports(stored).find(now=NIGHTS[-1]) == []


MOVED = """
UPDATE bars SET ts = ts + CAST(:by AS interval)
WHERE (symbol, timeframe, ts) = (:symbol, :timeframe, :ts)
"""


@pytest.mark.parametrize(
    ("timeframe", "by", "kind"),
    [
        ("30m", "-30 minutes", DamageKind.OUTSIDE_SESSION),
        ("30m", "-10 minutes", DamageKind.OFF_GRID),
        ("1h", "10 hours", DamageKind.AFTER_CLOSE),
        ("1w", "1 day", DamageKind.WEEK_OFF_MONDAY),
    ],
)
@pytest.mark.parametrize("symbol", EXCHANGES)
def test_a_bar_out_of_place_is_damage(
    stored: Database, symbol: str, timeframe: str, by: str, kind: DamageKind
) -> None:
    """The first bar of a day is moved by that time."""
    zone = EXCHANGES[symbol][1]
    local = bars_of(stored, symbol, timeframe).index.tz_convert(zone)
    first = next(a for a, b in zip(local[20:], local[19:], strict=False) if a.date() != b.date())
    values = {"symbol": symbol, "timeframe": timeframe, "ts": first, "by": by}
    with stored.begin() as conn:
        assert conn.execute(text(MOVED), values).rowcount == 1
        found = damage.find(conn, [symbol], NIGHTS[-1])
        conn.rollback()
    assert (symbol, timeframe, kind) in {(f.symbol, f.timeframe, f.kind) for f in found}


@pytest.mark.parametrize("symbol", EXCHANGES)
def test_a_week_and_an_hour_that_their_parts_contradict_are_damage(
    stored: Database, symbol: str
) -> None:
    wrong = text(
        "UPDATE bars SET high = high * 1.5, close = close * 1.4 WHERE symbol = :symbol"
        " AND timeframe = :timeframe AND ts = (SELECT ts FROM bars WHERE symbol = :symbol"
        " AND timeframe = :timeframe ORDER BY ts OFFSET 6 LIMIT 1)"
    )
    with stored.begin() as conn:
        for timeframe in ("1h", "1w"):
            conn.execute(wrong, {"symbol": symbol, "timeframe": timeframe})
        found = damage.find(conn, [symbol], NIGHTS[-1])
        conn.rollback()
    assert {(f.timeframe, f.kind) for f in found} == {
        ("1h", DamageKind.CLOCK_HOURS),
        ("1w", DamageKind.WEEK_CONTRADICTS_DAYS),
    }


def test_a_holiday_of_one_exchange_is_a_session_of_others(stored: Database) -> None:
    """Showa Day and Family Day are none in London; Good Friday is one in Tokyo."""
    dates = {s: set(bars_of(stored, s, "1d").index.strftime("%Y-%m-%d")) for s in EXCHANGES}
    assert {s for s, days in dates.items() if "2026-04-03" in days} == {"SIM1.T"}  # Good Friday
    assert "2026-02-16" not in dates["SIM1.TO"]  # Family Day
    assert "2026-02-11" not in dates["SIM1.T"]  # National Foundation Day
    assert "2026-01-26" not in dates["SIM1.AX"]  # Australia Day
    assert {"2026-02-16", "2026-02-11", "2026-01-26"} < dates["SIM1.L"]
