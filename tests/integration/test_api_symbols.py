"""Tracked symbols over HTTP: list, add, change, deactivate, import."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from tests.helpers.api_client import ROOT, api_client, json_body, next_page_url, track_symbols

SYMBOLS = f"{ROOT}/symbols"


@pytest.fixture
def client(db: Database) -> FlaskClient:
    return api_client(db)


@pytest.fixture
def commands(db: Database) -> Commands:
    return track_symbols(db)


def names(response: Any) -> list[str]:
    return [details["symbol"] for details in json_body(response)["symbols"]]


def test_listing_by_page_asset_class_and_search(client: FlaskClient, commands: Commands) -> None:
    first = client.get(f"{SYMBOLS}?limit=2")
    assert names(first) == ["AAPL", "MSFT"]
    next_url = next_page_url(first)
    assert next_url is not None
    assert names(client.get(next_url)) == ["X:BTCUSD"]
    assert names(client.get(f"{SYMBOLS}?asset_class=crypto")) == ["X:BTCUSD"]
    assert names(client.get(f"{SYMBOLS}?search=sf")) == ["MSFT"]
    commands.untrack("MSFT", actor="test")
    assert names(client.get(f"{SYMBOLS}?active=true")) == ["AAPL", "X:BTCUSD"]
    assert names(client.get(f"{SYMBOLS}?active=false")) == ["MSFT"]


def test_one_symbol(client: FlaskClient, commands: Commands) -> None:
    details = json_body(client.get(f"{SYMBOLS}/x:btcusd"))["symbol"]
    assert list(details) == [
        "symbol",
        "asset_class",
        "active",
        "simulated",
        "created_at",
        "updated_at",
        "session",
        "timeframes",
    ]
    assert (details["symbol"], details["asset_class"], details["active"]) == (
        "X:BTCUSD",
        "crypto",
        True,
    )
    assert details["timeframes"] == [
        {
            "timeframe": "1h",
            "status": "not_enriched",
            "bars": 0,
            "first_ts": None,
            "last_ts": None,
            "source": None,
            "quality_score": None,
            "reasons": [],
            "last_success_at": None,
            "last_error": None,
        }
    ]
    json_body(client.get(f"{SYMBOLS}/NOPE"), 404)


def test_adding_and_changing(client: FlaskClient) -> None:
    new = {"symbol": "sim1", "asset_class": "stock", "timeframes": ["1d", "5m"]}
    created = client.post(SYMBOLS, json=new)
    details = json_body(created, 201)["symbol"]
    assert created.headers["Location"] == f"{SYMBOLS}/SIM1"
    assert (details["symbol"], details["simulated"]) == ("SIM1", True)
    assert [state["timeframe"] for state in details["timeframes"]] == ["5m", "1d"]
    assert "PATCH" in json_body(client.post(SYMBOLS, json=new), 409)["detail"]
    details = json_body(client.patch(f"{SYMBOLS}/SIM1", json={"timeframes": ["1w"]}))["symbol"]
    assert (details["asset_class"], details["timeframes"][0]["timeframe"]) == ("stock", "1w")
    assert (
        json_body(client.patch(f"{SYMBOLS}/SIM1", json={"active": False}))["symbol"]["active"]
        is False
    )
    assert (
        json_body(client.patch(f"{SYMBOLS}/SIM1", json={"active": True}))["symbol"]["active"]
        is True
    )
    json_body(client.patch(f"{SYMBOLS}/NOPE", json={"active": True}), 404)


def test_deactivating_cancels_open_items(client: FlaskClient, commands: Commands) -> None:
    job = commands.trigger(actor="test").job_id
    assert json_body(client.post(f"{SYMBOLS}/AAPL/deactivate"))["symbol"]["active"] is False
    assert json_body(client.get(f"{ROOT}/jobs/{job}"))["counts"] == {"cancelled": 1, "pending": 2}
    json_body(client.post(f"{SYMBOLS}/AAPL/deactivate"), 404)
    json_body(client.patch(f"{SYMBOLS}/MSFT", json={"active": False}))
    assert json_body(client.get(f"{ROOT}/jobs/{job}"))["counts"] == {"cancelled": 2, "pending": 1}


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        ({"symbol": "A A", "asset_class": "stock", "timeframes": ["1d"]}, "malformed symbol"),
        ({"symbol": "AA", "asset_class": "bond", "timeframes": ["1d"]}, "'stock', 'etf'"),
        ({"symbol": "AA", "asset_class": "etf", "timeframes": []}, "timeframes"),
        ({"symbol": "AA", "asset_class": "etf", "timeframes": ["2d"]}, "timeframes.0='2d'"),
        ({"symbol": "AA", "asset_class": "etf"}, "timeframes: "),
        ({"symbol": "AA", "class": "etf"}, "'class'"),
        (["AA"], "body"),
    ],
)
def test_adding_an_invalid_symbol(client: FlaskClient, content: Any, detail: str) -> None:
    value = json_body(client.post(SYMBOLS, json=content), 400)
    assert detail in value["detail"]
    assert value["errors"]


def test_bodies_that_are_not_json(client: FlaskClient) -> None:
    headers = {"Content-Type": "application/json"}
    json_body(client.post(SYMBOLS, data="{", headers=headers), 400)
    json_body(client.post(SYMBOLS, data=b"\xff\xfe", headers=headers), 400)
    assert "Content-Type" in json_body(client.post(SYMBOLS, data="{}"), 400)["detail"]


CSV = "symbol,asset_class,timeframes\nAAPL,stock,1d|1h\nX:ETHUSD,crypto,1h\n"


def import_csv(
    client: FlaskClient, content: str | bytes, query: str = "", status: int = 200
) -> Any:
    headers = {"Content-Type": "text/csv; charset=utf-8"}
    return json_body(
        client.post(f"{ROOT}/symbol-import{query}", data=content, headers=headers), status
    )


def test_importing_a_file(client: FlaskClient) -> None:
    dry_run = import_csv(client, CSV, "?dry_run=true")
    assert (dry_run["imported"], dry_run["count"], dry_run["bad_lines"]) == (False, 2, [])
    assert names(client.get(SYMBOLS)) == []
    value = import_csv(client, CSV)
    assert (value["imported"], value["count"]) == (True, 2)
    assert value["symbols"][0] == {
        "symbol": "AAPL",
        "asset_class": "stock",
        "timeframes": ["1h", "1d"],
        "active": True,
        "session": None,
    }
    assert names(client.get(SYMBOLS)) == ["AAPL", "X:ETHUSD"]


def test_a_file_with_bad_lines_changes_nothing(client: FlaskClient) -> None:
    value = import_csv(client, CSV + "TSLA,bond,1d\n\n,stock,1d\n", status=422)
    assert (value["imported"], value["count"]) == (False, 2)
    assert [bad["line"] for bad in value["bad_lines"]] == [4, 6]
    assert "bond" in value["bad_lines"][0]["detail"]
    assert names(client.get(SYMBOLS)) == []


@pytest.mark.parametrize("content", ["", "a,b\n1,2", "symbol,asset_class,timeframes\n", '"', "\0"])
def test_files_without_symbols(client: FlaskClient, content: str) -> None:
    assert import_csv(client, content, status=422)["bad_lines"]


def test_a_file_in_another_encoding_or_too_large(client: FlaskClient) -> None:
    import_csv(client, "symbol,asset_class,timeframes\nÄ".encode("latin-1"), status=400)
    headers = {"Content-Type": "text/csv"}
    json_body(client.post(f"{ROOT}/symbol-import", data="x" * 2_000_001, headers=headers), 413)


def test_of_many_bad_lines_the_first_hundred_are_named(db: Database) -> None:
    body = "symbol,asset_class,timeframes\n" + "A,bond,1d\n" * 50_000
    path = f"{ROOT}/symbol-import"
    response = api_client(db).post(path, data=body, content_type="text/csv")
    value = json_body(response, 422)
    assert (value["bad_line_count"], len(value["bad_lines"])) == (50_000, 100)
    assert value["bad_lines"][-1]["line"] == 101
    assert len(response.data) < 50_000
