"""Several schedules on real Postgres: each with its own slots, symbols, catch-up and history."""

from __future__ import annotations

import json
import threading
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from api import create_app
from enrichment.cli.main import app
from enrichment.domain.model import AssetClass, Failure, RowCounts
from enrichment.domain.schedules import Schedule, nightly
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services import health
from enrichment.services.alerts.metrics import METRICS, AlertInputs
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.nightly_slot import NightlySlotStore
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.read_models.facade import ReadModels
from tests.helpers.api_client import ROOT, json_body

US = Schedule(
    "us",
    time(2, 30),
    ZoneInfo("America/New_York"),
    asset_classes=(AssetClass.STOCK, AssetClass.ETF),
    exchanges=("XNYS",),
)
CRYPTO = Schedule("crypto", time(0, 10), ZoneInfo("UTC"), asset_classes=(AssetClass.CRYPTO,))
TOML = """
[[schedule]]
name = "us"
exchanges = ["XNYS"]
time = "02:30"
zone = "America/New_York"

[[schedule]]
name = "crypto"
asset_classes = ["crypto"]
time = "00:10"
"""
FIRST = date(2025, 2, 1)
SCHEDULERS, DAYS = 8, 100  # two schedules: 200 slots, of which one is in the gap of 9 March


@pytest.fixture
def tracked(db: Database) -> Commands:
    """Two US stocks, one of London, and a crypto pair, all tracked for years."""
    commands = Commands(db)
    stocks = [parse_tracked(name, "stock", "1d") for name in ("AAPL", "BRK.B", "VOD.L")]
    commands.track([*stocks, parse_tracked("X:BTCUSD", "crypto", "1d")], actor="test")
    with db.begin() as conn:
        conn.execute(text("UPDATE tracked_symbols SET created_at = '2024-01-01Z'"))
    return commands


def rows(db: Database, query: str) -> list[tuple[object, ...]]:
    with db.begin() as conn:
        return [tuple(row) for row in conn.execute(text(query))]


def slots_of(db: Database, schedule: str) -> list[tuple[object, ...]]:
    """Date, kind, planned time and symbols of its jobs, oldest first."""
    return rows(
        db,
        "SELECT slot_date, kind, slot_at, (SELECT string_agg(symbol, ' ' ORDER BY symbol)"
        " FROM enrichment_job_items i WHERE i.job_id = j.job_id)"
        f" FROM enrichment_jobs j WHERE schedule = '{schedule}' ORDER BY slot_date",
    )


def known_for_long(db: Database, *schedules: Schedule) -> None:
    with db.begin() as conn:
        for schedule in schedules:
            conn.execute(
                text("INSERT INTO schedules VALUES (:name, '2024-01-01Z')"), {"name": schedule.name}
            )


@pytest.mark.usefixtures("tracked")
def test_eight_schedulers_open_each_of_200_slots_of_two_schedules_once(
    db: Database, db_url: str
) -> None:
    moments = sorted(s.slot(FIRST + timedelta(n)).at for s in (US, CRYPTO) for n in range(DAYS))
    barrier, opened, errors = threading.Barrier(SCHEDULERS), list[UUID](), list[Exception]()

    def tick_at_every_slot() -> None:
        url = f"{db_url}{'&' if '?' in db_url else '?'}options=-c%20synchronous_commit%3Doff"
        database = Database(url, pool_size=1)
        slots = NightlySlotStore(database, (US, CRYPTO))
        try:
            for moment in moments:
                barrier.wait(60)
                opened.extend(slots.open_due_jobs(moment).values())
        except Exception as exc:
            errors.append(exc)
            barrier.abort()
        finally:
            database.close()

    threads = [threading.Thread(target=tick_at_every_slot) for _ in range(SCHEDULERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(opened) == len(set(opened)) == 2 * DAYS
    for schedule, symbols in ((US, "AAPL BRK.B"), (CRYPTO, "X:BTCUSD")):
        planned = [schedule.slot(FIRST + timedelta(n)) for n in range(DAYS)]
        expected = [(slot.date, "scheduled", slot.at, symbols) for slot in planned]
        assert slots_of(db, schedule.name) == expected
    ((gap,),) = rows(
        db, "SELECT slot_at FROM enrichment_jobs WHERE schedule = 'us' AND slot_date = '2025-03-09'"
    )
    assert gap == datetime(2025, 3, 9, 7, 0, tzinfo=UTC)  # 03:00 in New York


@pytest.mark.usefixtures("tracked")
def test_a_time_that_occurs_twice_runs_once(db: Database) -> None:
    early = Schedule("us", time(1, 30), ZoneInfo("America/New_York"))
    slots = NightlySlotStore(db, [early])
    start = datetime(2025, 11, 1, 12, tzinfo=UTC)
    opened = [
        start + timedelta(minutes=10 * n)
        for n in range(6 * 24)
        if slots.open_due_jobs(start + timedelta(minutes=10 * n))
    ]
    assert opened == [datetime(2025, 11, 2, 5, 30, tzinfo=UTC)]  # the first 01:30


@pytest.mark.usefixtures("tracked")
def test_each_schedule_catches_up_its_own_newest_slot_once(db: Database) -> None:
    known_for_long(db, US, CRYPTO)
    slots = NightlySlotStore(db, (US, CRYPTO))
    back = datetime(2025, 2, 10, 9, 0, tzinfo=UTC)  # days after the last slot that anybody ran
    assert set(slots.open_due_jobs(back)) == {"us", "crypto"}
    assert slots.open_due_jobs(back + timedelta(minutes=1)) == {}
    assert [row[:2] for row in slots_of(db, "us")] == [(date(2025, 2, 10), "catchup")]
    assert [row[:2] for row in slots_of(db, "crypto")] == [(date(2025, 2, 10), "catchup")]


@pytest.mark.usefixtures("tracked")
def test_a_late_job_of_one_schedule_is_not_superseded_by_another(db: Database) -> None:
    slots = NightlySlotStore(db, (US, CRYPTO))
    for n in range(2):
        for schedule in (US, CRYPTO):
            slots.open_due_jobs(schedule.slot(FIRST + timedelta(n)).at)
    queued = "SELECT schedule, slot_date FROM enrichment_jobs WHERE state = 'queued' ORDER BY 1"
    assert rows(db, queued) == [("crypto", date(2025, 2, 2)), ("us", date(2025, 2, 2))]


@pytest.mark.usefixtures("tracked")
def test_a_new_schedule_begins_with_its_next_slot(db: Database) -> None:
    slots = NightlySlotStore(db, (US, CRYPTO))
    assert slots.open_due_jobs(datetime(2025, 2, 3, 12, tzinfo=UTC)) == {}
    assert set(slots.open_due_jobs(datetime(2025, 2, 4, 0, 10, tzinfo=UTC))) == {"crypto"}


@pytest.mark.usefixtures("tracked")
def test_symbols_that_are_added_later_are_in_the_next_run_of_their_schedule(db: Database) -> None:
    slots = NightlySlotStore(db, (US, CRYPTO))
    slots.open_due_jobs(US.slot(FIRST).at)
    added = [parse_tracked("MSFT", "stock", "1d"), parse_tracked("7203.T", "stock", "1d")]
    Commands(db).track(added, actor="test")
    slots.open_due_jobs(US.slot(FIRST + timedelta(1)).at)
    assert [row[3] for row in slots_of(db, "us")] == ["AAPL BRK.B", "AAPL BRK.B MSFT"]


class Installation:
    """Two schedules that have both run today, by the database's clock."""

    def __init__(self, db: Database) -> None:
        self.db = db
        with db.begin() as conn:
            self.now: datetime = conn.execute(text("SELECT now()")).scalar_one()
        at = (self.now - timedelta(hours=2)).time().replace(second=0, microsecond=0)
        zone = ZoneInfo("UTC")
        self.us = Schedule("us", at, zone, asset_classes=US.asset_classes, exchanges=US.exchanges)
        self.crypto = Schedule("crypto", at, zone, asset_classes=CRYPTO.asset_classes)
        self.schedules = (self.us, self.crypto)
        self.reader = ReadModels(db, self.schedules)
        worker = WorkerRegistry(db, "w")
        worker.register(host="here", pid=1, version="test", threads=2)
        worker.ticked(self.us.next_slot(self.now).at)

    def run(self, failing: tuple[str, ...] = (), *, days_ago: int = 0) -> None:
        """Run what is due, of that day, to its end."""
        moment = self.us.last_slot(self.now).at - timedelta(days=days_ago)
        opened = NightlySlotStore(self.db, self.schedules).open_due_jobs(moment)
        assert set(opened) == {"us", "crypto"}
        queue = JobQueue(self.db)
        for task in queue.claim("w", 100):
            if task.symbol in failing:
                queue.fail(task, Failure("ProviderUnavailable", "answered 500", "fetch"), None)
                continue
            with self.db.begin() as conn:
                jobs.complete(conn, {task: RowCounts()})
        queue.close_finished_jobs()
        with self.db.begin() as conn:
            conn.execute(
                text(
                    "UPDATE enrichment_jobs SET created_at = :at, started_at = :at,"
                    " completed_at = :at WHERE slot_at = :at"
                ),
                {"at": moment},
            )

    def figure(self, name: str) -> float | None:
        sample = self.reader.monitoring.sample()
        return METRICS[name](
            AlertInputs(self.reader.overview(), health.assess(sample.night), sample)
        )

    def issues(self) -> str:
        return "\n".join(health.assess(self.reader.night()).issues)


@pytest.fixture
def installation(db: Database, tracked: Commands) -> Installation:
    return Installation(db)


def test_the_status_lists_each_schedule_with_its_last_and_next_run(
    installation: Installation,
) -> None:
    installation.run(failing=("AAPL",))
    status = installation.reader.scheduler_status()
    us, crypto = status.schedules
    assert (us.name, us.exchanges, us.symbols, us.zone) == ("us", ["XNYS"], 2, "UTC")
    assert (crypto.name, crypto.asset_classes, crypto.symbols) == ("crypto", ["crypto"], 1)
    assert us.run is not None
    assert crypto.run is not None
    assert (us.run.successful, us.run.still_failing, us.run.state) == (1, 1, "partial")
    assert (crypto.run.successful, crypto.run.still_failing) == (1, 0)
    assert us.next_run_time == us.last_slot_time + timedelta(days=1)  # type: ignore[operator]
    assert status.next_enrichment_time == us.next_run_time
    assert not us.overdue


def test_the_worst_schedule_shows_wherever_one_night_is_judged(
    installation: Installation,
) -> None:
    installation.run(failing=("AAPL",))
    night, overview = installation.reader.night(), installation.reader.overview()
    assert night.run is not None
    assert night.run.schedule == "us"
    assert overview.last_job is not None
    assert (overview.last_job.successful, overview.last_job.failed) == (1, 1)
    assert installation.figure("last_job.failed") == 1
    assert installation.figure("last_job.failure_rate") == 0.5
    assert "1 of 2 symbols of the last run of schedule us" in installation.issues()
    assert "schedule crypto" not in installation.issues()
    newest = installation.reader.overview_page.nights(3)[-1]
    assert (newest.schedule, newest.state, newest.failed) == ("us", "partial", 1)


def test_a_missing_run_of_one_schedule_is_named(installation: Installation) -> None:
    known_for_long(installation.db, *installation.schedules)
    installation.run(days_ago=3)
    with installation.db.begin() as conn:  # crypto has run since
        conn.execute(
            text(
                "UPDATE enrichment_jobs SET slot_date = slot_date + 3, slot_at = slot_at"
                " + interval '3 days', started_at = started_at + interval '3 days',"
                " completed_at = completed_at + interval '3 days'"
                " WHERE schedule = 'crypto'"
            )
        )
    assert installation.figure("scheduler.overdue_schedules") == 1
    assert "The last run of schedule us" in installation.issues()
    assert "the one after it is missing" in installation.issues()
    assert "schedule crypto" not in installation.issues()
    states = {n.date: (n.schedule, n.state) for n in installation.reader.overview_page.nights(5)}
    today = installation.us.last_slot(installation.now).date
    assert states[today] == ("us", "missed")
    assert states[today - timedelta(days=3)] == ("crypto", "missed")


def test_a_schedule_that_never_ran_although_it_was_due_is_named(
    installation: Installation,
) -> None:
    known_for_long(installation.db, *installation.schedules)
    assert installation.figure("scheduler.overdue_schedules") == 2
    assert "The run of schedule us planned for" in installation.issues()


def test_symbols_of_no_schedule_are_named(installation: Installation) -> None:
    installation.run()
    assert "No schedule covers 1 symbol (stock of XLON)" in installation.issues()
    assert installation.figure("scheduler.uncovered_symbols") == 1
    installation.reader = ReadModels(installation.db, [nightly()])
    assert installation.figure("scheduler.uncovered_symbols") == 0


def test_days_without_a_planned_run_are_no_missed_ones(db: Database, tracked: Commands) -> None:
    with db.begin() as conn:
        now: datetime = conn.execute(text("SELECT now()")).scalar_one()
    hour_ago = now - timedelta(hours=1)
    weekly = Schedule(
        "weekly",
        hour_ago.time().replace(second=0, microsecond=0),
        ZoneInfo("UTC"),
        days=(hour_ago.weekday(),),
    )
    known_for_long(db, weekly)
    slot = weekly.last_slot(now)
    NightlySlotStore(db, [weekly]).open_due_jobs(slot.at - timedelta(days=7))
    NightlySlotStore(db, [weekly]).open_due_jobs(slot.at)
    nights = ReadModels(db, [weekly]).overview_page.nights(8)
    assert [night.state for night in nights[1:]] == ["unplanned"] * 6 + ["queued"]


def test_the_api_lists_schedules_and_their_history(installation: Installation) -> None:
    installation.run(failing=("AAPL",))
    client = create_app(
        installation.reader, Commands(installation.db), ready=lambda: None
    ).test_client()
    overview = json_body(client.get(f"{ROOT}/dashboard/overview"))
    assert [s["name"] for s in overview["scheduler"]["schedules"]] == ["us", "crypto"]
    assert overview["scheduler"]["schedules"][0]["run"]["still_failing"] == 1
    assert overview["scheduler"]["next_enrichment_time"]
    state = json_body(client.get(f"{ROOT}/dashboard/health"))
    assert [s["name"] for s in state["schedules"]] == ["us", "crypto"]
    assert state["uncovered"] == [{"asset_class": "stock", "exchange": "XLON", "symbols": 1}]
    history = json_body(client.get(f"{ROOT}/history?schedule=us"))
    assert [job["failed"] for job in history["jobs"]] == [1]
    (job,) = history["jobs"]
    assert json_body(client.get(f"{ROOT}/jobs/{job['job_id']}"))["schedule"] == "us"
    metrics = client.get("/metrics").get_data(as_text=True)
    assert 'enrichment_last_job_symbols{outcome="failed",schedule="us"} 1.0' in metrics
    assert 'enrichment_schedule_overdue{schedule="crypto"} 0.0' in metrics


def run_command(db_url: str, home: Path, *arguments: str, **variables: str) -> Result:
    environment = {"DATABASE_URL": db_url, "ENRICHMENT_HOME": str(home), "COLUMNS": "200"}
    return CliRunner(env={**environment, **variables}).invoke(app, list(arguments))


def test_the_command_line_reads_schedules_of_the_home_folder(
    installation: Installation, db_url: str, tmp_path: Path
) -> None:
    installation.run()
    (tmp_path / "schedules.toml").write_text(TOML, encoding="utf-8")
    output = " ".join(run_command(db_url, tmp_path, "status").output.split())
    assert "us: XNYS (2 symbols), 02:30 America/New_York daily; last" in output
    assert "crypto: crypto (1 symbol), 00:10 UTC daily; last" in output
    status = json.loads(run_command(db_url, tmp_path, "status", "--json").output)
    assert [s["name"] for s in status["overview"]["scheduler"]["schedules"]] == ["us", "crypto"]
    history = run_command(db_url, tmp_path, "history", "--schedule", "us", "--json").output
    assert len(json.loads(history)) == 1


def test_the_setting_takes_the_text_itself(
    installation: Installation, db_url: str, tmp_path: Path
) -> None:
    output = run_command(db_url, tmp_path, "status", "--json", SCHEDULES=TOML).output
    schedules = json.loads(output)["overview"]["scheduler"]["schedules"]
    assert [(s["time"], s["zone"]) for s in schedules] == [
        ("02:30", "America/New_York"),
        ("00:10", "UTC"),
    ]


@pytest.mark.parametrize("command", [("status",), ("doctor",), ("worker",), ("api",)])
def test_a_wrong_schedule_stops_every_command_with_one_line(
    command: tuple[str, ...], db_url: str, tmp_path: Path
) -> None:
    wrong = TOML.replace("America/New_York", "America/NewYork")
    result = run_command(db_url, tmp_path, *command, SCHEDULES=wrong)
    assert result.exit_code != 0
    text = result.output + (str(result.exception) if result.exception else "")
    assert 'schedule us: zone must be an IANA time zone such as "America/New_York"' in text


def test_the_hour_beside_schedules_is_refused(db_url: str, tmp_path: Path) -> None:
    result = run_command(db_url, tmp_path, "doctor", SCHEDULES=TOML, ENRICHMENT_HOUR="6")
    assert "ENRICHMENT_HOUR: the schedules have times of their own" in result.output
