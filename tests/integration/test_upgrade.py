"""A database of the version before: after the upgrade nothing is lost and work goes on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
from sqlalchemy import text

from enrichment.domain.corporate_actions import Adjustment
from enrichment.domain.damage import DamageKind
from enrichment.domain.model import Timeframe
from enrichment.domain.schedules import nightly
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline.features import FEATURES
from enrichment.sandbox import create_app, running
from enrichment.services.commands import Commands
from enrichment.warehouse import corporate_actions
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.nightly_slot import NightlySlotStore
from enrichment.warehouse.read_models.bars import BarDownloads
from enrichment.warehouse.read_models.damage import DamageReports
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.schema import is_current
from enrichment.wiring.database import upgrade_schema
from tests.helpers import old_version
from tests.helpers.api_client import DATA, ROOT, api_client
from tests.helpers.waiting import until
from tests.helpers.worker_in_process import bare_worker

NEXT_NIGHT = old_version.LAST_NIGHT + timedelta(days=1)
_numbers = itertools.count()

Row = tuple[Any, ...]


@pytest.fixture
def old(server: Database) -> Iterator[Database]:
    """A database as the version before left it."""
    name = f"old_version_{next(_numbers)}"
    with server.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(text(f"CREATE DATABASE {name}"))
        url = server.url.set(database=name).render_as_string(hide_password=False)
        old_version.restore(url)
        database = Database(url, pool_size=3)
        yield database
        database.close()
        conn.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
def upgraded(old: Database) -> Database:
    """The same database at this version."""
    upgrade_schema(old)
    return old


@pytest.fixture(scope="module")
def vendor() -> Iterator[str]:
    """The sandbox of the old installation on the next night, without faults."""
    with running(create_app(clock=lambda: NEXT_NIGHT, anchor=old_version.ANCHOR)) as address:
        yield address


def rows(db: Database, query: str, **values: object) -> list[Row]:
    with db.begin() as conn:
        return [tuple(row) for row in conn.execute(text(query), values)]


def columns(db: Database) -> dict[str, list[str]]:
    """Table → its columns, sorted; partitions are left out."""
    found = rows(db, COLUMNS)
    return {table: list(names) for table, names in found}


def contents(db: Database, tables: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Table → its rows as text, sorted."""
    return {
        table: sorted(
            row[0] for row in rows(db, f"SELECT ROW({', '.join(names)})::text FROM {table}")
        )
        for table, names in tables.items()
        if table != "alembic_version"
    }


def test_every_row_survives_the_upgrade(old: Database) -> None:
    tables = columns(old)
    before = contents(old, tables)
    assert not is_current(old, FEATURES)
    upgrade_schema(old)
    assert is_current(old, FEATURES)
    after = contents(old, tables)
    changed = {table for table in tables if table in before and before[table] != after[table]}
    # Gaps whose bar was received but quarantined name that as their cause, and those closed for
    # want of trades are fetched again after a month; no other row differs.
    assert changed == {"bar_gaps"}
    assert len(before["bar_gaps"]) == len(after["bar_gaps"])
    explained = rows(old, "SELECT symbol, ts FROM bar_gaps WHERE cause = 'quarantined'")
    quarantined = rows(old, "SELECT symbol, ts FROM bar_quarantine")
    assert sorted(explained) == sorted(quarantined)
    closed = rows(old, "SELECT 1 FROM bar_gaps WHERE resolution = 'no_trades'")
    differing = {*after["bar_gaps"]} - {*before["bar_gaps"]}
    assert (len(differing), len(quarantined)) == (4 + len(closed), 4)


def test_the_schema_becomes_that_of_a_new_database(upgraded: Database, db: Database) -> None:
    for query in SCHEMA:
        assert rows(upgraded, query) == rows(db, query)


def test_former_nights_are_those_of_the_default_schedule(upgraded: Database) -> None:
    nightly_jobs = rows(upgraded, "SELECT DISTINCT schedule, kind FROM enrichment_jobs")
    assert {("nightly", "scheduled"), ("nightly", "catchup")} & {*nightly_jobs}
    assert {kind for schedule, kind in nightly_jobs if schedule is None} <= {"manual", "backfill"}
    ((newest,),) = rows(upgraded, "SELECT max(slot_date) FROM enrichment_jobs")
    slots, slot = NightlySlotStore(upgraded), nightly().slot(newest)
    assert slots.open_due_jobs(slot.at + timedelta(hours=3)) == {}  # it has run already
    reader = ReadModels(upgraded)
    assert {one.schedule for one in reader.slots()} == {"nightly"}
    assert reader.slots()[0].slot == slot.at
    assert slots.open_due_jobs(slot.at + timedelta(days=1)).keys() == {"nightly"}


def test_a_second_upgrade_changes_nothing(upgraded: Database) -> None:
    def state() -> tuple[object, ...]:
        return contents(upgraded, columns(upgraded)), [rows(upgraded, query) for query in SCHEMA]

    before = state()
    upgrade_schema(upgraded)
    assert state() == before


def test_open_jobs_are_finished_and_the_next_night_runs(
    upgraded: Database, db: Database, vendor: str
) -> None:
    commands = Commands(upgraded)
    ((backfill,), (manual,)) = rows(upgraded, OPEN_JOBS)
    with worker(upgraded, vendor):
        until(lambda: ended(upgraded, backfill), "the backfill ends", 30)
        until(lambda: statuses(upgraded, manual).get("MSFT") == "completed", "MSFT is stored", 30)
        assert statuses(upgraded, manual)["SIM7"] == "pending"  # the symbol's pause still holds
        commands.resume(actor="test", scope="symbol", key="SIM7")
        until(lambda: ended(upgraded, manual), "the manual job ends", 30)
        assert {*statuses(upgraded, manual).values()} == {"completed"}
        night = commands.trigger(actor="test").job_id
        until(lambda: ended(upgraded, night), "the night ends", 30)
        assert statuses(upgraded, night) == dict.fromkeys(old_version.SYMBOLS, "completed")
    ((first,),) = rows(upgraded, "SELECT min(ts) FROM bars WHERE symbol = 'X:SIM1USD'")
    assert first == datetime(2025, 6, 1, tzinfo=UTC)  # where the backfill was to begin
    missing = {*bars_of_a_new_database(db, vendor)} - {*rows(upgraded, BARS)}
    assert {(symbol, ts) for symbol, _, ts, *_ in missing} == {*rows(upgraded, GAPS)}
    assert rows(upgraded, NEWEST) == rows(db, NEWEST)


def bars_of_a_new_database(db: Database, vendor: str) -> list[Row]:
    """What one run of this version stores of the same symbols."""
    commands = Commands(db)
    stocks = [parse_tracked(symbol, "stock", "1d") for symbol in ("AAPL", "IBM", "MSFT")]
    others = [parse_tracked("SIM7", "stock", "1w"), parse_tracked("X:SIM1USD", "crypto", "1d")]
    commands.track([*stocks, *others], actor="test")
    job = commands.trigger(actor="test").job_id
    with worker(db, vendor):
        until(lambda: ended(db, job), "the new database is filled", 30)
    return rows(db, BARS)


def test_the_api_answers_on_an_upgraded_database(upgraded: Database) -> None:
    client = api_client(upgraded)
    ((job,),) = rows(upgraded, "SELECT job_id FROM enrichment_jobs WHERE kind = 'catchup'")
    values = {"symbol": "AAPL", "job_id": str(job), "name": "polygon_api", "rule": "LongDuration"}
    paths = client.get("/openapi.json").get_json()["paths"]
    for path in [path for path, methods in paths.items() if "get" in methods]:
        response = client.get(path.format(**values))
        assert response.status_code == 200, (path, response.get_data(as_text=True))
    details = client.get(f"{ROOT}/jobs/{job}").get_json()
    assert (details["state"], details["counts"]) == ("partial", {"completed": 5, "failed": 1})
    pauses = client.get(f"{ROOT}/pauses").get_json()["pauses"]
    assert [(pause["scope"], pause["key"]) for pause in pauses] == [
        ("provider", "yahoo"),
        ("symbol", "SIM7"),
    ]
    corrections = client.get(f"{DATA}/corrections?symbol=AAPL").get_json()["corrections"]
    assert {one["reason"] for one in corrections} == {"source_updated"}
    audit = client.get(f"{ROOT}/audit").get_json()["actions"]
    assert "profit warning of that evening" in {action["reason"] for action in audit}
    alerts = client.get(f"{ROOT}/alerts").get_json()["alerts"]
    assert "HighFailureRate" in {alert["rule"] for alert in alerts if alert["state"] == "firing"}


PRICES = "symbol, ts, open, high, low, close, volume"
SPLIT_DAY = date(2026, 2, 3)


def adjust_aapl(old: Database) -> None:
    """Let the version before have stored AAPL adjusted for a split of 4 for 1."""
    with old.begin() as conn:
        conn.execute(
            text(
                "UPDATE bars SET open = open / 4, high = high / 4, low = low / 4,"
                " close = close / 4, volume = volume * 4 WHERE symbol = 'AAPL' AND ts < :day"
            ),
            {"day": SPLIT_DAY},
        )
        conn.execute(text("UPDATE enrichment_status SET adjusted = true WHERE symbol = 'AAPL'"))


def run_night(db: Database, vendor: str, job: UUID | None = None) -> None:
    job = job or Commands(db).trigger(actor="test", symbols=["AAPL"]).job_id
    with worker(db, vendor):
        until(lambda: ended(db, job), "the run ends", 30)
    assert statuses(db, job) == {"AAPL": "completed"}


def prices_of(db: Database, table: str = "bars") -> dict[datetime, tuple[float, ...]]:
    return {
        ts: tuple(values)
        for _, ts, *values in rows(
            db, f"SELECT {PRICES} FROM {table} WHERE symbol = 'AAPL' AND ts < :day", day=SPLIT_DAY
        )
    }


def basis(db: Database) -> tuple[bool, datetime | None]:
    query = "SELECT adjusted, adjusted_until FROM enrichment_status WHERE symbol = 'AAPL'"
    return rows(db, query)[0]


def closes(db: Database, adjustment: Adjustment) -> dict[datetime, float]:
    """What a reader gets of the bars before the split."""
    end = datetime(2026, 2, 3, tzinfo=UTC)
    downloads = BarDownloads(db)
    extent = downloads.extent("AAPL", Timeframe.D1, end=end, adjustment=adjustment)
    table = pa.Table.from_batches(list(downloads.chunks(extent, ["close"])))
    starts, values = table["ts"].to_pylist(), table["close"].to_pylist()
    return {ts: close for ts, close in zip(starts, values, strict=True) if ts < end}


def assert_as_traded(db: Database, traded: dict[datetime, tuple[float, ...]]) -> None:
    """The bars are those before the adjustment, and the adjusted ones are versions."""
    now = prices_of(db)
    assert now.keys() >= traded.keys()
    assert basis(db) == (False, None)
    for ts, values in traded.items():
        assert now[ts] == pytest.approx(values, rel=1e-9)
    adjusted = {ts: values[3] / 4 for ts, values in traded.items()}
    kept = rows(db, "SELECT ts, close FROM bar_versions WHERE symbol = 'AAPL'")
    assert {(ts, round(close, 6)) for ts, close in adjusted.items()} <= {
        (ts, round(close, 6)) for ts, close in kept
    }


def test_an_adjusted_series_is_put_back_once_its_splits_are_known(
    old: Database, vendor: str
) -> None:
    traded = prices_of(old)
    adjust_aapl(old)
    upgrade_schema(old)
    Commands(old).add_action("AAPL", "split", SPLIT_DAY, ratio=4.0, reason="r", actor="test")
    with old.begin() as conn:
        corporate_actions.note_refresh(conn, "polygon", "AAPL", date(2020, 1, 1), NEXT_NIGHT)
    expected = {ts: values[3] for ts, values in traded.items()}
    assert closes(old, Adjustment.NONE) == pytest.approx(expected, rel=1e-9)
    assert DamageReports(old).find(["AAPL"], NEXT_NIGHT) == []
    run_night(old, vendor)
    assert_as_traded(old, traded)
    for adjustment, shares in ((Adjustment.NONE, 1), (Adjustment.SPLIT, 4)):
        read = closes(old, adjustment)
        assert {ts: read[ts] * shares for ts in expected} == pytest.approx(expected, rel=1e-9)


def test_an_adjusted_series_of_unknown_splits_reads_as_stored_until_it_is_fetched_again(
    old: Database, vendor: str
) -> None:
    traded = prices_of(old)
    adjust_aapl(old)
    upgrade_schema(old)
    run_night(old, vendor)
    assert basis(old)[0]
    expected = {ts: values[3] / 4 for ts, values in traded.items()}
    for adjustment in Adjustment:
        read = closes(old, adjustment)
        assert {ts: read[ts] for ts in expected} == pytest.approx(expected, rel=1e-9)
    (finding,) = DamageReports(old).find(["AAPL"], NEXT_NIGHT)
    assert finding.kind is DamageKind.ADJUSTED_PRICES
    assert finding.example.endswith("of which none are known")
    commands = Commands(old)
    repair = commands.repair(["AAPL"], kinds=["adjusted_prices"], actor="test", reason="r")
    run_night(old, vendor, repair.job_id)
    assert_as_traded(old, traded)
    assert DamageReports(old).find(["AAPL"], NEXT_NIGHT) == []


def test_bars_that_the_vendor_no_longer_serves_are_put_on_the_basis_of_those_it_does(
    old: Database, vendor: str
) -> None:
    traded = prices_of(old)
    adjust_aapl(old)
    with old.begin() as conn:  # an older bar, adjusted for another split of 2 for 1 besides
        conn.execute(
            text(
                "INSERT INTO bars (symbol, timeframe, ts, open, high, low, close, volume)"
                " SELECT symbol, timeframe, timestamptz '1999-01-04', 10, 10, 10, 10, 100"
                " FROM bars WHERE symbol = 'AAPL' LIMIT 1"
            )
        )
        conn.execute(
            text(
                "UPDATE bars SET open = open / 2, high = high / 2, low = low / 2,"
                " close = close / 2, volume = volume * 2"
                " WHERE symbol = 'AAPL' AND ts < '2026-01-06'"
            )
        )
        conn.execute(
            text(
                "UPDATE enrichment_status SET first_ts = '1999-01-04', bars = bars + 1,"
                " history_from = '1999-01-04' WHERE symbol = 'AAPL'"
            )
        )
    upgrade_schema(old)
    repair = Commands(old).repair(["AAPL"], kinds=["adjusted_prices"], actor="test", reason="r")
    run_night(old, vendor, repair.job_id)
    prices = prices_of(old)
    for ts, values in traded.items():
        assert prices[ts] == pytest.approx(values, rel=1e-9)
    oldest = prices[datetime(1999, 1, 4, tzinfo=UTC)]
    assert oldest == pytest.approx((40.0, 40.0, 40.0, 40.0, 25.0), rel=1e-6)
    adjusted, until = basis(old)
    assert (adjusted, until) == (True, sorted(prices)[1])


@contextmanager
def worker(db: Database, vendor: str) -> Iterator[None]:
    """A worker on this database and vendor, on the next night, until the end of the block."""
    heart = Database(db.url.render_as_string(hide_password=False), pool_size=1)
    with db.begin() as conn:
        conn.execute(text("DELETE FROM workers WHERE worker_id = 'inside'"))  # an earlier one
    with closing(heart), bare_worker(db, heart, vendor, NEXT_NIGHT, threads=2, lease=30.0):
        yield


def ended(db: Database, job: UUID) -> bool:
    query = "SELECT completed_at IS NOT NULL FROM enrichment_jobs WHERE job_id = :job"
    return bool(rows(db, query, job=job)[0][0])


def statuses(db: Database, job: UUID) -> dict[str, str]:
    """Symbol → status of the job's item."""
    query = "SELECT symbol, status FROM enrichment_job_items WHERE job_id = :job"
    return dict(rows(db, query, job=job))


OPEN_JOBS = "SELECT job_id FROM enrichment_jobs WHERE completed_at IS NULL ORDER BY kind"
BARS = "SELECT symbol, timeframe, ts, open, high, low, close, volume FROM bars"
GAPS = "SELECT symbol, ts FROM bar_gaps"
NEWEST = "SELECT symbol, max(ts) FROM bars GROUP BY symbol ORDER BY symbol"

_TABLES = """
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
        AND NOT c.relispartition
"""
COLUMNS = f"""
SELECT c.relname, (SELECT array_agg(quote_ident(attname) ORDER BY attname) FROM pg_attribute
    WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped)
{_TABLES}
"""
SCHEMA = (
    f"""
    SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
        pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
    FROM (SELECT c.oid, c.relname {_TABLES}) c
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum) ORDER BY 1, 2
    """,
    f"""
    SELECT c.relname, o.conname, pg_get_constraintdef(o.oid)
    FROM (SELECT c.oid, c.relname {_TABLES}) c
    JOIN pg_constraint o ON o.conrelid = c.oid ORDER BY 1, 2
    """,
    f"""
    SELECT c.relname, pg_get_indexdef(i.indexrelid), obj_description(i.indexrelid)
    FROM (SELECT c.oid, c.relname {_TABLES}) c JOIN pg_index i ON i.indrelid = c.oid ORDER BY 1, 2
    """,
    f"""
    SELECT c.relname, t.tgname, pg_get_triggerdef(t.oid)
    FROM (SELECT c.oid, c.relname {_TABLES}) c
    JOIN pg_trigger t ON t.tgrelid = c.oid AND NOT t.tgisinternal ORDER BY 1, 2
    """,
    f"SELECT c.relname, obj_description(c.oid), c.relacl::text, c.reloptions {_TABLES} ORDER BY 1",
    """
    SELECT p.proname, pg_get_functiondef(p.oid), obj_description(p.oid) FROM pg_proc p
    WHERE p.pronamespace = 'public'::regnamespace AND p.prokind = 'f' ORDER BY 1, 2
    """,
    "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1",
)
