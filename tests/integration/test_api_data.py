"""Data over HTTP: bars with features in every format, and corrections."""

from __future__ import annotations

from datetime import UTC, datetime
from io import BytesIO, StringIO
from typing import Any

import pandas as pd
import pyarrow.ipc
import pyarrow.parquet
import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline.features import FEATURES
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from tests.helpers.api_client import DATA, api_client, json_body, next_page_url
from tests.helpers.nightly_runs import NightlyRuns, quiet_bars

PRICES = ["open", "high", "low", "close", "volume", "vwap", "trades", "taker_buy_volume"]


@pytest.fixture
def client(db: Database) -> FlaskClient:
    NightlyRuns(db, quiet_bars(300)).run_at(300)
    return api_client(db)


def test_json_has_every_column_of_every_bar(db: Database, client: FlaskClient) -> None:
    value = json_body(client.get(f"{DATA}/bars/AAPL"))
    assert list(value) == ["timestamp", "symbol", "timeframe", "adjust", "bars"]
    assert (value["symbol"], value["timeframe"]) == ("AAPL", "1d")
    assert list(value["bars"][0]) == ["ts", *PRICES, *FEATURES]
    with db.begin() as conn:
        stored = conn.execute(text("SELECT ts, close, rsi_14 FROM bars ORDER BY ts")).all()
    returned = [(bar["ts"], bar["close"], bar["rsi_14"]) for bar in value["bars"]]
    assert returned == [(f"{ts:%Y-%m-%dT%H:%M:%SZ}", close, rsi) for ts, close, rsi in stored]
    assert len(stored) == 300


def test_every_format_has_the_same_values(client: FlaskClient) -> None:
    query = f"{DATA}/bars/AAPL?columns=close&columns=trend_direction&columns=rsi_14"
    expected = pd.DataFrame(json_body(client.get(query))["bars"])
    expected["ts"] = pd.to_datetime(expected["ts"], utc=True)
    readers: dict[str, Any] = {
        "csv": lambda raw: pd.read_csv(StringIO(raw.decode()), parse_dates=["ts"]),
        "arrow": lambda raw: pyarrow.ipc.open_stream(raw).read_all().to_pandas(),
        "parquet": lambda raw: pyarrow.parquet.read_table(BytesIO(raw)).to_pandas(),
    }
    for name, reader in readers.items():
        response = client.get(f"{query}&format={name}")
        assert response.status_code == 200
        assert response.headers["Content-Disposition"].endswith(f'"AAPL-1d.{name}"')
        frame = reader(response.data)
        assert list(frame.columns) == ["ts", "close", "trend_direction", "rsi_14"]
        pd.testing.assert_frame_equal(frame, expected, check_dtype=False, rtol=0, atol=0)


@pytest.mark.parametrize("labels", [["up", "größer", None, "down"], [None] * 4])
def test_labels_of_any_length(db: Database, client: FlaskClient, labels: list[str | None]) -> None:
    with db.begin() as conn:
        conn.execute(
            text(
                "UPDATE bars SET trend_direction = (CAST(:labels AS text[]))[1 + n % 4]"
                " FROM (SELECT ts, (row_number() OVER (ORDER BY ts) - 1)::int AS n FROM bars) b"
                " WHERE b.ts = bars.ts"
            ),
            {"labels": labels},
        )
    value = json_body(client.get(f"{DATA}/bars/AAPL?columns=trend_direction"))
    assert [bar["trend_direction"] for bar in value["bars"]] == labels * 75


def test_a_range_and_a_limit(client: FlaskClient) -> None:
    every = [bar["ts"] for bar in json_body(client.get(f"{DATA}/bars/AAPL"))["bars"]]
    start, end = every[10], every[20]

    def starts(query: str) -> list[str]:
        return [bar["ts"] for bar in json_body(client.get(f"{DATA}/bars/AAPL?{query}"))["bars"]]

    assert starts(f"from={start}&to={end}") == every[10:20]
    assert starts(f"from={start[:10]}&limit=3") == every[10:13]
    assert starts("from=2200-01-01") == starts("timeframe=1h") == []
    assert client.get(f"{DATA}/bars/AAPL?timeframe=1h&format=csv").data.count(b"\n") == 1


def test_a_long_series_in_several_chunks_is_complete(db: Database) -> None:
    Commands(db).track([parse_tracked("SIM1", "stock", "5m")], actor="test")
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume)"
                " SELECT 'SIM1', '5m', timestamptz '2024-01-01T00:00Z' + n * interval '5 min',"
                " n, n, n, n, n FROM generate_series(0, 45000) n"
            )
        )
    client = api_client(db)
    for name in ("json", "csv", "parquet"):
        response = client.get(f"{DATA}/bars/SIM1?timeframe=5m&columns=close&format={name}")
        assert response.headers["X-Simulated"] == "true"
        if name == "json":
            closes = [bar["close"] for bar in response.get_json()["bars"]]
        elif name == "csv":
            closes = pd.read_csv(StringIO(response.text))["close"].tolist()
        else:
            closes = pyarrow.parquet.read_table(BytesIO(response.data))["close"].to_pylist()
        assert closes == [float(n) for n in range(45001)]


@pytest.mark.parametrize(
    ("query", "status", "detail"),
    [
        ("NOPE", 404, "not tracked"),
        ("AAPL?columns=password", 400, "'open', 'high'"),
        ("AAPL?from=yesterday", 400, "2024-03-01"),
        ("AAPL?to=2024-13-01", 400, "2024-03-01"),
        ("AAPL?from=1709251200", 400, "2024-03-01"),
        ("AAPL?format=xlsx", 400, "'json', 'csv', 'arrow' or 'parquet'"),
        ("AAPL?timeframe=2d", 400, "'5m'"),
        ("AAPL?limit=0", 400, "limit='0'"),
    ],
)
def test_bars_with_bad_input(client: FlaskClient, query: str, status: int, detail: str) -> None:
    assert detail in json_body(client.get(f"{DATA}/bars/{query}"), status)["detail"]


def test_corrections_newest_first(db: Database, client: FlaskClient) -> None:
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO data_corrections (symbol, timeframe, ts, field, old_value, new_value,"
                " reason, source, corrected_at) SELECT 'MSFT', '1d', '2024-03-01T00:00Z', 'close',"
                " n, n + 1, 'restated', 'polygon', timestamptz '2024-03-02T00:00Z' + n * interval"
                " '1 day' FROM generate_series(1, 5) n"
            )
        )
    first = client.get(f"{DATA}/corrections?symbol=msft&limit=3")
    value = json_body(first)
    assert list(value["corrections"][0]) == [
        "id",
        "corrected_at",
        "symbol",
        "timeframe",
        "ts",
        "field",
        "old_value",
        "new_value",
        "reason",
        "source",
        "job_id",
    ]
    assert [c["old_value"] for c in value["corrections"]] == [5.0, 4.0, 3.0]
    next_url = next_page_url(first)
    assert next_url is not None
    assert [c["old_value"] for c in json_body(client.get(next_url))["corrections"]] == [2.0, 1.0]
    since = datetime(2024, 3, 6, tzinfo=UTC).isoformat().replace("+", "%2B")
    value = json_body(client.get(f"{DATA}/corrections?since={since}&timeframe=1d&symbol=MSFT"))
    assert value["count"] == 2
    assert json_body(client.get(f"{DATA}/corrections?timeframe=1w"))["count"] == 0
