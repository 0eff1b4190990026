"""What a job will ask of the vendors, planned from what is stored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from api import create_app
from enrichment.cli.main import app
from enrichment.domain.bars import to_datetime
from enrichment.domain.calendars import set_stock_sessions
from enrichment.domain.errors import InvalidRequest, NotTracked
from enrichment.domain.model import TrackedSymbol
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline.fetch_plan import OVERLAP
from enrichment.services.commands import Commands
from enrichment.services.request_plan import RequestPlan, RequestSettings, plan_requests
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import symbols as tracked_symbols
from enrichment.warehouse.read_models.facade import ReadModels
from tests.helpers.api_client import ROOT, json_body
from tests.helpers.nightly_runs import NightlyRuns, quiet_bars

NOW = datetime(2024, 3, 6, 6, 30, tzinfo=UTC)
SETTINGS = RequestSettings(
    providers={"stock": ("polygon", "yahoo"), "etf": ("polygon",), "crypto": ("binance",)},
    quotas={"polygon": 5, "yahoo": 60, "binance": 1200},
    history_days=365,
    whole_days={"polygon"},
)


def plan(
    db: Database, items: Sequence[TrackedSymbol], now: datetime = NOW, **settings: object
) -> RequestPlan:
    with db.begin() as conn:
        return plan_requests(conn, items, now=now, settings=replace(SETTINGS, **settings))  # type: ignore[arg-type]


def stocks(*symbols: str, timeframes: str = "1d") -> list[TrackedSymbol]:
    return [parse_tracked(symbol, "stock", timeframes) for symbol in symbols]


def test_series_built_from_the_same_bars_share_one_request(db: Database) -> None:
    planned = plan(db, stocks("AAPL", timeframes="30m,1h,4h,1d,1w"))
    # A year of extended hours is five pages of 50,000 minutes.
    assert planned.requests == {"polygon": 5 + 1}
    assert planned.minutes == {"polygon": 1.0}
    assert plan(db, stocks("AAPL", timeframes="1d,1w")).requests == {"polygon": 1}


def test_each_vendor_has_its_pages_and_its_quota(db: Database) -> None:
    coin = parse_tracked("X:BTCUSD", "crypto", "1h,1d")
    planned = plan(db, [coin, *stocks(*(f"S{n:02}" for n in range(12)))])
    assert planned.requests == {"binance": 9 + 1, "polygon": 12}  # a year of hours: 8,784 rows
    assert planned.minutes == {"binance": 0.0, "polygon": 2.0}
    assert (planned.total_requests, planned.total_minutes) == (22, 2.0)
    assert plan(db, [coin], quotas={"binance": 4}).minutes == {"binance": 2.0}
    assert plan(db, [coin], quotas={}).minutes == {"binance": 0.0}


class Nights(NightlyRuns):
    """Daily series of stocks that are current but for one session."""

    def __init__(self, db: Database, count: int) -> None:
        super().__init__(db, quiet_bars(300), *(f"S{n:02}" for n in range(count)))
        self.run_at(298)
        self.now += timedelta(days=1)
        with db.begin() as conn:  # so that no comparison of the whole history is due
            conn.execute(text("UPDATE enrichment_status SET compared_at = :at"), {"at": self.now})

    def plan(self, *more: TrackedSymbol, **settings: object) -> RequestPlan:
        with self.db.begin() as conn:
            items = tracked_symbols.select(conn)
        return plan(self.db, [*items, *more], self.now, **settings)


def test_many_symbols_are_fetched_by_whole_days(db: Database) -> None:
    nights = Nights(db, OVERLAP + 5)
    planned = nights.plan(*stocks("NEW"))
    newest = [to_datetime(ts).date() for ts in nights.vendor.bars.ts[298 - OVERLAP : 299]]
    assert planned.market_days == newest
    assert planned.by_market_days == set(nights.symbols)
    assert planned.requests == {"polygon": OVERLAP + 1 + 1}  # NEW has a request of its own
    assert planned.minutes == {"polygon": 2.0}


def test_weeks_that_begin_with_a_holiday_come_from_whole_days(db: Database) -> None:
    stock = stocks(*(f"S{n:03}" for n in range(300)), timeframes="1d,1w")
    monday = datetime(2024, 1, 15, tzinfo=UTC)  # Martin Luther King's day
    planned = plan(db, stock, monday + timedelta(days=5), history_days=4)
    assert [f"{day:%m-%d}" for day in planned.market_days] == ["01-16", "01-17", "01-18", "01-19"]
    assert len(planned.by_market_days) == 300
    assert planned.requests == {"polygon": 4}


def test_whole_days_are_not_bought_where_they_cost_more_or_nobody_sells_them(db: Database) -> None:
    nights = Nights(db, OVERLAP - 1)
    planned = nights.plan()
    assert (planned.market_days, planned.by_market_days) == ([], frozenset())
    assert planned.requests == {"polygon": OVERLAP - 1}
    foreign = stocks(*(f"S{n}.L" for n in range(5)))
    assert nights.plan(*foreign).requests == {"polygon": OVERLAP - 1, "yahoo": 5}
    assert nights.plan(*stocks("A", "B", "C", "D", "E"), whole_days=()).market_days == []


def test_a_due_gap_costs_a_request_unless_it_is_fetched_anyway(db: Database) -> None:
    nights = Nights(db, OVERLAP + 5)
    cheapest = nights.plan().requests["polygon"]
    old, recent = (to_datetime(nights.vendor.bars.ts[n]) for n in (200, 297 - OVERLAP + 2))
    with db.begin() as conn:
        for symbol, ts in (("S00", old), ("S01", recent)):
            conn.execute(
                text(
                    "INSERT INTO bar_gaps (symbol, timeframe, ts, cause, next_try_at)"
                    " VALUES (:symbol, '1d', :ts, 'unexplained', now() - interval '1 hour')"
                ),
                {"symbol": symbol, "ts": ts},
            )
    planned = nights.plan()
    assert planned.requests == {"polygon": cheapest + 1}
    assert planned.by_market_days == set(nights.symbols)


def test_what_is_skipped_and_why(db: Database) -> None:
    commands = Commands(db)
    items = [*stocks("AAPL", "IBM", "MSFT"), parse_tracked("SPY", "etf", "1d")]
    commands.track([*items, parse_tracked("X:BTCUSD", "crypto", "1d")], actor="test")
    commands.pause(actor="me", scope="symbol", key="IBM", reason="merger")
    commands.pause(
        actor="me", scope="asset_class", key="etf", until=datetime(2999, 1, 1, tzinfo=UTC)
    )
    commands.pause(actor="me", scope="provider", key="binance")
    commands.untrack("MSFT", actor="me")
    with db.begin() as conn:
        tracked = tracked_symbols.select(conn)
    planned = plan(db, [*tracked, *stocks("VOD.L", "BP.L")], providers={
        **SETTINGS.providers, "stock": ("polygon",)
    })  # fmt: skip
    assert planned.requests == {"polygon": 1}
    assert [(skip.reason, skip.symbols, skip.examples) for skip in planned.skipped] == [
        ("polygon serves US stocks only; add yahoo to PROVIDERS_STOCK", 2, ["VOD.L", "BP.L"]),
        ("asset class etf is paused by me until 2999-01-01 00:00 UTC", 1, ["SPY"]),
        ("not active", 1, ["MSFT"]),
        ("provider binance is paused by me", 1, ["X:BTCUSD"]),
        ("symbol IBM is paused by me: merger", 1, ["IBM"]),
    ]
    commands.pause(actor="me", scope="global", key="", reason="maintenance")
    assert plan(db, tracked).symbols == 0


def tracked(db: Database) -> Commands:
    """Two stocks and a pair, one of the stocks paused."""
    commands = Commands(db, SETTINGS)
    pair = parse_tracked("X:BTCUSD", "crypto", "1h")
    commands.track([*stocks("AAPL", "IBM", timeframes="1d,1w"), pair], actor="test")
    commands.pause(actor="me", scope="symbol", key="IBM")
    return commands


def changes(db: Database) -> tuple[int, int]:
    """Jobs, and commands in the audit log."""
    reader = ReadModels(db)
    return reader.history(1).total, reader.list_totals().actions


def test_a_trigger_is_previewed_over_the_api(db: Database) -> None:
    commands, reader = tracked(db), ReadModels(db)
    client = create_app(reader, commands, ready=lambda: None).test_client()
    before = changes(db)
    planned = json_body(client.post(f"{ROOT}/trigger?dry_run=true"))
    del planned["timestamp"]
    assert planned == {
        "dry_run": True,
        "symbols_to_process": 2,
        "requests": {"binance": 9, "polygon": 1},
        "minutes": {"binance": 0.0, "polygon": 0.0},
        "total_requests": 10,
        "total_minutes": pytest.approx(3 / 15_000),
        "market_days": [],
        "symbols_by_market_days": 0,
        "in_other_jobs": 0,
        "skipped": [
            {"reason": "symbol IBM is paused by me", "symbols": 1, "examples": ["IBM"]},
        ],
    }
    crypto = json_body(client.post(f"{ROOT}/trigger?dry_run=true&asset_class=crypto"))
    assert crypto["requests"] == {"binance": 9}
    assert json_body(client.post(f"{ROOT}/trigger?dry_run=true&asset_class=etf"), 409)
    assert json_body(client.post(f"{ROOT}/trigger?dry_run=true&symbols=NOSUCH"), 404)
    both = "symbols=AAPL&asset_class=stock"
    assert json_body(client.post(f"{ROOT}/trigger?dry_run=true&{both}"), 409)
    assert changes(db) == before
    commands.trigger(actor="test", symbols=["AAPL"])
    assert json_body(client.post(f"{ROOT}/trigger?dry_run=true"))["in_other_jobs"] == 1


def test_a_trigger_is_previewed_on_the_command_line(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked(db)
    before = changes(db)
    monkeypatch.setenv("DATABASE_URL", db_url)
    shown = CliRunner().invoke(app, ["trigger", "--dry-run"]).output.splitlines()
    assert shown == [
        "2 symbols: about 9 requests to binance, 1 request to polygon, less than a minute",
        "1 symbol not fetched (IBM): symbol IBM is paused by me",
    ]
    content = CliRunner().invoke(app, ["trigger", "AAPL", "--dry-run", "--json"]).output
    assert json.loads(content)["requests"] == {"polygon": 1}
    backfill = ["backfill", "AAPL", "--from", "2020-01-01", "--dry-run"]
    assert "1 symbol: about 2 requests" in CliRunner().invoke(app, backfill).output
    assert changes(db) == before


def test_a_backfill_is_previewed_in_chunks(db: Database) -> None:
    commands = tracked(db)
    before = changes(db)
    start, end = datetime(2020, 1, 1, tzinfo=UTC), datetime(2021, 1, 1, tzinfo=UTC)
    planned = commands.plan_backfill(["AAPL", "X:BTCUSD", "IBM"], start, end)
    assert planned.requests == {"polygon": 2, "binance": 9}  # days and weeks are asked for apart
    assert [skip.examples for skip in planned.skipped] == [["IBM"]]
    with pytest.raises(NotTracked):
        commands.plan_backfill([], start, end)
    with pytest.raises(InvalidRequest, match="before the end"):
        commands.plan_backfill(["AAPL"], end, start)
    assert changes(db) == before


def test_the_plan_of_a_backfill_knows_each_symbols_hours(db: Database) -> None:
    stocks_from = {**SETTINGS.providers, "stock": ("yahoo", "polygon")}
    commands = Commands(db, replace(SETTINGS, providers=stocks_from))
    commands.track([parse_tracked("AAPL", "stock", "1h", "extended")], actor="test")
    set_stock_sessions({})  # as in a process that has just started
    window = datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 9, tzinfo=UTC)
    try:
        planned = commands.plan_backfill(["AAPL"], *window)
    finally:
        set_stock_sessions({})
    assert planned.requests == {"polygon": 1}  # Yahoo has no extended hours


def test_the_plan_in_words(db: Database) -> None:
    assert plan(db, []).sentences == ["0 symbols: no requests, less than a minute"]
    nights = Nights(db, OVERLAP + 5)
    foreign = stocks(*(f"S{n}.L" for n in range(6)))
    planned = nights.plan(*foreign, providers={**SETTINGS.providers, "stock": ("polygon",)})
    first, last = planned.market_days[0], planned.market_days[-1]
    assert planned.sentences == [
        "15 symbols: about 11 requests to polygon, 2 min at the vendors' quotas",
        f"11 days of the whole US market, {first} to {last}, serve 15 symbols",
        "6 symbols not fetched (S0.L, S1.L, S2.L, S3.L, S4.L, …): polygon serves US stocks only; "
        "add yahoo to PROVIDERS_STOCK",
    ]


@pytest.mark.parametrize("paused", [True, False])
def test_a_pause_that_is_over_skips_nothing(db: Database, paused: bool) -> None:
    until = datetime(2999 if paused else 1999, 1, 1, tzinfo=UTC)
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO pauses (scope, key, paused_by, until)"
                " VALUES ('provider', 'polygon', 'me', :until)"
            ),
            {"until": until},
        )
    planned = plan(db, stocks("AAPL"))
    assert planned.symbols == (0 if paused else 1)
    assert [skip.symbols for skip in planned.skipped] == ([1] if paused else [])
