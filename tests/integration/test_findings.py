"""Flags, rejected and missing bars of all symbols: in the API, on the command line, on the page."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text
from typer.testing import CliRunner

from enrichment.cli.main import app
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from tests.helpers.api_client import DATA, api_client, json_body, next_page_url
from tests.helpers.dashboard_pages import open_page, page_text

ROWS = """
INSERT INTO bar_flags (symbol, timeframe, ts, check_name, severity, detail, found_at)
SELECT 'S' || n % 3, '1d', timestamptz '2024-03-01T00:00Z' + n / 6 * interval '1 day',
    CASE n % 2 WHEN 0 THEN 'outlier' ELSE 'volume_spike' END, 'warning', 'n ' || n,
    timestamptz '2024-04-01T00:00Z' + n * interval '1 hour'
FROM generate_series(0, 23) n;
INSERT INTO bar_quarantine (symbol, timeframe, ts, check_name, detail, source, bar)
SELECT 'S1', '1h', '2024-03-01T15:00Z', 'high_below_low', 'n ' || n, 'polygon',
    jsonb_build_object('open', n) FROM generate_series(1, 5) n;
INSERT INTO bar_gaps (symbol, timeframe, ts, cause, error)
VALUES ('S1', '1h', '2024-03-01T15:00Z', 'quarantined', 'high_below_low: 1 > 2'),
    ('S2', '1d', '2024-03-02T00:00Z', 'unexplained', NULL),
    ('S2', '1d', '2024-03-03T00:00Z', 'vendor_outage', '503'),
    ('GONE', '1d', '2024-03-03T00:00Z', 'vendor_outage', '503');
INSERT INTO bar_gaps (symbol, timeframe, ts, cause, resolved_at, resolution)
VALUES ('S2', '1d', '2024-03-04T00:00Z', 'vendor_outage', now(), 'filled');
"""


@pytest.fixture
def client(db: Database) -> FlaskClient:
    commands = Commands(db)
    symbols = [parse_tracked(name, "stock", "1d,1h") for name in ("S0", "S1", "S2", "GONE")]
    commands.track(symbols, actor="test")
    commands.untrack("GONE", actor="test")
    with db.begin() as conn:
        conn.execute(text(ROWS))
    return api_client(db)


def every_page(client: FlaskClient, url: str, key: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    while url:
        response = client.get(url)
        value = json_body(response)
        assert value["count"] == len(value[key])
        rows += value[key]
        url = next_page_url(response) or ""
    assert value["total"] == len(rows)
    return rows


def test_pages_hold_every_finding_once(client: FlaskClient) -> None:
    flags = every_page(client, f"{DATA}/flags?limit=5", "flags")
    keys = [(flag["timestamp"], flag["symbol"], flag["check"]) for flag in flags]
    assert len(set(keys)) == 24
    assert [key[0] for key in keys] == sorted((key[0] for key in keys), reverse=True)
    rejected = every_page(client, f"{DATA}/quarantine?limit=2", "bars")
    assert sorted(bar["detail"] for bar in rejected) == [f"n {n}" for n in range(1, 6)]
    assert rejected[0]["bar"].keys() == {"open"}  # type: ignore[attr-defined]
    gaps = every_page(client, f"{DATA}/gaps?limit=1", "gaps")
    assert [(gap["symbol"], gap["cause"]) for gap in gaps] == [
        ("S2", "vendor_outage"),
        ("S2", "unexplained"),
        ("S1", "quarantined"),
    ]


@pytest.mark.parametrize(
    ("query", "total"),
    [
        ("flags?symbol=S1", 8),
        ("flags?check=outlier", 12),
        ("flags?check=outlier&symbol=S1&limit=1", 4),
        ("flags?since=2024-04-01T20:00:00Z", 4),
        ("flags?timeframe=1w", 0),
        ("quarantine?timeframe=1h", 5),
        ("quarantine?check=outlier", 0),
        ("gaps?cause=vendor_outage", 1),
        ("gaps?cause=vendor_outage&symbol=GONE", 1),
        ("gaps?timeframe=1h", 1),
    ],
)
def test_filters(client: FlaskClient, query: str, total: int) -> None:
    assert json_body(client.get(f"{DATA}/{query}"))["total"] == total


@pytest.mark.parametrize("query", ["flags?cursor=1", "gaps?cause=aliens", "quarantine?since=x"])
def test_bad_input(client: FlaskClient, query: str) -> None:
    assert client.get(f"{DATA}/{query}").status_code == 400


@pytest.mark.usefixtures("main_module_kept")
def test_the_page_lists_them_by_kind_and_says_of_how_many(
    client: FlaskClient, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page("quality", db_url, monkeypatch)
    listed = next(frame.value for frame in page.dataframe if "check" in frame.value)
    assert len(listed) == 24
    assert set(listed["symbol"]) == {"S0", "S1", "S2"}
    assert listed["bar"].iloc[0] == "2024-03-04"  # a date, in every zone
    page.selectbox(key="finding-kind").set_value("outlier").run()
    listed = next(frame.value for frame in page.dataframe if "check" in frame.value)
    assert set(listed["check"]) == {"outlier"}
    page.segmented_control(key="finding-list").set_value("gaps").run()
    listed = next(frame.value for frame in page.dataframe if "cause" in frame.value)
    assert sorted(listed["cause"]) == ["quarantined", "unexplained", "vendor outage"]
    assert "3 of 3" in page_text(page)


@pytest.mark.usefixtures("main_module_kept")
def test_a_long_list_is_extended(
    client: FlaskClient, db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO bar_flags (symbol, timeframe, ts, check_name, severity, detail)"
                " SELECT 'S0', '1d', timestamptz '2020-01-01T00:00Z' + n * interval '1 day',"
                " 'outlier', 'warning', '' FROM generate_series(1, 300) n"
            )
        )
    page = open_page("quality", db_url, monkeypatch)
    assert "200 of 324" in page_text(page)
    page.button(key="findings-limit-more").click().run()
    listed = next(frame.value for frame in page.dataframe if "check" in frame.value)
    assert len(listed) == 324


def test_a_cursor_names_the_last_row(client: FlaskClient) -> None:
    url = next_page_url(client.get(f"{DATA}/flags?limit=1"))
    assert url is not None
    micros = round(datetime(2024, 3, 4, tzinfo=UTC).timestamp() * 1_000_000)
    assert f"cursor={micros}_S0_1d_outlier" in url


def test_the_command_line_lists_them(
    client: FlaskClient, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", db_url)
    listed = CliRunner().invoke(app, ["findings", "flags", "--limit", "5"])
    assert listed.exit_code == 0, listed.output
    assert "5 of 24" in listed.output
    gaps = CliRunner().invoke(app, ["findings", "gaps", "--cause", "quarantined", "--json"])
    assert json.loads(gaps.output)["total"] == 1
