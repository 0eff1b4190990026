"""Unscheduled closures of an exchange: expected bars, gaps and freshness follow them at once."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import exchange_calendars
import pytest
from sqlalchemy import text

from enrichment.domain import calendars
from enrichment.domain.bars import Bars
from enrichment.domain.errors import Conflict, InvalidRequest
from enrichment.domain.exchanges import EXCHANGES
from enrichment.domain.model import Timeframe
from enrichment.services.commands import Commands
from enrichment.warehouse import closures
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.facade import ReadModels
from tests.helpers.api_client import ROOT, api_client
from tests.helpers.nightly_runs import NightlyRuns, quiet_bars

SESSIONS = 300


@pytest.fixture(autouse=True)
def calendars_of_others() -> Iterator[None]:
    yield
    calendars.set_closures({})


def starts(mic: str, timeframe: Timeframe, first: date, last: date) -> list[str]:
    window = [datetime(day.year, day.month, day.day, tzinfo=UTC) for day in (first, last)]
    return [str(ts) for ts in calendars.bar_starts(EXCHANGES[mic], timeframe, *window)]


@pytest.mark.parametrize("mic", ["XNYS", "XLON", "XTKS", "XASX"])
def test_a_closed_session_is_missing_in_every_timeframe(mic: str) -> None:
    calendar = exchange_calendars.get_calendar(mic)
    week = calendar.sessions_in_range("2024-05-13", "2024-05-18")
    closed, first, last = week[2].date(), week[0].date(), date(2024, 5, 19)
    before = {tf: starts(mic, tf, first, last) for tf in Timeframe}
    calendars.set_closures({mic: [closed]})
    day = calendar.schedule.loc[str(closed)]
    for timeframe, expected in before.items():
        now = starts(mic, timeframe, first, last)
        gone = sorted({*expected} - {*now})
        if timeframe is Timeframe.W1:
            assert gone == []
        elif timeframe is Timeframe.D1:
            assert gone == [f"{closed}T00:00:00.000000"]
        else:
            bounds = (day["open"] - timeframe.duration, day["close"])
            assert gone
            assert all(bounds[0].isoformat() < f"{ts}+00:00" < bounds[1].isoformat() for ts in gone)
    other = "XLON" if mic != "XLON" else "XNYS"
    assert starts(other, Timeframe.D1, first, last)


def test_a_newest_session_that_is_closed_does_not_make_a_series_late() -> None:
    exchange = EXCHANGES["XNYS"]
    friday_night = datetime(2024, 5, 18, 3, tzinfo=UTC)
    thursday = datetime(2024, 5, 16, tzinfo=UTC)
    behind = lambda: calendars.sessions_behind(exchange, Timeframe.D1, thursday, friday_night)  # noqa: E731
    newest = lambda: str(calendars.last_complete(exchange, Timeframe.D1, friday_night))[:10]  # noqa: E731
    assert (behind(), newest()) == (1, "2024-05-17")
    calendars.set_closures({"XNYS": [date(2024, 5, 17)]})
    assert (behind(), newest()) == (0, "2024-05-16")
    calendars.set_closures({})
    assert (behind(), newest()) == (1, "2024-05-17")


def without(bars: Bars, row: int) -> Bars:
    return bars.take([n for n in range(len(bars)) if n != row])


def state(runs: NightlyRuns) -> tuple[Any, ...]:
    (series,) = runs.rows("SELECT status, quality_score FROM enrichment_status")
    gaps = runs.rows("SELECT ts FROM bar_gaps WHERE resolved_at IS NULL")
    return (*series, [ts.date() for (ts,) in gaps])


def test_a_closure_resolves_the_gap_and_reopening_opens_it_again(db: Database) -> None:
    whole = quiet_bars(SESSIONS)
    missing = SESSIONS - 4
    closed = whole.ts[missing].astype("datetime64[D]").astype(date)
    runs = NightlyRuns(db, without(whole, missing), "SIM1")
    runs.run_at(SESSIONS - 3)
    _, score, gaps = state(runs)
    assert gaps == [closed]
    assert score < 1.0
    commands = Commands(db)
    commands.close_session("xnys", closed, reason="day of mourning", actor="test")
    assert state(runs)[2] == []
    runs.run_at(SESSIONS - 2)
    assert state(runs) == ("healthy", 1.0, [])
    candles = ReadModels(db).prices.candles(
        "SIM1", Timeframe.D1, datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
    )
    assert len(candles.missing) == 0
    commands.reopen_session("XNYS", closed, reason="it was Tokyo's", actor="test")
    assert state(runs)[2] == [closed]
    runs.run_at(SESSIONS - 1)
    assert state(runs)[1:] == (pytest.approx(score, abs=1e-3), [closed])
    audit = runs.rows("SELECT action, target, reason FROM operator_actions ORDER BY id")
    assert [row for row in audit if "session" in row[0]] == [
        ("close_session", f"XNYS {closed}", "day of mourning"),
        ("reopen_session", f"XNYS {closed}", "it was Tokyo's"),
    ]


def test_other_processes_know_within_a_minute(db: Database) -> None:
    with db.begin() as conn:
        closures.refresh(conn, max_age=0.0)
        conn.execute(
            text(
                "INSERT INTO calendar_closures (mic, day, reason, closed_by)"
                " VALUES ('XNYS', '2024-05-17', 'by another process', 'test')"
            )
        )
        days = lambda: starts("XNYS", Timeframe.D1, date(2024, 5, 17), date(2024, 5, 18))  # noqa: E731
        closures.refresh(conn)
        assert len(days()) == 1  # read a moment ago
        closures.refresh(conn, max_age=-1.0)  # as after that time
        assert days() == []
    assert closures.MAX_AGE_SECONDS == 60.0


@pytest.mark.parametrize(
    ("mic", "day", "reason", "error", "message"),
    [
        ("XXXX", "2024-05-17", "r", InvalidRequest, "unknown exchange 'XXXX': choose one of XNYS"),
        ("XNYS", "2024-05-18", "r", Conflict, "has no session on 2024-05-18"),
        ("XNYS", "2024-05-17", " ", InvalidRequest, "give a reason"),
        ("XNYS", "1800-01-01", "r", Conflict, "has no session"),
        ("XNYS", "9999-12-31", "r", Conflict, "has no session"),
    ],
)
def test_what_is_no_session_can_not_be_closed(
    db: Database, mic: str, day: str, reason: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Commands(db).close_session(mic, date.fromisoformat(day), reason=reason, actor="test")


def test_days_that_most_symbols_miss_are_proposed(db: Database) -> None:
    day = datetime.now(UTC).date() - timedelta(days=3)
    with db.begin() as conn:
        for symbol in ("A", "B", "C", "D", "E", "A.L", "B.L", "C.L", "D.L", "E.L", "ONLY.T"):
            conn.execute(
                text(
                    "INSERT INTO tracked_symbols (symbol, asset_class, timeframes)"
                    " VALUES (:symbol, 'stock', '{1d}')"
                ),
                {"symbol": symbol},
            )
        for symbol in ("A", "B", "C", "D", "A.L", "B.L", "C.L", "ONLY.T"):  # 4 of 5, 3 of 5, 1 of 1
            conn.execute(
                text(
                    "INSERT INTO bar_gaps (symbol, timeframe, ts, cause)"
                    " VALUES (:symbol, '1d', :day, 'vendor_outage')"
                ),
                {"symbol": symbol, "day": day},
            )
    reader = ReadModels(db)
    (proposal,) = reader.closures.proposed()
    assert (proposal.mic, proposal.day) == ("XNYS", day)
    assert (proposal.missing, proposal.symbols) == (4, 5)
    with db.begin() as conn:
        conn.execute(text("UPDATE bar_gaps SET cause = 'failed_request' WHERE symbol = 'A'"))
    assert reader.closures.proposed() == []


def test_closures_through_the_api(db: Database) -> None:
    client = api_client(db)
    path = f"{ROOT}/calendar/closures"
    body = {"mic": "XLON", "day": "2024-05-17", "reason": "announced"}
    assert client.post(path, json=body).status_code == 201
    assert client.post(path, json=body).status_code == 409
    answer = client.get(path).get_json()
    (closure,) = answer["closures"]
    assert (closure["mic"], closure["day"], closure["reason"]) == (
        "XLON",
        "2024-05-17",
        "announced",
    )
    assert answer["proposed"] == []
    assert client.post(f"{path}/reopen", json={**body, "reason": None}).status_code == 200
    assert client.post(f"{path}/reopen", json=body).status_code == 409
    assert client.post(path, json={**body, "mic": "NONE"}).status_code == 400
    assert client.get(path).get_json()["closures"] == []
    assert starts("XLON", Timeframe.D1, date(2024, 5, 17), date(2024, 5, 18)) != []
