"""Corporate actions by hand: over HTTP and on the command line, audited, and taken back."""

from __future__ import annotations

from datetime import date

import pytest
from sqlalchemy import text

from enrichment.domain.corporate_actions import ActionKind, CorporateAction
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse import corporate_actions
from enrichment.warehouse.database import Database
from tests.helpers.api_client import api_client

ACTIONS = "/api/v1/enrichment/corporate-actions"
KEY = {"symbol": "NVDA", "kind": "split", "effective_date": "2024-06-10"}


def audited(db: Database) -> list[tuple[str, str, str]]:
    with db.begin() as conn:
        rows = conn.execute(text("SELECT action, target, reason FROM operator_actions ORDER BY id"))
        return [tuple(row) for row in rows]


def factor(db: Database) -> float | None:
    with db.begin() as conn:
        value: float | None = conn.execute(
            text("SELECT min(split_factor) FROM adjustment_factors WHERE symbol = 'NVDA'")
        ).scalar()
        return value


def test_an_action_is_added_refuted_and_restored(db: Database) -> None:
    client = api_client(db)
    added = client.post(ACTIONS, json={**KEY, "ratio": 10.0, "reason": "filed"})
    assert (added.status_code, added.json["enriched_again"]) == (201, False)
    assert factor(db) == 0.1
    assert client.post(f"{ACTIONS}/refute", json={**KEY, "reason": "cancelled"}).status_code == 200
    assert factor(db) is None
    (listed,) = client.get(f"{ACTIONS}?symbol=nvda").json["actions"]
    assert (listed["applies"], listed["sources"]) == (False, ["manual"])
    assert client.get(f"{ACTIONS}?withdrawn=false").json["count"] == 0
    assert client.post(f"{ACTIONS}/restore", json={**KEY, "reason": "error"}).status_code == 200
    assert client.get(ACTIONS).json["count"] == 0
    assert audited(db) == [
        ("add_action", "NVDA split 2024-06-10", "filed"),
        ("refute_action", "NVDA split 2024-06-10", "cancelled"),
        ("restore_action", "NVDA split 2024-06-10", "error"),
    ]


@pytest.mark.parametrize(
    ("path", "changes", "status", "message"),
    [
        ("", {"ratio": 0.0}, 400, "greater than 0"),
        ("", {}, 409, "the ratio is missing"),
        ("", {"ratio": 1e9}, 409, "at most 100000"),
        ("", {"ratio": 2.0, "reason": " "}, 409, "give a reason"),
        ("", {"kind": "merger"}, 400, "kind"),
        ("", {"effective_date": "10.6.2024"}, 400, "effective_date"),
        ("/refute", {}, 404, "enrichment actions list NVDA"),
        ("/restore", {}, 404, "an operator's account of NVDA split 2024-06-10"),
    ],
)
def test_a_bad_action_is_refused_with_the_reason(
    db: Database, path: str, changes: dict[str, object], status: int, message: str
) -> None:
    answer = api_client(db).post(ACTIONS + path, json={**KEY, "reason": "why", **changes})
    assert (answer.status_code, message in answer.text) == (status, True), answer.text
    assert audited(db) == []


def test_the_list_is_paged_from_the_latest_on(db: Database) -> None:
    days = ["2024-03-01", "2024-06-01", "2024-06-01", "2024-09-01"]
    symbols = ["A", "A", "B", "A"]
    with db.begin() as conn:
        corporate_actions.record(
            conn,
            [
                CorporateAction(
                    symbol,
                    ActionKind.CASH_DIVIDEND,
                    date.fromisoformat(day),
                    "polygon",
                    amount=1.0,
                )
                for symbol, day in zip(symbols, days, strict=True)
            ],
        )
    client, url = api_client(db), f"{ACTIONS}?limit=1"
    seen = []
    while url:
        page = client.get(url)
        seen += [(a["symbol"], a["effective_date"]) for a in page.json["actions"]]
        url = page.headers.get("Link", "").partition(">")[0].removeprefix("<")
    assert seen == [
        ("A", "2024-09-01"),
        ("A", "2024-06-01"),
        ("B", "2024-06-01"),
        ("A", "2024-03-01"),
    ]
    assert client.get(f"{ACTIONS}?since=2024-06-01&until=2024-06-30").json["count"] == 2


def test_bars_say_on_which_basis_they_are(db: Database) -> None:
    client = api_client(db)
    Commands(db).track([parse_tracked("NVDA", "stock", "1d")], actor="test")
    client.post(ACTIONS, json={**KEY, "ratio": 10.0, "reason": "filed"})
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume) VALUES"
                " ('NVDA', '1d', '2024-06-07T00:00Z', 1200, 1200, 1200, 1200, 5)"
            )
        )
    for query, basis, close in (
        ("", "split", 120.0),
        ("&adjust=none", "none", 1200.0),
        ("&adjust=total", "total", 120.0),
    ):
        answer = client.get(f"/api/v1/data/bars/NVDA?columns=close{query}")
        assert (answer.json["adjust"], answer.headers["X-Adjust"]) == (basis, basis)
        assert answer.json["bars"][0]["close"] == pytest.approx(close)
    assert client.get("/api/v1/data/bars/NVDA?adjust=dividends").status_code == 400
