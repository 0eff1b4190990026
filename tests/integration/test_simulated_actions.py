"""Simulated stocks with splits and dividends, through Polygon's format, a worker and the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pandas as pd
import pytest
from sqlalchemy import text

from enrichment.domain.corporate_actions import Adjustment
from enrichment.domain.model import Timeframe
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.sandbox import create_app, running
from enrichment.services.action_refresh import ActionRefresh
from enrichment.services.commands import Commands
from enrichment.vendors.registry import VENDORS
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.bars import BarDownloads
from enrichment.wiring.vendors import build_action_sources
from resilience import init_resilience_manager
from tests.helpers.waiting import until
from tests.helpers.worker_in_process import bare_worker, settings_for

SPLITS = {"SIM91": ("2025-02-12", 0.5), "SIM92": ("2025-03-12", 1 / 3)}  # SIM92: a dividend, too
NIGHTS = [datetime.fromisoformat(f"2025-{day}T22:30:00+00:00") for day in ("02-11", "03-14")]
KEY = {"Authorization": "Bearer any"}


@contextmanager
def vendor_at(now: datetime) -> Iterator[str]:
    with running(create_app(clock=lambda: now, anchor=now)) as address:
        yield address


def run(db: Database, now: datetime) -> None:
    """Refresh the ledger, then run a worker that asks Polygon at that time."""
    heart = Database(db.url.render_as_string(hide_password=False), pool_size=1)
    query = text("SELECT state FROM enrichment_jobs WHERE job_id = :job")
    with vendor_at(now) as vendor, closing(heart):
        settings = settings_for(db.url.render_as_string(hide_password=False), vendor)
        manager = init_resilience_manager()
        with closing(manager):
            sources = build_action_sources(settings, manager, now=lambda: now)
            refresh = ActionRefresh(db, sources, history_days=120, now=lambda: now)
            assert [result.error for result in refresh.refresh_all()] == [None]
        job = Commands(db).trigger(actor="test").job_id
        with db.begin() as conn:
            conn.execute(text("DELETE FROM workers"))

        def state() -> str:
            with db.begin() as conn:
                return str(conn.execute(query, {"job": job}).scalar_one())

        with bare_worker(db, heart, vendor, now, threads=2, lease=30.0):
            until(lambda: state() not in ("queued", "running"), "the job ends", 120)
        assert state() == "completed"


@pytest.fixture(scope="module")
def stored(shared_db: Database) -> Database:
    """A database after a night before the splits and one after them."""
    tracked = [parse_tracked(name, "stock", "1h,1d,1w") for name in SPLITS]
    Commands(shared_db).track(tracked, actor="test")
    for night in NIGHTS:
        run(shared_db, night)
    return shared_db


def rows(db: Database, query: str) -> list[tuple[object, ...]]:
    with db.begin() as conn:
        return [tuple(row) for row in conn.execute(text(query))]


def read(db: Database, symbol: str, timeframe: Timeframe, adjust: Adjustment) -> pd.DataFrame:
    downloads = BarDownloads(db)
    extent = downloads.extent(symbol, timeframe, adjustment=adjust)
    batches = downloads.chunks(extent, ["close", "volume", "sma_20"])
    return pd.concat([batch.to_pandas() for batch in batches]).set_index("ts")


@pytest.mark.parametrize("symbol", SPLITS)
def test_prices_make_the_step_and_no_check_minds(stored: Database, symbol: str) -> None:
    day, ratio = SPLITS[symbol]
    close = read(stored, symbol, Timeframe.D1, Adjustment.NONE)["close"]
    after = close.index.searchsorted(pd.Timestamp(day, tz="UTC"))
    step = np.log(close.iloc[after] / close.iloc[after - 1])
    assert abs(step + np.log(ratio)) < 0.15
    assert rows(stored, f"SELECT * FROM bar_flags WHERE symbol = '{symbol}'") == []
    assert rows(stored, "SELECT * FROM data_corrections") == []
    health = rows(stored, f"SELECT status FROM enrichment_status WHERE symbol = '{symbol}'")
    assert health == [("healthy",)] * 3


def test_the_ledger_has_what_the_vendor_lists(stored: Database) -> None:
    found = rows(
        stored,
        "SELECT symbol, kind, effective_date::text, round(ratio::numeric, 4)::float8"
        " FROM corporate_actions WHERE symbol IN ('SIM91', 'SIM92')"
        " AND effective_date BETWEEN '2025-01-01' AND '2025-04-01' ORDER BY 1, 3, 2",
    )
    assert found == [
        ("SIM91", "split", "2025-02-12", 0.5),
        ("SIM91", "cash_dividend", "2025-03-12", None),
        ("SIM92", "cash_dividend", "2025-03-12", None),
        ("SIM92", "split", "2025-03-12", 0.3333),
    ]


@pytest.mark.parametrize("symbol", SPLITS)
@pytest.mark.parametrize("timeframe", [Timeframe.H1, Timeframe.D1])
def test_reading_by_split_is_the_vendors_own_adjusted_answer(
    stored: Database, symbol: str, timeframe: Timeframe
) -> None:
    mine = read(stored, symbol, timeframe, Adjustment.SPLIT)
    span = {Timeframe.H1: "30/minute", Timeframe.D1: "1/day"}[timeframe]
    path = f"/v2/aggs/ticker/{symbol}/range/{span}/2024-10-01/2025-03-14?adjusted=true&limit=50000"
    with vendor_at(NIGHTS[-1]) as vendor:
        sent = pd.DataFrame(httpx.get(vendor + path, headers=KEY).json()["results"])
    stamps = pd.to_datetime(sent["t"], unit="ms", utc=True)
    if timeframe is Timeframe.H1:
        starts = stamps.dt.tz_convert("America/New_York")
        sent = sent[(starts.dt.time >= pd.Timestamp("09:30").time()) & (starts.dt.hour < 16)]
        hours = stamps[sent.index].dt.floor("h")
        theirs = sent.groupby(hours).agg({"c": "last", "v": "sum"})
    else:
        theirs = sent.set_index(stamps.dt.normalize())[["c", "v"]]
    common = mine.index.intersection(theirs.index)
    assert len(common) > 80
    np.testing.assert_allclose(mine.loc[common, "close"], theirs.loc[common, "c"], rtol=1e-9)
    np.testing.assert_allclose(mine.loc[common, "volume"], theirs.loc[common, "v"], rtol=1e-9)
    means = mine["close"].rolling(20).mean()
    np.testing.assert_allclose(mine["sma_20"][19:], means[19:], rtol=1e-9)


@pytest.mark.parametrize("symbol", SPLITS)
def test_reading_by_total_is_yahoos_adjusted_close(stored: Database, symbol: str) -> None:
    mine = read(stored, symbol, Timeframe.D1, Adjustment.TOTAL)["close"]
    first, end = (int(ts.timestamp()) for ts in (mine.index[0], NIGHTS[-1] + timedelta(days=1)))
    path = f"/v8/finance/chart/{symbol}?period1={first}&period2={end}&interval=1d&events=div,splits"
    with vendor_at(NIGHTS[-1]) as vendor:
        chart = httpx.get(vendor + path, headers=VENDORS["yahoo"].headers).json()["chart"]
    [result] = chart["result"]
    days = pd.to_datetime(result["timestamp"], unit="s", utc=True).normalize()
    theirs = pd.Series(result["indicators"]["adjclose"][0]["adjclose"], index=days)
    theirs = theirs[~days.duplicated(keep="last")]  # today's live row stands beside the session's
    common = mine.index.intersection(theirs.index)
    assert len(common) > 70
    np.testing.assert_allclose(mine[common], theirs[common], rtol=1e-5)


def test_splits_are_announced_and_not_known_for_years() -> None:
    now = datetime(2025, 2, 1, tzinfo=UTC)
    with vendor_at(now) as vendor:
        path = "/stocks/v1/splits?ticker.any_of=SIM91,SIM92&execution_date.gte=2025-01-01"
        listed = httpx.get(vendor + path, headers=KEY).json()["results"]
    assert [(row["ticker"], row["execution_date"]) for row in listed] == [("SIM91", "2025-02-12")]
