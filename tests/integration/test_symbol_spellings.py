"""One symbol for each instrument, and refusal of symbols that no vendor in use serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from api import create_app
from enrichment.cli.main import app
from enrichment.domain.bars import Bars
from enrichment.domain.errors import InvalidRequest, StepFailed
from enrichment.domain.model import AssetClass, FetchedBars, Task, Timeframe, Window
from enrichment.domain.series import SeriesSnapshot
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline.fetch import SeriesFetcher, SeriesRun
from enrichment.pipeline.fetch_plan import Situation, plan_chunk
from enrichment.services.commands import Commands
from enrichment.services.request_plan import RequestSettings
from enrichment.vendors.canonical import CanonicalProvider
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.facade import ReadModels
from tests.helpers.api_client import ROOT, api_client, json_body

POLYGON_ONLY: Mapping[str, Sequence[str]] = {
    AssetClass.STOCK: ("polygon",),
    AssetClass.ETF: ("polygon",),
    AssetClass.CRYPTO: ("yahoo",),
}
REFUSALS = [
    ("VOD.L", "stock", "VOD.L: polygon serves US stocks only; add yahoo to PROVIDERS_STOCK"),
    (
        "X:ETHUSDC",
        "crypto",
        "X:ETHUSDC: yahoo has no markets in USDC; add binance or coinbase to PROVIDERS_CRYPTO",
    ),
    ("BTC-USD", "stock", "X:BTCUSD: a pair of currencies is of asset class crypto"),
    (
        "AAPL",
        "crypto",
        "AAPL: not a pair of currencies: write X:BASEQUOTE, such as X:BTCUSD",
    ),
]


def stored(db: Database) -> list[tuple[str, list[str]]]:
    with db.begin() as conn:
        rows = conn.execute(text("SELECT symbol, timeframes FROM tracked_symbols ORDER BY symbol"))
        return [(row.symbol, row.timeframes) for row in rows]


def store_as(db: Database, symbol: str, asset_class: str) -> None:
    """Track a symbol as an earlier version did, which only converted it to upper case."""
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO tracked_symbols (symbol, asset_class, timeframes, active)"
                " VALUES (:symbol, :asset_class, ARRAY['1d'], true)"
            ),
            {"symbol": symbol, "asset_class": asset_class},
        )


def test_another_spelling_adds_no_second_series(db: Database) -> None:
    commands = Commands(db)
    for name, timeframe in [("BTC-USD", "1d"), ("x:btc-usd", "1h"), ("X:BTCUSD", "4h")]:
        commands.track([parse_tracked(name, "crypto", timeframe)], actor="test")
    for name in ("BACpL", "BAC-PL", "bac.prl"):
        commands.track([parse_tracked(name, "stock", "1d")], actor="test")
    assert stored(db) == [("BACpL", ["1d"]), ("X:BTCUSD", ["1h", "4h", "1d"])]


def test_what_was_stored_in_another_spelling_keeps_it(db: Database) -> None:
    store_as(db, "BRK-B", "stock")
    store_as(db, "X:BTC-USD", "crypto")
    store_as(db, "BACPL", "stock")
    commands = Commands(db)
    commands.track([parse_tracked("brk.b", "stock", "1h")], actor="test")
    commands.track([parse_tracked("BTC/USD", "crypto", "1h")], actor="test")
    assert stored(db) == [
        ("BACPL", ["1d"]),
        ("BRK-B", ["1h", "1d"]),
        ("X:BTC-USD", ["1h", "1d"]),
    ]
    assert commands.trigger(actor="test", symbols=["BRK.B", "BRK-B"]).symbols_to_process == 1
    commands.pause(actor="test", scope="symbol", key="X:BTCUSD")
    client = api_client(db)
    for name in ("BRK.B", "brk-b"):
        assert json_body(client.get(f"{ROOT}/symbols/{name}"))["symbol"]["symbol"] == "BRK-B"
        assert client.get(f"{ROOT}/dashboard/job-status/{name}").status_code == 200
    commands.untrack("BRK/B", actor="test")
    assert json_body(client.get(f"{ROOT}/symbols/BRK.B"))["symbol"]["active"] is False


def test_a_preferred_share_is_found_in_any_case(db: Database) -> None:
    Commands(db).track([parse_tracked("BACpL", "stock", "1d")], actor="test")
    symbols = ReadModels(db).symbols
    assert [found.symbol for found in symbols.page(10, search="bacpl")] == ["BACpL"]


@pytest.mark.parametrize(("symbol", "asset_class", "reason"), REFUSALS)
def test_what_no_vendor_in_use_serves_is_refused(
    symbol: str, asset_class: str, reason: str, db: Database
) -> None:
    commands = Commands(db, RequestSettings(POLYGON_ONLY))
    with pytest.raises(InvalidRequest) as refused:
        commands.track(
            [parse_tracked("MSFT", "stock", "1d"), parse_tracked(symbol, asset_class, "1d")],
            actor="test",
        )
    assert str(refused.value) == reason
    assert stored(db) == []


def test_the_api_and_its_import_refuse_it(db: Database) -> None:
    reader = ReadModels(db)
    client = create_app(
        reader, Commands(db, RequestSettings(POLYGON_ONLY)), ready=lambda: None
    ).test_client()
    body = {"symbol": "VOD.L", "asset_class": "stock", "timeframes": ["1d"]}
    problem = json_body(client.post(f"{ROOT}/symbols", json=body), 409)
    assert REFUSALS[0][2] in problem["detail"]
    content = "symbol,asset_class,timeframes\nMSFT,stock,1d\nVOD.L,stock,1d\n"
    response = client.post(
        f"{ROOT}/symbol-import?dry_run=true", data=content, content_type="text/csv"
    )
    assert json_body(response, 422)["bad_lines"] == [{"line": 3, "detail": REFUSALS[0][2]}]
    assert stored(db) == []


def test_the_command_line_refuses_it_and_doctor_tells_of_tracked_ones(
    db: Database, db_url: str, tmp_path: Path
) -> None:
    store_as(db, "7203.T", "stock")
    csv = tmp_path / "symbols.csv"
    csv.write_text("symbol,asset_class,timeframes\nVOD.L,stock,1d\n")
    environment = {
        "DATABASE_URL": db_url,
        "ENRICHMENT_HOME": str(tmp_path),
        "ENRICHMENT_SANDBOX": "true",
        "PROVIDERS_STOCK": "polygon",
    }

    def run(*arguments: str) -> str:
        result = CliRunner(env=environment).invoke(app, arguments)
        return " ".join(f"{result.output} {result.exception}".split())

    assert REFUSALS[0][2] in run("symbols", "add", "VOD.L")
    assert f"line 2: {REFUSALS[0][2]}" in run("symbols", "import", str(csv))
    assert "7203.T: polygon serves US stocks only; add yahoo to PROVIDERS_STOCK" in run("doctor")
    assert [symbol for symbol, _ in stored(db)] == ["7203.T"]


def test_the_error_for_a_symbol_without_bars_has_the_spelling_that_was_asked_for() -> None:
    class Nothing:
        name = source = "yahoo"

        def fetch(self, *_: object) -> FetchedBars:
            return FetchedBars(Bars.empty(), "yahoo", adjusted=False)

    now = datetime(2026, 3, 18, tzinfo=UTC)
    task = Task(UUID(int=1), "BACpL", AssetClass.STOCK, (Timeframe.D1,), "worker", 1)
    run = SeriesRun(task, Timeframe.D1, now, report=lambda step: None)
    plan = plan_chunk(SeriesSnapshot(), Window(now - timedelta(days=9), now), Situation.FIRST_RUN)
    with pytest.raises(StepFailed) as raised:
        SeriesFetcher(CanonicalProvider(Nothing()), store=None).fetch_and_validate(  # type: ignore[arg-type]
            run, SeriesSnapshot(), plan
        )
    assert "yahoo has no 1d bars of BACpL (asked for BAC-PL)" in str(raised.value.__cause__)
