"""Exchanges beyond New York: calendar, zone, currency, against exchange_calendars."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import exchange_calendars
import numpy as np
import pandas as pd
import pytest

from enrichment.domain import calendars
from enrichment.domain.bars import Timestamps
from enrichment.domain.exchanges import BY_SUFFIX, NEW_YORK, Exchange, exchange_of
from enrichment.domain.model import AssetClass, Timeframe

# exchange_calendars calls what newer versions of pandas deprecate.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*DatetimeIndex.*")

EXCHANGES = {exchange.mic: exchange for exchange in (NEW_YORK, *BY_SUFFIX.values())}
START, END = datetime(2023, 12, 20, tzinfo=UTC), datetime(2024, 4, 20, tzinfo=UTC)


def calendar_of(mic: str) -> exchange_calendars.ExchangeCalendar:
    return exchange_calendars.get_calendar(mic, start="2023-11-01", end="2025-01-31")


def stamps(index: pd.DatetimeIndex) -> list[str]:
    naive = index.tz_localize(None) if index.tz is not None else index
    return naive.to_numpy("datetime64[m]").astype(str).tolist()  # type: ignore[no-any-return]


def texts(ts: Timestamps) -> list[str]:
    return ts.astype("datetime64[m]").astype(str).tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=list(EXCHANGES))
def test_every_exchange_has_a_calendar_in_its_own_zone(exchange: Exchange) -> None:
    assert str(calendar_of(exchange.mic).tz) == exchange.timezone


@pytest.mark.parametrize("mic", ["XLON", "XTKS", "XETR", "XTSE", "XASX", "XHKG", "XBOM", "XNYS"])
def test_days_are_the_exchanges_sessions(mic: str) -> None:
    sessions = calendar_of(mic).sessions_in_range("2023-12-20", "2024-04-19")
    days = calendars.bar_starts(EXCHANGES[mic], Timeframe.D1, START, END)
    assert texts(days) == stamps(sessions)
    close = calendar_of(mic).session_close(sessions[50]).to_pydatetime()
    before, at = close - timedelta(minutes=1), close
    newest = [calendars.last_complete(EXCHANGES[mic], Timeframe.D1, now) for now in (before, at)]
    assert newest == [sessions[49].to_datetime64(), sessions[50].to_datetime64()]


@pytest.mark.parametrize("mic", ["XLON", "XTKS", "XETR", "XTSE", "XASX", "XHKG", "XBOM"])
def test_half_hours_lie_in_the_session_and_not_in_its_pause(mic: str) -> None:
    calendar = calendar_of(mic)
    expected: list[pd.Timestamp] = []
    for day in calendar.sessions_in_range("2023-12-20", "2024-04-20"):
        local = pd.date_range(day, periods=48, freq="30min", tz=None)
        for start in local.tz_localize(calendar.tz).tz_convert("UTC"):
            end = start + pd.Timedelta(minutes=30)
            traded = start < calendar.session_close(day) and end > calendar.session_open(day)
            if calendar.session_has_break(day):
                pause = calendar.session_break_start(day), calendar.session_break_end(day)
                traded = traded and not (pause[0] <= start and end <= pause[1])
            if traded:
                expected.append(start)
    starts = calendars.bar_starts(EXCHANGES[mic], Timeframe.M30, START, END)
    assert texts(starts) == stamps(pd.DatetimeIndex([t for t in expected if START <= t < END]))
    assert calendars.is_aligned(EXCHANGES[mic], Timeframe.M30, starts).all()
    hours = calendars.bar_starts(EXCHANGES[mic], Timeframe.H1, START, END)
    zone = ZoneInfo(EXCHANGES[mic].timezone)
    assert {t.astimezone(zone).minute for t in pd.DatetimeIndex(hours, tz="UTC")} == {0}


@pytest.mark.parametrize("mic", EXCHANGES)
def test_every_exchanges_days_are_aligned_and_get_their_own_date(mic: str) -> None:
    calendar = calendar_of(mic)
    sessions = calendar.sessions_in_range("2024-03-20", "2024-04-12")
    opens = pd.DatetimeIndex([calendar.session_open(day) for day in sessions])
    days = calendars.canonical(
        EXCHANGES[mic], Timeframe.D1, opens.tz_localize(None).to_numpy("datetime64[us]")
    )
    assert texts(days) == stamps(sessions)
    assert calendars.is_aligned(EXCHANGES[mic], Timeframe.D1, days).all()


@pytest.mark.parametrize("mic", ["XLON", "XTKS", "XASX", "XHKG"])
def test_a_minute_is_in_the_session_while_the_exchange_is_open(mic: str) -> None:
    minutes = pd.date_range("2024-03-27", "2024-04-03", freq="17min", tz="UTC")
    calendar = calendar_of(mic)
    expected = [
        calendar.is_open_on_minute(minute, ignore_breaks=False) and not _at_an_end(calendar, minute)
        for minute in minutes
    ]
    ts = minutes.tz_localize(None).to_numpy("datetime64[us]")
    assert calendars.in_session(EXCHANGES[mic], ts).tolist() == expected


def _at_an_end(calendar: exchange_calendars.ExchangeCalendar, minute: pd.Timestamp) -> bool:
    """Whether a minute is a close or the start of a pause, which are no part of the session."""
    session = calendar.minute_to_session(minute, direction="previous")
    return minute in (calendar.session_close(session), calendar.session_break_start(session))


@pytest.mark.parametrize("mic", ["XTKS", "XASX", "XLON", "XTSE"])
def test_a_vendors_days_get_the_date_at_the_exchange(mic: str) -> None:
    calendar = calendar_of(mic)
    sessions = calendar.sessions_in_range("2024-03-20", "2024-04-12")
    opens = pd.DatetimeIndex([calendar.session_open(day) for day in sessions])
    midnights = sessions.tz_localize(calendar.tz).tz_convert("UTC")
    for sent in (opens, midnights):
        ts = sent.tz_localize(None).to_numpy("datetime64[us]")
        assert texts(calendars.canonical(EXCHANGES[mic], Timeframe.D1, ts)) == stamps(sessions)
    days = sessions.to_numpy("datetime64[us]")
    assert texts(calendars.local_midnights(EXCHANGES[mic], days)) == stamps(midnights)


def test_sydneys_morning_belongs_to_its_own_day() -> None:
    opening = np.array(["2024-01-14T23:00"], "datetime64[us]")  # Monday at 10:00
    local = calendars.in_local_time(EXCHANGES["XASX"], opening)
    assert texts(local) == ["2024-01-15T10:00"]
    assert calendars.in_local_time(AssetClass.CRYPTO, opening) is opening


@pytest.mark.parametrize(
    ("symbol", "mic", "currency"),
    [
        ("AAPL", "XNYS", "USD"),
        ("BRK.B", "XNYS", "USD"),
        ("VOD.L", "XLON", "GBp"),
        ("7203.T", "XTKS", "JPY"),
        ("SAP.DE", "XETR", "EUR"),
        ("SHOP.TO", "XTSE", "CAD"),
        ("BHP.AX", "XASX", "AUD"),
        ("WSKT.JK", "XIDX", "IDR"),
        ("300750.SZ", "XSHG", "CNY"),
        ("TCS.NS", "XBOM", "INR"),
        ("WEED.V", "XTSE", "CAD"),
    ],
)
def test_the_suffix_names_the_exchange(symbol: str, mic: str, currency: str) -> None:
    assert (exchange_of(symbol).mic, exchange_of(symbol).currency) == (mic, currency)


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=list(EXCHANGES))
def test_no_day_is_beyond_a_calendar(exchange: Exchange) -> None:
    """Also those before its first session, and those whose midnight a clock change left out."""
    days = np.array(["1971-01-04", "1985-06-03", "2000-01-03", "2026-11-30", "2100-01-05"])
    for day in days.astype("datetime64[us]"):
        calendars.has_session(exchange, Timeframe.D1, day.reshape(1))
