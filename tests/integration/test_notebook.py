"""Questions in SQL on real Postgres: typed tables, nothing written, no query for ever."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from enrichment.config import Settings
from enrichment.domain.errors import ConfigurationError, DatabaseUnavailable, InvalidRequest
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.notebook import WarehouseReader, connect
from enrichment.services.commands import Commands
from enrichment.vendors.guard import VendorProtection
from enrichment.warehouse.database import Database


@pytest.fixture
def warehouse(db: Database, db_url: str) -> Iterator[WarehouseReader]:
    Commands(db).track(
        [parse_tracked("AAPL", "stock", "1d"), parse_tracked("X:BTCUSD", "crypto", "1h")],
        actor="test",
    )
    opened = connect(Settings(database_url=SecretStr(db_url), enrichment_sandbox_port=1))
    yield opened
    opened.close()


def test_values_are_bound_and_times_are_utc(warehouse: WarehouseReader) -> None:
    found = warehouse.query(
        "SELECT symbol, active, created_at, 2 AS two, 0.5::numeric AS half, NULL::float8 AS none"
        " FROM tracked_symbols WHERE symbol = :symbol",
        symbol="AAPL",
    )
    assert found[["symbol", "active", "two", "half"]].to_numpy().tolist() == [
        ["AAPL", True, 2, 0.5]
    ]
    assert isinstance(found["created_at"].dtype, pd.DatetimeTZDtype)
    assert str(found["created_at"].dt.tz) == "UTC"
    assert found[["active", "two", "half", "none"]].dtypes.astype(str).tolist() == [
        "bool",
        "int64",
        "float64",
        "float64",
    ]


def test_a_table_without_rows_has_the_same_types(warehouse: WarehouseReader) -> None:
    query = "SELECT created_at, active, 1 AS one, 0.5::float8 AS half FROM tracked_symbols WHERE "
    full, empty = warehouse.query(query + "true"), warehouse.query(query + "false")
    assert (len(full), len(empty)) == (2, 0)
    assert empty.dtypes[1:].equals(full.dtypes[1:])
    assert isinstance(empty["created_at"].dtype, pd.DatetimeTZDtype)
    assert (empty["created_at"] - datetime(2024, 1, 1, tzinfo=UTC)).dt.total_seconds().empty


def test_integers_with_a_null_become_floats(warehouse: WarehouseReader) -> None:
    found = warehouse.query("SELECT n FROM (VALUES (1), (NULL)) AS rows (n)")
    assert found["n"].dtype == "float64"
    assert found["n"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tracked_symbols SET active = false RETURNING symbol",
        "DELETE FROM tracked_symbols",
        "CREATE TABLE mine (n int)",
        "SELECT setval(pg_get_serial_sequence('data_corrections', 'id'), 7)",
    ],
)
def test_writing_is_refused(warehouse: WarehouseReader, db: Database, statement: str) -> None:
    with pytest.raises(InvalidRequest, match=r"only reads.*'enrichment' commands"):
        warehouse.query(statement)
    with db.begin() as conn:
        active = conn.execute(text("SELECT count(*) FROM tracked_symbols WHERE active")).scalar()
    assert active == 2


def test_a_query_that_takes_too_long_is_stopped(db: Database, db_url: str) -> None:
    warehouse = connect(Settings(database_url=SecretStr(db_url)), timeout_seconds=0.1)
    try:
        with pytest.raises(InvalidRequest, match="stopped by its timeout"):
            warehouse.query("SELECT pg_sleep(30)")
        assert warehouse.query("SELECT 1 AS one")["one"].tolist() == [1]
    finally:
        warehouse.close()


def test_a_wrong_query_says_what_is_wrong(warehouse: WarehouseReader) -> None:
    with pytest.raises(InvalidRequest, match='relation "nothing" does not exist'):
        warehouse.query("SELECT * FROM nothing")
    with pytest.raises(InvalidRequest, match="returns no rows"):
        warehouse.query("SET work_mem = '5MB'")


def test_a_provider_that_does_not_answer_is_an_answer_too(warehouse: WarehouseReader) -> None:
    window = Window(datetime(2024, 1, 2, tzinfo=UTC), datetime(2024, 1, 5, tzinfo=UTC))
    answers = warehouse.ask_each(
        "X:BTCUSD",
        AssetClass.CRYPTO,
        Timeframe.D1,
        window,
        protection=VendorProtection(max_retries=0),
    )
    assert [answer.provider for answer in answers] == ["binance", "polygon", "yahoo"]
    assert all(answer.fetched is None and answer.error for answer in answers)


def test_without_a_database_it_says_where_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"enrichment up.*ENRICHMENT_HOME.*DATABASE_URL"):
        connect(Settings(database_url=None, enrichment_home=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_not_there_is_named() -> None:
    url = SecretStr("postgresql://postgres@127.0.0.1:1/postgres")
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1"):
        connect(Settings(database_url=url))


def test_bars_are_frames_on_the_basis_that_is_asked_for(
    warehouse: WarehouseReader, db: Database
) -> None:
    days = pd.date_range("2024-06-03", periods=8, freq="B", tz="UTC")
    raw = pd.Series([100.0, 102, 101, 103, 26, 27, 26.5, 25], index=days)
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume, sma_20)"
                " VALUES ('AAPL', '1d', :ts, :close, :close, :close, :close, 1000, :close)"
            ),
            [{"ts": ts, "close": close} for ts, close in raw.items()],
        )
        conn.execute(
            text(
                "INSERT INTO enrichment_status (symbol, timeframe, status)"
                " VALUES ('AAPL', '1d', 'healthy')"
            )
        )
    commands = Commands(db)
    commands.add_action("AAPL", "split", days[4].date(), ratio=4.0, reason="r", actor="test")
    commands.add_action(
        "AAPL", "cash_dividend", days[6].date(), amount=0.27, reason="r", actor="test"
    )
    on_basis = {
        "none": raw,
        "split": raw.where(days >= days[4], raw / 4),
        "total": raw.where(days >= days[4], raw / 4).where(days >= days[6], lambda p: p * 0.99),
    }
    for adjust, expected in on_basis.items():
        bars = warehouse.bars("aapl", "1d", adjust=adjust)
        assert bars.index.tolist() == days.tolist()
        assert bars["close"].tolist() == pytest.approx(expected.tolist(), rel=1e-12)
        assert bars["close"].equals(bars["sma_20"])
        assert bars.attrs == {"symbol": "AAPL", "timeframe": "1d", "adjust": adjust}
    default = warehouse.bars("AAPL", start="2024-06-05", end=datetime(2024, 6, 7, tzinfo=UTC))
    assert default["close"].tolist() == [25.25, 25.75]
    assert default["volume"].tolist() == [4000.0, 4000.0]
    assert str(default.index.tz) == "UTC"
    assert list(warehouse.bars("AAPL", columns=["close", "rsi_14"])) == ["close", "rsi_14"]
    assert warehouse.bars("AAPL", "1w").empty
    actions = warehouse.actions("AAPL")
    assert actions.index.tolist() == [days[4].date(), days[6].date()]
    assert actions["applies"].tolist() == [True, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"symbol": "NONE"}, "NONE is not tracked"),
        ({"adjust": "all"}, "choose one of none, split, total"),
        ({"timeframe": "1y"}, "unknown timeframe"),
        ({"columns": ["price"]}, r"unknown columns \['price'\]"),
        ({"start": "yesterday's"}, "is no date or time"),
    ],
)
def test_bars_that_can_not_be_read_are_refused(
    warehouse: WarehouseReader, arguments: dict[str, str], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        warehouse.bars(**{"symbol": "AAPL", **arguments})
