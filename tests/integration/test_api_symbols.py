"""Tracked symbols over HTTP: listing, adding, changing, stopping, importing."""

from __future__ import annotations

from typing import Any

import pytest
from flask.testing import FlaskClient

from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from tests.helpers.api_client import ROOT, body, client_of, next_page, tracking

SYMBOLS = f"{ROOT}/symbols"


@pytest.fixture
def client(db: Database) -> FlaskClient:
    return client_of(db)


@pytest.fixture
def commands(db: Database) -> Commands:
    return tracking(db)


def names(response: Any) -> list[str]:
    return [found["symbol"] for found in body(response)["symbols"]]


def test_listing_by_page_kind_and_part_of_the_name(client: FlaskClient, commands: Commands) -> None:
    first = client.get(f"{SYMBOLS}?limit=2")
    assert names(first) == ["AAPL", "MSFT"]
    following = next_page(first)
    assert following is not None
    assert names(client.get(following)) == ["X:BTCUSD"]
    assert names(client.get(f"{SYMBOLS}?asset_class=crypto")) == ["X:BTCUSD"]
    assert names(client.get(f"{SYMBOLS}?search=sf")) == ["MSFT"]
    commands.untrack("MSFT", actor="test")
    assert names(client.get(f"{SYMBOLS}?active=true")) == ["AAPL", "X:BTCUSD"]
    assert names(client.get(f"{SYMBOLS}?active=false")) == ["MSFT"]


def test_one_symbol(client: FlaskClient, commands: Commands) -> None:
    found = body(client.get(f"{SYMBOLS}/x:btcusd"))["symbol"]
    assert list(found) == [
        "symbol",
        "asset_class",
        "active",
        "simulated",
        "created_at",
        "updated_at",
        "timeframes",
    ]
    assert (found["symbol"], found["asset_class"], found["active"]) == ("X:BTCUSD", "crypto", True)
    assert found["timeframes"] == [
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
    body(client.get(f"{SYMBOLS}/NOPE"), 404)


def test_adding_and_changing(client: FlaskClient) -> None:
    new = {"symbol": "sim1", "asset_class": "stock", "timeframes": ["1d", "5m"]}
    created = client.post(SYMBOLS, json=new)
    found = body(created, 201)["symbol"]
    assert created.headers["Location"] == f"{SYMBOLS}/SIM1"
    assert (found["symbol"], found["simulated"]) == ("SIM1", True)
    assert [state["timeframe"] for state in found["timeframes"]] == ["5m", "1d"]
    assert "PATCH" in body(client.post(SYMBOLS, json=new), 409)["detail"]
    found = body(client.patch(f"{SYMBOLS}/SIM1", json={"timeframes": ["1w"]}))["symbol"]
    assert (found["asset_class"], found["timeframes"][0]["timeframe"]) == ("stock", "1w")
    assert (
        body(client.patch(f"{SYMBOLS}/SIM1", json={"active": False}))["symbol"]["active"] is False
    )
    assert body(client.patch(f"{SYMBOLS}/SIM1", json={"active": True}))["symbol"]["active"] is True
    body(client.patch(f"{SYMBOLS}/NOPE", json={"active": True}), 404)


def test_stopping_ends_its_open_items(client: FlaskClient, commands: Commands) -> None:
    job = commands.trigger(actor="test").job_id
    assert body(client.post(f"{SYMBOLS}/AAPL/deactivate"))["symbol"]["active"] is False
    assert body(client.get(f"{ROOT}/jobs/{job}"))["counts"] == {"cancelled": 1, "pending": 2}
    body(client.post(f"{SYMBOLS}/AAPL/deactivate"), 404)
    body(client.patch(f"{SYMBOLS}/MSFT", json={"active": False}))
    assert body(client.get(f"{ROOT}/jobs/{job}"))["counts"] == {"cancelled": 2, "pending": 1}


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        ({"symbol": "A A", "asset_class": "stock", "timeframes": ["1d"]}, "malformed symbol"),
        ({"symbol": "AA", "asset_class": "bond", "timeframes": ["1d"]}, "'stock', 'etf'"),
        ({"symbol": "AA", "asset_class": "etf", "timeframes": []}, "timeframes"),
        ({"symbol": "AA", "asset_class": "etf", "timeframes": ["2d"]}, "timeframes.0='2d'"),
        ({"symbol": "AA", "asset_class": "etf"}, "timeframes: Field required"),
        ({"symbol": "AA", "class": "etf"}, "unknown parameter 'class': known are symbol"),
        (["AA"], "body"),
    ],
)
def test_adding_what_is_wrong(client: FlaskClient, sent: Any, detail: str) -> None:
    value = body(client.post(SYMBOLS, json=sent), 400)
    assert detail in value["detail"]
    assert value["errors"]


def test_bodies_that_are_no_json(client: FlaskClient) -> None:
    json = {"Content-Type": "application/json"}
    body(client.post(SYMBOLS, data="{", headers=json), 400)
    body(client.post(SYMBOLS, data=b"\xff\xfe", headers=json), 400)
    assert "Content-Type" in body(client.post(SYMBOLS, data="{}"), 400)["detail"]


CSV = "symbol,asset_class,timeframes\nAAPL,stock,1d|1h\nX:ETHUSD,crypto,1h\n"


def imported(client: FlaskClient, content: str | bytes, query: str = "", status: int = 200) -> Any:
    headers = {"Content-Type": "text/csv; charset=utf-8"}
    return body(client.post(f"{ROOT}/symbol-import{query}", data=content, headers=headers), status)


def test_importing_a_file(client: FlaskClient) -> None:
    trial = imported(client, CSV, "?dry_run=true")
    assert (trial["imported"], trial["count"], trial["bad_lines"]) == (False, 2, [])
    assert names(client.get(SYMBOLS)) == []
    value = imported(client, CSV)
    assert (value["imported"], value["count"]) == (True, 2)
    assert value["symbols"][0] == {
        "symbol": "AAPL",
        "asset_class": "stock",
        "timeframes": ["1h", "1d"],
        "active": True,
    }
    assert names(client.get(SYMBOLS)) == ["AAPL", "X:ETHUSD"]


def test_a_file_with_bad_lines_changes_nothing(client: FlaskClient) -> None:
    value = imported(client, CSV + "TSLA,bond,1d\n\n,stock,1d\n", status=422)
    assert (value["imported"], value["count"]) == (False, 2)
    assert [bad["line"] for bad in value["bad_lines"]] == [4, 6]
    assert "bond" in value["bad_lines"][0]["detail"]
    assert names(client.get(SYMBOLS)) == []


@pytest.mark.parametrize("content", ["", "a,b\n1,2", "symbol,asset_class,timeframes\n", '"', "\0"])
def test_files_that_name_nothing(client: FlaskClient, content: str) -> None:
    assert imported(client, content, status=422)["bad_lines"]


def test_a_file_in_another_encoding_or_too_long(client: FlaskClient) -> None:
    imported(client, "symbol,asset_class,timeframes\nÄ".encode("latin-1"), status=400)
    headers = {"Content-Type": "text/csv"}
    body(client.post(f"{ROOT}/symbol-import", data="x" * 2_000_001, headers=headers), 413)
