"""Series that older versions damaged are found exactly, and repaired by a worker."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from enrichment.domain.damage import DamageKind
from enrichment.domain.errors import Conflict, InvalidRequest, NotTracked
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline.features import FEATURES
from enrichment.sandbox import create_app, running
from enrichment.services.commands import Commands
from enrichment.services.request_plan import RequestSettings
from enrichment.warehouse.database import Database
from tests.helpers.api_client import ROOT, api_client
from tests.helpers.damaged_warehouse import NOW, Damaged

Found = dict[tuple[str, str, str], int]
CRYPTO = "X:SIM1USD"


@pytest.fixture(scope="module", params=["paid", "free"])
def vendor(request: pytest.FixtureRequest) -> Iterator[str]:
    """The sandbox, whose clock runs fast enough for the quota of the free plan."""
    calls = itertools.count()
    clock = lambda: NOW + next(calls) * timedelta(seconds=13)  # noqa: E731
    with running(create_app(clock=clock, anchor=NOW, plan=request.param)) as address:
        yield address


@pytest.fixture(scope="module")
def paid() -> Iterator[str]:
    with running(create_app(clock=lambda: NOW, anchor=NOW)) as address:
        yield address


@pytest.fixture
def damaged(db: Database, paid: str) -> Damaged:
    warehouse = Damaged(db, paid)
    warehouse.fill()
    return warehouse


def test_a_warehouse_filled_by_this_version_has_no_findings(db: Database, vendor: str) -> None:
    warehouse = Damaged(db, vendor)
    warehouse.fill()
    assert warehouse.rows("SELECT count(*) > 3000 FROM bars") == [(True,)]
    assert warehouse.find() == []
    with pytest.raises(Conflict, match="nothing to repair"):
        warehouse.commands.repair(actor="test", reason="none")


def weeks(warehouse: Damaged) -> Found:
    """A week of other days, a week of its Friday alone, a week from Wednesday, a running week."""
    warehouse.update("SIM7", "1w", "ts = '2026-02-02'", "close = close * 1.05, high = high * 1.06")
    warehouse.update(
        "AAPL",
        "1w",
        "ts = '2026-02-09'",
        "(open, high, low, close, volume) = (SELECT open, high, low, close, volume FROM bars d"
        " WHERE d.symbol = 'AAPL' AND d.timeframe = '1d' AND d.ts = '2026-02-13')",
    )
    warehouse.insert(CRYPTO, "1w", "2026-01-07", like="2026-01-05")
    warehouse.insert("SIM7", "1w", "2026-03-16", like="2026-03-09")
    warehouse.update("SIM7", "1w", "ts = '2026-03-16'", "known_from = '2026-03-18'")
    return {
        ("SIM7", "1w", "week_contradicts_days"): 1,
        ("AAPL", "1w", "week_is_last_day"): 1,
        (CRYPTO, "1w", "week_off_monday"): 1,
        ("SIM7", "1w", "running_bar"): 1,
    }


def rows_at_the_close(warehouse: Damaged) -> Found:
    """After the close on a whole day of either clock, and on a half day."""
    warehouse.insert("SIM7", "1h", "2026-03-17T20:00Z", like="2026-03-17T19:00Z")
    warehouse.insert("SIM7", "1h", "2026-03-05T21:00Z", like="2026-03-05T20:00Z")
    warehouse.insert("SIM7", "30m", "2025-12-24T18:00Z", like="2025-12-24T17:30Z")
    warehouse.insert("SIM7", "4h", "2026-03-17T20:00Z", like="2026-03-17T16:00Z")
    return {
        ("SIM7", "1h", "after_close"): 2,
        ("SIM7", "30m", "after_close"): 1,
        ("SIM7", "4h", "after_close"): 1,
    }


def extended_hours(warehouse: Damaged) -> Found:
    """Bars before the open, whose trades also enter the bar of the open, and on a holiday."""
    for hour in (8, 9, 10, 11, 12):
        warehouse.insert("SIM7", "1h", f"2026-03-11T{hour:02}:00Z", like="2026-03-11T15:00Z")
    warehouse.update("SIM7", "1h", "ts = '2026-03-11T13:00Z'", "open = open * 0.97, low = low / 2")
    warehouse.insert("SIM7", "15m", "2026-01-01T15:00Z", like="2026-01-02T15:00Z")
    warehouse.update("SIM7", "4h", "ts = '2026-03-04T13:00Z'", "volume = volume * 1.2")
    return {
        ("SIM7", "1h", "outside_session"): 5,
        ("SIM7", "1h", "clock_hours"): 1,
        ("SIM7", "15m", "outside_session"): 1,
        ("SIM7", "4h", "clock_hours"): 1,
    }


def live_rows(warehouse: Damaged) -> Found:
    """Quotes stamped with the time of the last trade."""
    warehouse.insert("SIM7", "30m", "2026-03-17T19:59:58Z", like="2026-03-17T19:30Z")
    warehouse.insert("SIM7", "1d", "2026-03-17T20:00Z", like="2026-03-17")
    warehouse.insert(CRYPTO, "1h", "2026-03-17T03:17Z", like="2026-03-17T03:00Z")
    warehouse.insert(CRYPTO, "4h", "2026-03-17T02:00Z", like="2026-03-17T04:00Z")
    return {
        ("SIM7", "30m", "off_grid"): 1,
        ("SIM7", "1d", "off_grid"): 1,
        (CRYPTO, "1h", "off_grid"): 1,
        (CRYPTO, "4h", "off_grid"): 1,
    }


def short_history(warehouse: Damaged) -> Found:
    """A fallback served 60 days of what was asked for."""
    warehouse.delete("SIM7", "1h", "ts < '2026-01-17'")
    warehouse.execute(
        "UPDATE enrichment_status SET history_from = first_ts"
        " WHERE symbol = 'SIM7' AND timeframe = '1h'"
    )
    return {("SIM7", "1h", "short_history"): 1}


def closed_gaps(warehouse: Damaged) -> Found:
    """A bar that was lost, and counted as one without trades."""
    warehouse.delete("SIM7", "1h", "ts = '2026-02-10T16:00Z'")
    warehouse.execute(
        "INSERT INTO bar_gaps (symbol, timeframe, ts, cause, resolved_at, resolution, next_try_at)"
        " VALUES ('SIM7', '1h', '2026-02-10T16:00Z', 'no_trades', now(), 'no_trades', 'infinity')"
    )
    return {("SIM7", "1h", "unproven_no_trades"): 1}


def two_bases(warehouse: Damaged) -> Found:
    """Bars before a split that another vendor had not adjusted."""
    warehouse.update(
        "AAPL",
        "1d",
        "ts < '2026-01-15'",
        "open = open * 2, high = high * 2, low = low * 2, close = close * 2, volume = volume / 2",
    )
    warehouse.execute(
        "INSERT INTO bar_flags (symbol, timeframe, ts, check_name, severity, detail)"
        " VALUES ('AAPL', '1d', '2026-01-15', 'mixed_adjustment', 'warning', 'from here on')"
    )
    weeks = warehouse.rows(
        "SELECT count(*) FROM bars WHERE symbol = 'AAPL' AND timeframe = '1w' AND ts < '2026-01-15'"
    )
    return {
        ("AAPL", "1d", "two_bases"): 1,
        ("AAPL", "1w", "week_contradicts_days"): weeks[0][0],
    }


DAMAGE = (
    weeks,
    rows_at_the_close,
    extended_hours,
    live_rows,
    short_history,
    closed_gaps,
    two_bases,
)
NUMBERS = [name for name, feature in FEATURES.items() if feature.kind == "number"]
COLUMNS = ", ".join(["open", "high", "low", "close", "volume", *NUMBERS])


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_found_and_repaired(damaged: Damaged, damage: Callable[[Damaged], Found]) -> None:
    keys, values, scores, flags = _contents(damaged)
    expected = damage(damaged)
    before = damaged.rows("SELECT symbol, timeframe, ts, close FROM bars")
    assert damaged.found() == expected
    reason = "filled by an older version"
    result = damaged.commands.repair(actor="test", reason=reason)
    damaged.run(result.job_id)
    assert damaged.find() == []

    repaired_keys, repaired, repaired_scores, repaired_flags = _contents(damaged)
    assert repaired_keys == keys
    np.testing.assert_allclose(repaired, values, rtol=1e-9, atol=1e-10)
    assert (repaired_scores, repaired_flags) == (scores, flags)
    gone = {*before} - {*damaged.rows("SELECT symbol, timeframe, ts, close FROM bars")}
    versions = damaged.rows("SELECT symbol, timeframe, ts, close FROM bar_versions")
    assert gone <= {*versions}
    assert damaged.rows(
        "SELECT actor, reason, target FROM operator_actions WHERE action = 'repair'"
    ) == [("test", reason, str(result.job_id))]
    reasons = {row[0] for row in damaged.rows("SELECT DISTINCT reason FROM data_corrections")}
    assert reasons <= {"repaired", "withdrawn"}


def _contents(warehouse: Damaged) -> tuple[list[Any], np.ndarray[Any, Any], list[Any], list[Any]]:
    """The bars' keys; prices and features; what is counted and scored of the series; flags."""
    bars = warehouse.rows(
        f"SELECT symbol, timeframe, ts, {COLUMNS} FROM bars ORDER BY symbol, timeframe, ts"
    )
    return (
        [row[:3] for row in bars],
        np.array([row[3:] for row in bars], dtype=float),
        warehouse.rows(
            "SELECT symbol, timeframe, bars, first_ts, last_ts, history_from, quality_score,"
            " evidence -> 'missing' FROM enrichment_status ORDER BY symbol, timeframe"
        ),
        warehouse.rows(
            "SELECT symbol, timeframe, ts, check_name FROM bar_flags ORDER BY 1, 2, 3, 4"
        ),
    )


def test_a_week_with_a_split_does_not_contradict_its_days(damaged: Damaged) -> None:
    damaged.execute(
        "INSERT INTO corporate_actions (symbol, kind, effective_date, ratio, source, accounts,"
        " applies) VALUES ('SIM7', 'split', '2026-02-04', 2, 'test', '{}', true)"
    )
    before = "open = open * 2, high = high * 2, low = low * 2, close = close * 2,"
    for timeframe, day in (("1d", "2026-02-04"), ("1w", "2026-02-02")):
        damaged.update("SIM7", timeframe, f"ts < '{day}'", f"{before} volume = volume / 2")
    assert damaged.find() == []
    damaged.update("SIM7", "1w", "ts = '2026-01-12'", "close = close * 1.01, high = high * 1.01")
    assert damaged.found() == {("SIM7", "1w", "week_contradicts_days"): 1}
    # An earlier version had stored weeks that are adjusted for the split, and days that are not.
    damaged.execute(
        "UPDATE enrichment_status SET adjusted_until = '2026-02-05'"
        " WHERE timeframe = '1w' AND symbol = 'SIM7'"
    )
    assert damaged.found() == {("SIM7", "1w", "adjusted_prices"): 16}
    damaged.execute(
        "INSERT INTO corporate_action_refreshes (source, symbol, covers_from)"
        " VALUES ('test', 'SIM7', '2025-01-01')"
    )
    assert damaged.found() == {}


def test_sessions_of_other_exchanges_are_not_judged_by_new_york(db: Database) -> None:
    warehouse = Damaged(db, "none")
    warehouse.commands.track(
        [parse_tracked(symbol, "stock", "1d") for symbol in ("VOD.L", "BRK.B")], actor="test"
    )
    for symbol in ("VOD.L", "BRK.B"):  # Independence Day, when London is open
        warehouse.execute(
            "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume)"
            " VALUES (:symbol, '1d', '2025-07-04', 1, 1, 1, 1, 1)",
            symbol=symbol,
        )
        warehouse.execute(
            "INSERT INTO enrichment_status (symbol, timeframe, status, bars, first_ts, last_ts)"
            " VALUES (:symbol, '1d', 'healthy', 1, '2025-07-04', '2025-07-04')",
            symbol=symbol,
        )
    assert warehouse.found() == {("BRK.B", "1d", "outside_session"): 1}


def test_days_that_were_stored_by_new_yorks_date_are_found_abroad(db: Database) -> None:
    """Tokyo's Mondays as Sundays. Mumbai did trade on these Saturdays."""
    warehouse = Damaged(db, "none")
    days = {
        "7203.T": ["2025-02-02", "2025-02-03", "2025-02-09", "2025-02-16"],
        "TCS.NS": ["2024-01-20", "2024-03-02", "2024-05-18", "2025-02-01"],
    }
    warehouse.commands.track([parse_tracked(symbol, "stock", "1d") for symbol in days], actor="t")
    for symbol, stored in days.items():
        warehouse.execute(
            "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume)"
            " SELECT :symbol, '1d', CAST(d AS timestamptz), 1, 1, 1, 1, 1"
            " FROM unnest(CAST(:days AS text[])) d",
            symbol=symbol,
            days=stored,
        )
        warehouse.execute(
            "INSERT INTO enrichment_status (symbol, timeframe, status, bars, first_ts, last_ts)"
            " VALUES (:symbol, '1d', 'healthy', 2, :first, :last)",
            symbol=symbol,
            first=stored[0],
            last=stored[-1],
        )
    (finding,) = warehouse.find()
    assert (finding.symbol, finding.kind, finding.count) == ("7203.T", "outside_session", 3)
    assert finding.example == "2025-02-02 00:00: the exchange is closed on this Sunday"


def test_days_a_day_early_are_all_put_right(db: Database, paid: str) -> None:
    warehouse = Damaged(db, paid, stocks=("yahoo",))
    warehouse.commands.track([parse_tracked("SIM1.T", "stock", "1d")], actor="test")
    warehouse.run(warehouse.commands.trigger(actor="test").job_id)
    query = "SELECT ts, round(close::numeric, 2) FROM bars ORDER BY ts"
    right = warehouse.rows(query)
    for days in (-1000, 999):  # the keys stay unique
        warehouse.execute("UPDATE bars SET ts = ts + make_interval(days => :days)", days=days)
    warehouse.recount("SIM1.T", "1d")
    assert warehouse.found().keys() == {("SIM1.T", "1d", "outside_session")}
    warehouse.run(warehouse.commands.repair(actor="test", reason="a day early").job_id)
    warehouse.run(warehouse.commands.trigger(actor="test").job_id)
    assert warehouse.find() == []
    assert warehouse.rows(query)[-len(right) :] == right


def test_a_repair_is_limited_to_symbols_and_kinds(damaged: Damaged) -> None:
    weeks(damaged)
    rows_at_the_close(damaged)
    commands = damaged.commands
    assert {f.symbol for f in commands.plan_repair(["AAPL"]).findings} == {"AAPL"}
    plan = commands.plan_repair(kinds=["after_close"])
    assert {f.kind for f in plan.findings} == {DamageKind.AFTER_CLOSE}
    result = commands.repair(["SIM7"], ["after_close"], actor="test", reason="rows at the close")
    with pytest.raises(Conflict, match=str(result.job_id)):
        commands.repair(["AAPL"], actor="test", reason="another one")
    damaged.run(result.job_id)
    assert not {f.kind for f in damaged.find()} & {DamageKind.AFTER_CLOSE}
    assert ("AAPL", "1w", "week_is_last_day") in damaged.found()
    with pytest.raises(InvalidRequest, match="reason"):
        commands.repair(actor="test", reason=" ")
    with pytest.raises(InvalidRequest, match="unknown kind"):
        commands.plan_repair(kinds=["other"])
    with pytest.raises(NotTracked):
        commands.plan_repair(["NOSUCH"])


def test_the_plan_says_what_is_fetched_and_how_long_it_takes(damaged: Damaged) -> None:
    rows_at_the_close(damaged)
    quotas = {"yahoo": 60, "polygon": 2}
    plan = Commands(damaged.db, RequestSettings({"stock": list(quotas)}, quotas)).plan_repair(
        ["SIM7"]
    )
    hour = next(series for series in plan.series if series.timeframe == "1h")
    assert hour.start == datetime(2026, 3, 1, tzinfo=UTC)
    assert hour.end == datetime(2026, 3, 18, 20, tzinfo=UTC)
    assert hour.vendor == "polygon"  # Yahoo's hours reach back 60 days of today
    assert plan.requests == {"polygon": 3}
    assert plan.minutes == 1.0  # two at once, the third a minute later


def test_operators_repair_over_the_api(damaged: Damaged) -> None:
    client, url = api_client(damaged.db), f"{ROOT}/repair"
    weeks(damaged)
    planned = client.post(f"{url}?all_symbols=true&dry_run=true")
    assert planned.status_code == 200
    assert {(f["symbol"], f["kind"]) for f in planned.get_json()["findings"]} == {
        ("SIM7", "week_contradicts_days"),
        ("SIM7", "running_bar"),
        ("AAPL", "week_is_last_day"),
        (CRYPTO, "week_off_monday"),
    }
    assert damaged.rows("SELECT count(*) FROM enrichment_jobs WHERE kind = 'backfill'") == [(0,)]
    assert client.post(url).status_code == 409
    assert client.post(f"{url}?symbols=AAPL").status_code == 409  # without a reason
    assert client.post(f"{url}?symbols=NOSUCH&reason=x").status_code == 404
    opened = client.post(f"{url}?symbols=AAPL&kinds=week_is_last_day&reason=old+weeks")
    assert (opened.status_code, opened.get_json()["symbols_to_process"]) == (202, 1)
    assert client.get(opened.headers["Location"]).get_json()["kind"] == "backfill"
    assert client.post(f"{url}?all_symbols=true&reason=x").status_code == 409
    assert damaged.rows("SELECT reason FROM operator_actions WHERE action = 'repair'") == [
        ("old weeks",)
    ]
