"""The dashboard's pages without a browser: with data, without data, and without a database."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import exchange_calendars
import numpy as np
import pandas as pd
import pytest
import streamlit as st
from sqlalchemy import text
from streamlit.testing.v1 import AppTest

from enrichment.domain.bars import Floats
from enrichment.domain.model import AssetClass, Timeframe
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.resilience_state import ResilienceStore
from resilience import init_resilience_manager
from tests.helpers.api_client import LOG_LINES, run_open_items, track_symbols
from tests.helpers.dashboard_pages import NAMES, chart_count, open_page, page_text, seed_for_pages
from tests.helpers.nightly_runs import NightlyRuns, quiet_bars

pytestmark = pytest.mark.usefixtures("main_module_kept")


def scored_today(db: Database) -> None:
    """The recorded bars are old, their scores too: make these of today."""
    with db.begin() as conn:
        conn.execute(text("UPDATE data_quality_metrics SET date = current_date"))


@pytest.mark.parametrize("name", NAMES)
def test_without_data_a_page_says_what_to_do(
    name: str, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(name, db_url, monkeypatch)
    assert page.info
    assert chart_count(page) == 0


@pytest.mark.parametrize("name", NAMES)
def test_without_a_database_a_page_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page(name, "postgresql://nobody@127.0.0.1:1/none", monkeypatch)
    assert "does not answer" in page.error[0].value
    assert "Traceback" not in page_text(page)


def test_jobs_shows_the_errors_of_a_job_and_retries_them(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    page = open_page("jobs", db_url, monkeypatch)
    assert chart_count(page) == 3
    assert "requested by cli:ada · month end" in page_text(page)
    assert "**ProviderUnavailable** · 1 symbol, MSFT" in page_text(page)
    metrics = {metric.label: metric.value for metric in page.metric}
    assert (metrics["State"], metrics["Symbols done"], metrics["Failed"]) == (
        "partial",
        "3 of 3",
        "1",
    )
    page.selectbox(key="job-log").set_value("MSFT").run()
    assert "\n".join(LOG_LINES) in [code.value for code in page.code]
    page.button(key="retry-ProviderUnavailable").click().run()
    metrics = {metric.label: metric.value for metric in page.metric}
    assert (metrics["State"], metrics["Symbols done"]) == ("running", "2 of 3")


def test_cancelling_a_job_requires_a_reason(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    track_symbols(db).trigger(actor="test")
    page = open_page("jobs", db_url, monkeypatch)
    assert page.button(key="cancel-confirm").disabled
    page.text_input(key="cancel-reason").set_value("wrong list").run()
    page.button(key="cancel-confirm").click().run()
    with db.begin() as conn:
        rows = conn.execute(
            text("SELECT actor, reason FROM operator_actions WHERE action='cancel'")
        )
        assert [tuple(row) for row in rows] == [("dashboard", "wrong list")]
    assert {metric.label: metric.value for metric in page.metric}["State"] == "cancelled"


def test_resilience_forces_a_breaker(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    page = open_page("resilience", db_url, monkeypatch)
    assert chart_count(page) == 1
    assert "**polygon** · :green[● closed]" in page_text(page)
    assert "All providers available" in page_text(page)
    page.text_input(key="force_open-reason").set_value("vendor maintenance").run()
    page.button(key="force_open-confirm").click().run()
    (action,) = ReadModels(db).audit_log.actions(10, action="breaker_force_open")
    assert (action.target, action.reason, action.actor) == (
        "polygon_api",
        "vendor maintenance",
        "dashboard",
    )


@pytest.mark.parametrize(
    ("action", "mode", "colour", "words"),
    [
        ("disable", "disabled", "orange", "Requests to **polygon** are not protected"),
        ("force_open", "forced_open", "red", "**Providers not available**"),
    ],
)
def test_resilience_says_who_has_set_a_breaker_by_hand(
    action: str,
    mode: str,
    colour: str,
    words: str,
    db: Database,
    db_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commands = seed_for_pages(db)
    commands.override_breaker("polygon_api", action, actor="cli:ada", reason="vendor is moving")
    set_mode = (
        "UPDATE resilience_state SET status = status || jsonb_build_object('mode', :mode)"
        " WHERE kind = 'circuit_breaker'"
    )
    with db.begin() as conn:
        conn.execute(text(set_mode), {"mode": mode})
    page = open_page("resilience", db_url, monkeypatch)
    shown = page_text(page)
    assert f"**polygon** · :{colour}[● {mode.replace('_', ' ')}]" in shown
    assert words in shown
    assert re.search(r"by cli:ada since \d{4}-\d\d-\d\d \d\d:\d\d UTC: vendor is moving", shown)
    assert ("All providers available" in shown) is (mode == "disabled")
    tables = [frame.value for frame in page.dataframe]
    providers = next(table for table in tables if "set by hand" in table)
    assert "by cli:ada" in providers["set by hand"].iloc[0]
    breakers = next(table for table in tables if "retry after" in table)
    assert list(breakers["state"]) == [mode.replace("_", " ")]


def test_the_overview_is_critical_when_no_provider_of_an_asset_class_is_left(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = seed_for_pages(db)
    page = open_page("overview", db_url, monkeypatch)
    assert "No provider is available" not in page_text(page)
    monkeypatch.setenv("POLYGON_API_KEY", "a-key")
    monkeypatch.setenv("PROVIDERS_STOCK", "polygon,yahoo")
    manager = init_resilience_manager(publisher=ResilienceStore(db, "w1"))
    manager.register_circuit_breaker("polygon_api").force_open()
    commands.override_breaker("polygon_api", "force_open", actor="cli:ada", reason="moving")
    manager.register_circuit_breaker("yahoo_api")
    manager.close()
    page = open_page("overview", db_url, monkeypatch)
    assert "No provider is available" not in page_text(page)
    commands.pause(actor="ops", scope="provider", key="yahoo", reason="blocked")
    (banner,) = open_page("overview", db_url, monkeypatch).error
    by_hand = r"forced open by cli:ada since [\d-]+ [\d:]+ UTC \(moving\)"
    vendors = rf"polygon \({by_hand}\), yahoo \(paused\)"
    assert re.search(f"No provider is available for stock: {vendors}", banner.value), banner.value


def test_operations_shows_alerts_and_silences_them(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    page = open_page("operations", db_url, monkeypatch)
    assert "SchedulerNotRunning" in page.error[0].value
    page.selectbox(key="rule").set_value("SchedulerNotRunning")
    page.text_input(key="silence-reason").set_value("moving").run()
    page.button(key="silence-confirm").click().run()
    assert "silenced until" in page.error[0].value
    page.button(key="unsilence-SchedulerNotRunning").click().run()
    assert "silenced until" not in page.error[0].value


def test_symbols_shows_the_prices_of_one_and_its_actions(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    NightlyRuns(db, quiet_bars(300), "SIM1").run_at(300)
    scored_today(db)
    page = open_page("symbols", db_url, monkeypatch)
    assert chart_count(page) == 2
    assert "**simulated**" in page_text(page)
    assert "300 bars stored" in page_text(page)
    assert "1 symbol: about 1 request to polygon, less than a minute" in page_text(page)
    page.button(key="trigger-one").click().run()
    assert page.button(key="resume-one").disabled
    page.text_input(key="pause-one-reason").set_value("merger").run()
    page.button(key="pause-one-confirm").click().run()
    assert "Paused by dashboard" in page.warning[0].value
    assert page.warning[0].value.endswith(": merger")
    page.button(key="resume-one").click().run()
    assert not page.warning
    page.text_input(key="untrack-reason").set_value("delisted").run()
    page.button(key="untrack-confirm").click().run()
    reader = ReadModels(db)
    (action,) = reader.audit_log.actions(10, action="untrack")
    assert (action.target, action.reason) == ("SIM1", "delisted")
    found = reader.symbols.find("SIM1")
    assert found is not None
    assert not found.active
    assert page.warning[0].value == "SIM1 is not tracked any more."


def test_the_log_of_a_failed_run_is_on_the_page_of_the_symbol(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    page = open_page("symbols", db_url, monkeypatch, symbol="MSFT")
    page.selectbox(key="symbol").set_value("MSFT").run()
    assert "\n".join(LOG_LINES) in [code.value for code in page.code]


def chart_of(page: AppTest) -> dict[str, Any]:
    """Trace of the chart of prices → its values."""
    figure = json.loads(page.get("plotly_chart")[-1].proto.spec)
    return {trace["name"]: trace for trace in figure["data"]}


def values_of(column: dict[str, str]) -> Floats:
    """The numbers of a column as plotly sends them."""
    return np.frombuffer(base64.b64decode(column["bdata"]), column["dtype"])


def test_prices_are_shown_on_the_basis_of_the_address(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    NightlyRuns(db, quiet_bars(300), "SIM1").run_at(300)
    with db.begin() as conn:
        days = conn.execute(text("SELECT ts::date FROM bars ORDER BY ts DESC LIMIT 10")).scalars()
        split_day = list(days)[-1]
    Commands(db).add_action("SIM1", "split", split_day, ratio=4.0, reason="test", actor="test")
    dividend = split_day - timedelta(days=20)
    values = {"amount": 0.5, "currency": "USD", "reason": "test", "actor": "test"}
    Commands(db).add_action("SIM1", "cash_dividend", dividend, **values)
    opens = {}
    for adjust in (None, "none", "split", "total"):
        query = {"adjust": adjust} if adjust else {}
        page = open_page("symbols", db_url, monkeypatch, **query)
        assert page.selectbox(key="adjust").value == (adjust or "split")
        traces = chart_of(page)
        opens[adjust] = values_of(traces["price"]["open"])
        assert traces["split"]["x"] == [f"{split_day:%Y-%m-%d}"]
        assert traces["split"]["text"] == [f"split of {split_day:%Y-%m-%d}: 4 for 1"]
        assert traces["dividend"]["text"] == [f"cash dividend of {dividend:%Y-%m-%d}: 0.5 USD"]
        shown = {"none": "USD as traded", "total": "USD adjusted for splits and dividends"}
        assert shown.get(adjust or "split", "USD adjusted for splits") in page_text(page)
    assert opens[None].tolist() == opens["split"].tolist()
    assert opens["split"][0] == pytest.approx(opens["none"][0] / 4)
    assert opens["split"][-1] == opens["none"][-1]
    assert 0.95 * opens["split"][0] < opens["total"][0] < opens["split"][0]


def test_a_bar_that_a_run_corrects_is_drawn_with_its_new_prices(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    NightlyRuns(db, quiet_bars(300), "SIM1").run_at(300)
    page = open_page("symbols", db_url, monkeypatch)
    before = values_of(chart_of(page)["price"]["close"])
    with db.begin() as conn:
        newest = "(SELECT max(ts) FROM bars)"
        conn.execute(text(f"UPDATE bars SET close = 1.5 * close WHERE ts = {newest}"))
        conn.execute(text("UPDATE enrichment_status SET last_success_at = now()"))
    st.cache_resource.clear()  # of the reads; the candles have a cache of their own
    page.run()
    after = values_of(chart_of(page)["price"]["close"])
    assert after[-1] == pytest.approx(1.5 * before[-1])
    assert after[:-1].tolist() == before[:-1].tolist()


def test_operators_state_corporate_actions_on_the_page_of_the_symbol(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    NightlyRuns(db, quiet_bars(300), "SIM1").run_at(300)
    page = open_page("symbols", db_url, monkeypatch)
    day = date(2024, 6, 10)

    def state(what: str) -> list[tuple[float | None, bool]]:
        page.text_input(key=f"{what}-action-reason").set_value("announced").run()
        page.button(key=f"{what}-action-confirm").click().run()
        assert not page.exception, page.exception
        reader = ReadModels(db)
        actions = reader.corporate_actions.listed(10, symbol="SIM1")
        return [(action.ratio, action.applies) for action in actions]

    assert state("add") == []  # without a day
    assert page.toast[0].value == "choose the day of the action"
    page.date_input(key="action-day").set_value(day).run()
    page.number_input(key="action-value").set_value(0.0).run()
    assert state("add") == []
    assert "a ratio of 0 is none" in page.toast[0].value
    page.number_input(key="action-value").set_value(3.0).run()
    assert state("add") == [(3.0, True)]
    assert "1 corporate action, 1 applied" in [expander.label for expander in page.expander]
    assert state("refute") == [(None, False)]
    assert state("restore") == []
    reader = ReadModels(db)
    audited = [row for row in reader.audit_log.actions(10) if row.action.endswith("_action")]
    assert [row.action for row in audited] == ["restore_action", "refute_action", "add_action"]
    assert {(row.target, row.reason) for row in audited} == {("SIM1 split 2024-06-10", "announced")}


def test_a_symbol_is_tracked_from_the_page(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page("symbols", db_url, monkeypatch)
    page.text_input(key="new-symbol").set_value("brk.b")
    page.button[-1].click().run()
    found = ReadModels(db).symbols.find("BRK.B")
    assert found is not None
    assert [state.timeframe for state in found.timeframes] == ["1d"]


def test_a_thousand_symbols_are_shown_page_by_page(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO tracked_symbols (symbol, asset_class, timeframes)"
                " SELECT 'SIM' || 1000 + n, 'stock', '{1d}' FROM generate_series(0, 999) n"
            )
        )
        conn.execute(
            text(
                "INSERT INTO enrichment_status (symbol, timeframe, status, reasons)"
                " VALUES ('SIM1100', '1d', 'stale', '{4 sessions behind}')"
            )
        )
    page = open_page("symbols", db_url, monkeypatch)
    assert list(page.dataframe[0].value["symbol"].iloc[[0, -1]]) == ["SIM1000", "SIM1099"]
    assert "symbols 1–100 of 1,000" in page_text(page)
    assert ":orange[●] 1 stale · :gray[●] 999 not enriched" in page_text(page)
    page.session_state["page"] = 2
    page.run()
    rows = page.dataframe[0].value
    assert list(rows["symbol"].iloc[[0, -1]]) == ["SIM1100", "SIM1199"]
    assert rows["why"].iloc[0] == "4 sessions behind"
    page.selectbox(key="status").set_value("stale").run()
    assert list(page.dataframe[0].value["symbol"]) == ["SIM1100"]
    assert ":orange[●] **1d** 4 sessions behind" in page_text(page)


# The parameters of all pages, their widgets' keys, and one that no page knows.
PARAMETERS = (
    *("search", "status", "kinds", "failed-only", "vendor-span", "local-time"),
    *("symbol", "timeframe", "range", "indicator", "page", "job", "rule", "breaker", "nonsense"),
)
HOSTILE = {
    "NUL": "\0",
    "NUL within": "A\0APL",
    "long": "A" * 10_000,
    "unicode": "Ω\u202e\U0001f6b2\ud7ff é",
    "SQL": "'; DROP TABLE tracked_symbols --",
    "negative": "-1",
    "not a number": "nan",
    "list": '["1d", null, {}]',
    "markup": "<img src=x onerror=alert(1)> **:red[x]**",
    "empty": "",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_page_opens_at_any_address(
    name: str, db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    for kind, value in HOSTILE.items():
        page = open_page(name, db_url, monkeypatch, **dict.fromkeys(PARAMETERS, value))
        for words in ("encountered an error", "Traceback", "does not answer"):
            assert words not in page_text(page), kind
        assert "Refreshed" in page_text(page), kind


def test_a_search_that_matches_nothing_says_so(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    page = open_page("symbols", db_url, monkeypatch)
    for search in ("\0", "A\0APL", "A" * 10_000):
        page.text_input(key="search").set_value(search).run()
        assert not page.exception
        assert "No symbol matches these filters." in page_text(page)


def test_a_symbol_that_is_removed_while_it_is_shown_is_named(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    NightlyRuns(db, quiet_bars(30), "SIM1").run_at(30)
    page = open_page("symbols", db_url, monkeypatch)
    Commands(db).untrack("SIM1", actor="test", reason="delisted")
    st.cache_data.clear()
    page.run()
    assert not page.exception
    assert [warning.value for warning in page.warning] == ["SIM1 is not tracked any more."]


def test_a_job_that_is_cancelled_while_it_is_shown_says_so(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = track_symbols(db).trigger(actor="cli:ada")
    page = open_page("jobs", db_url, monkeypatch)
    Commands(db).cancel(job.job_id, actor="test", reason="holiday")
    st.cache_data.clear()
    page.run()
    assert not page.exception
    assert {metric.label: metric.value for metric in page.metric}["State"] == "cancelled"


def test_quality_shows_scores_gaps_and_corrections(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    NightlyRuns(db, quiet_bars(300)).run_at(300)
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO bar_gaps (symbol, timeframe, ts)"
                " VALUES ('AAPL', '1d', '2024-03-01T00:00Z') ON CONFLICT DO NOTHING"
            )
        )
    scored_today(db)
    page = open_page("quality", db_url, monkeypatch)
    assert chart_count(page) == 4
    assert "No vendor has corrected a stored bar yet." in page_text(page)


@pytest.mark.parametrize(("count", "each"), [(600, 1), (601, 2), (3001, 6)])
def test_bars_are_merged_into_candles(db: Database, count: int, each: int) -> None:
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume, rsi_14)"
                " SELECT 'SIM1', '5m', timestamptz '2024-01-01T00:00Z' + n * interval '5 min',"
                " n, n + 2, n - 2, n + 1, 10, n FROM generate_series(0, :count - 1) n"
            ),
            {"count": count},
        )
    start = datetime(2024, 1, 1, tzinfo=UTC)
    reader = ReadModels(db)
    found = reader.prices.candles(
        "SIM1", Timeframe.M5, start, start + timedelta(days=30), ["rsi_14"]
    )
    assert found.bars_each == each
    assert found.frame["volume"].sum() == 10 * count
    first = found.frame.iloc[0]
    assert (first["open"], first["low"]) == (0, -2)
    assert (first["close"], first["high"], first["rsi_14"]) == (each, each + 1, each - 1)
    assert found.frame["close"].iloc[-1] == count


@pytest.mark.parametrize(
    ("timeframe", "first", "last"),
    [
        ("1d", "2024-06-24", "2024-07-12"),  # over Independence Day
        ("1w", "2024-06-03", "2024-08-05"),
        ("1h", "2024-07-02", "2024-07-06"),  # over the half day before it
        ("30m", "2024-11-01", "2024-11-06"),  # over the end of daylight saving time
        ("15m", "2024-11-27", "2024-12-03"),
    ],
)
def test_missing_bars_are_those_of_the_exchanges_calendar(
    timeframe: str, first: str, last: str, db: Database
) -> None:
    """No weekend, night or holiday is missing, only what was removed."""
    minutes = {"1h": 60, "30m": 30, "15m": 15}
    sessions = exchange_calendars.get_calendar("XNYS").schedule.loc[first:last]
    if timeframe in minutes:
        width = pd.Timedelta(minutes=minutes[timeframe])
        starts = [
            start
            for row in sessions.itertuples()
            for start in pd.date_range(
                row.open.floor("h") if timeframe == "1h" else row.open,
                row.close - pd.Timedelta(1),
                freq=width,
            )
        ]
    else:
        starts = [pd.Timestamp(label, tz="UTC") for label in sessions.index]
        if timeframe == "1w":
            starts = sorted({day - pd.Timedelta(days=day.weekday()) for day in starts})
    removed = [starts[2], *starts[-4:-2]]
    store_flat_bars(db, timeframe, [start for start in starts if start not in removed])
    reader = ReadModels(db)
    start, end = starts[0].to_pydatetime(), starts[-1].to_pydatetime() + timedelta(seconds=1)
    found = reader.prices.candles("SIM1", Timeframe.parse(timeframe), start, end)
    assert [pd.Timestamp(ts, tz="UTC") for ts in found.missing] == removed


def test_missing_bars_of_crypto_are_on_every_day(db: Database) -> None:
    days = pd.date_range("2024-07-01", periods=10, tz="UTC")
    store_flat_bars(db, "1d", [*days[:3], *days[6:]])
    reader = ReadModels(db)
    start, end = days[0].to_pydatetime(), days[-1].to_pydatetime() + timedelta(seconds=1)
    found = reader.prices.candles("SIM1", Timeframe.D1, start, end, asset_class=AssetClass.CRYPTO)
    assert [pd.Timestamp(ts, tz="UTC") for ts in found.missing] == list(days[3:6])


def store_flat_bars(db: Database, timeframe: str, starts: list[pd.Timestamp]) -> None:
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume)"
                " VALUES ('SIM1', :timeframe, :ts, 1, 1, 1, 1, 1)"
            ),
            [{"timeframe": timeframe, "ts": start.to_pydatetime()} for start in starts],
        )


def test_the_overview_shows_metrics_errors_and_statuses(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    with db.begin() as conn:  # at any hour there has been a slot since then
        conn.execute(text("UPDATE enrichment_jobs SET created_at = created_at - interval '1 day'"))
    page = open_page("overview", db_url, monkeypatch)
    shown = {metric.label: metric.value for metric in page.metric}
    assert shown["Last run"] == "just now"
    assert shown["Symbols successful"] == "66.6 %"
    assert shown["Up to date"] == "0.0 %"
    assert shown["Workers alive"] == "1"
    assert page.button(key="trigger-all-confirm").label == "Confirm: Trigger 3 symbols"
    shown_text = page_text(page)
    assert "1 of 3 symbols of the last" in shown_text
    assert "**ProviderUnavailable** · 1 symbol in 1 job, last just now" in shown_text
    assert "2 not enriched · 1 error" in shown_text
    assert page.code[0].value == "answered 500"
    assert chart_count(page) == 2  # the nights and the jobs; nothing has a score yet


def test_some_symbols_are_triggered_and_a_provider_is_paused_and_resumed(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    track_symbols(db)
    page = open_page("overview", db_url, monkeypatch)
    assert page.button(key="trigger-some").label == "Trigger these 3"
    assert "about" not in page_text(page)  # it is only counted for a form that is open
    page.session_state["trigger-some-open"] = True
    page.run()
    assert "3 symbols: about 9 requests to binance, 2 requests to polygon" in page_text(page)
    page.selectbox(key="trigger-class").set_value("stock").run()
    assert page.button(key="trigger-some").label == "Trigger these 2"
    page.button(key="trigger-some").click().run()
    reader = ReadModels(db)
    assert [details.total for details in reader.history(10).details] == [2]
    assert page.button(key="pause-some").disabled
    page.selectbox(key="pause-scope").set_value(("provider", "yahoo")).run()
    page.text_input(key="pause-reason").set_value("maintenance").run()
    page.button(key="pause-some").click().run()
    (pause,) = reader.pauses()
    assert (pause.scope, pause.key, pause.reason) == ("provider", "yahoo", "maintenance")
    assert pause.until is not None
    page.button(key="resume-provider-yahoo").click().run()
    assert reader.pauses() == []


def test_the_failed_symbols_of_one_error_are_listed(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = seed_for_pages(db)
    page = open_page("jobs", db_url, monkeypatch)
    assert "3 of 3" in page_text(page)
    page.selectbox(key="job-error-select").set_value("ProviderUnavailable").run()
    items = next(frame.value for frame in page.dataframe if "last error" in frame.value)
    assert list(items["symbol"]) == ["MSFT"]
    assert list(items["enriched since"]) == [""]
    commands.trigger(actor="test", symbols=["MSFT"])
    run_open_items(db)
    page = open_page("jobs", db_url, monkeypatch, **{"failed-only": "true"})
    assert "1 symbol enriched since or no longer tracked" in page_text(page)
    items = next(frame.value for frame in page.dataframe if "last error" in frame.value)
    assert "yes" in set(items["enriched since"])


def test_the_overview_counts_all_that_is_queued_and_says_why_it_waits(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = Commands(db)
    names = [f"SIM{number}" for number in range(130)]
    commands.track([parse_tracked(name, "stock", "1d") for name in names], actor="test")
    commands.trigger(actor="test")
    page = open_page("overview", db_url, monkeypatch)
    metrics = {metric.label: metric.value for metric in page.metric}
    assert metrics["Queue"] == "130"
    assert "130 symbols wait: no worker is running" in page_text(page)
    overview = ReadModels(db).overview()
    assert (len(overview.job_queue), overview.queued) == (100, 130)


def test_lists_of_operations_say_of_how_many(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed_for_pages(db)
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO enrichment_jobs (kind, schedule, slot_date, state, requested_by,"
                " started_at, completed_at, successful, failed, cancelled, retried)"
                " SELECT 'scheduled', 'nightly', current_date - n, 'completed', 'scheduler',"
                " now(), now(), 1, 0, 0, 0 FROM generate_series(1, 40) n"
            )
        )
    page = open_page("operations", db_url, monkeypatch)
    assert "the newest 30 of 40" in page_text(page)
    page.button(key="slots-limit-more").click().run()
    assert "40 of 40" in page_text(page)
    assert "of 2" in page_text(open_page("resilience", db_url, monkeypatch))  # transitions
