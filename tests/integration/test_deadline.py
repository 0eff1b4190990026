"""Whether open runs will be done by their deadline, and how often runs were."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from api import create_app
from enrichment.cli.main import app
from enrichment.config import Settings
from enrichment.domain.errors import ConfigurationError
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services import health
from enrichment.services.alerts.metrics import METRICS, AlertInputs
from enrichment.services.commands import Commands
from enrichment.services.request_plan import RequestSettings
from enrichment.warehouse.database import Database, database_now
from enrichment.warehouse.read_models.dto import RunForecast, ServiceLevel
from enrichment.warehouse.read_models.facade import ReadModels
from tests.helpers.api_client import ROOT, json_body
from tests.helpers.dashboard_pages import open_page, page_text

ORDERS, QUOTAS = {"stock": ("polygon",)}, {"polygon": 5}
STOCKS = [f"S{n:03}" for n in range(100)]


def reader_of(db: Database, deadline: time | None) -> ReadModels:
    return ReadModels(db, providers=ORDERS, quotas=QUOTAS, deadline=deadline)


def open_night(db: Database, symbols: int = 100) -> UUID:
    """A night that has just been opened."""
    commands = Commands(db, RequestSettings(ORDERS, QUOTAS, 365))
    commands.track([parse_tracked(s, "stock", "1d,1w") for s in STOCKS[:symbols]], actor="test")
    job = commands.trigger(actor="test").job_id
    with db.begin() as conn:
        conn.execute(
            text(
                "UPDATE enrichment_jobs SET kind = 'scheduled', schedule = 'nightly',"
                " slot_date = current_date, slot_at = created_at WHERE job_id = :job"
            ),
            {"job": job},
        )
    return job


def in_minutes(db: Database, minutes: int) -> time:
    """The time of day, in so many minutes, to the minute."""
    with db.begin() as conn:
        at = database_now(conn) + timedelta(minutes=minutes)
    return at.time().replace(second=0, microsecond=0)


def minutes_late(reader: ReadModels) -> float | None:
    night = reader.night()
    inputs = AlertInputs(reader.overview(), health.assess(night), reader.monitoring.sample())
    return METRICS["deadline.minutes_late"](inputs)


def test_a_night_that_its_quota_makes_late_is_foreseen_when_it_begins(db: Database) -> None:
    open_night(db)  # 100 requests at 5 a minute
    late = reader_of(db, in_minutes(db, 15))
    (forecast,) = late.overview().forecasts
    assert forecast.minutes_late == pytest.approx(5, abs=1.1)
    assert minutes_late(late) == pytest.approx(5, abs=1.1)
    (issue,) = [issue for issue in health.assess(late.night()).issues if "deadline" in issue]
    assert issue.startswith("The night is expected to end at ")
    in_time = reader_of(db, in_minutes(db, 40))
    (forecast,) = in_time.overview().forecasts
    assert forecast.minutes_late == pytest.approx(-20, abs=1.1)
    assert minutes_late(in_time) == 0.0
    assert not [issue for issue in health.assess(in_time.night()).issues if "deadline" in issue]


def test_without_a_run_or_a_deadline_nothing_is_late(db: Database) -> None:
    assert minutes_late(reader_of(db, time(4))) == 0.0
    open_night(db)
    assert reader_of(db, None).overview().forecasts == []
    assert minutes_late(reader_of(db, None)) == 0.0


def test_while_the_end_cannot_be_told_the_alert_stays_as_it_is(db: Database) -> None:
    open_night(db)
    Commands(db).pause(actor="test", scope="provider", key="polygon")
    reader = reader_of(db, in_minutes(db, 15))
    (forecast,) = reader.overview().forecasts
    assert (forecast.expected_end, minutes_late(reader)) == (None, None)
    assert health.forecast_text(forecast).startswith("The end of the night can't be told")


def test_a_manual_job_has_no_deadline(db: Database) -> None:
    commands = Commands(db)
    commands.track([parse_tracked("AAPL", "stock", "1d")], actor="test")
    commands.trigger(actor="test")
    assert reader_of(db, in_minutes(db, 15)).overview().forecasts == []


def test_the_forecast_is_shown_everywhere(
    db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_night(db)
    deadline = in_minutes(db, 15)
    reader = reader_of(db, deadline)
    client = create_app(reader, Commands(db), ready=lambda: None).test_client()
    (forecast,) = json_body(client.get(f"{ROOT}/dashboard/overview"))["forecasts"]
    assert forecast["minutes_late"] == pytest.approx(5, abs=1.1)
    assert "after its deadline" in " ".join(
        json_body(client.get(f"{ROOT}/dashboard/health"))["issues"]
    )
    late = r'enrichment_deadline_minutes_late{schedule="nightly"}'
    assert late in client.get("/metrics").get_data(as_text=True)
    for name, value in {
        "DATABASE_URL": db_url,
        "POLYGON_API_KEY": "test",
        "ENRICHMENT_DEADLINE": f"{deadline:%H:%M}",
    }.items():
        monkeypatch.setenv(name, value)
    assert "deadline   The night is expected to end" in CliRunner().invoke(app, ["status"]).output
    shown = page_text(open_page("overview", db_url, monkeypatch))
    assert "The night is expected to end at" in shown


@pytest.mark.parametrize("value", ["25:00", "4", "04:00:00", "noon"])
def test_a_malformed_deadline_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"ENRICHMENT_DEADLINE=.*such as 04:00"):
        Settings.load(enrichment_deadline=value)


def test_the_deadline_of_the_settings() -> None:
    assert Settings().enrichment_deadline == time(4)
    assert Settings.load(enrichment_deadline="23:30").enrichment_deadline == time(23, 30)
    assert Settings.load(enrichment_deadline="").enrichment_deadline is None


def night(db: Database, date: str, *ended_at: str | None, status: str = "completed") -> None:
    """A night of 01:30 with a symbol, of a day and a week, for each of the times."""
    with db.begin() as conn:
        job = conn.execute(
            text(
                "INSERT INTO enrichment_jobs (kind, schedule, slot_date, slot_at, state,"
                " requested_by, created_at, completed_at, total) VALUES ('scheduled', 'nightly',"
                " :date, (CAST(:date AS date) + time '01:30') AT TIME ZONE 'UTC', 'completed',"
                " 'scheduler', now(), now(), 1) RETURNING job_id"
            ),
            {"date": date},
        ).scalar_one()
        for n, moment in enumerate(ended_at):
            conn.execute(
                text(
                    "INSERT INTO enrichment_job_items (job_id, symbol, asset_class, timeframes,"
                    " status, completed_at) VALUES (:job, :symbol, 'stock', '{1d,1w}', :status,"
                    " (CAST(:date AS date) + CAST(:moment AS time)) AT TIME ZONE 'UTC')"
                ),
                {
                    "job": job,
                    "symbol": f"S{n}",
                    "status": status if moment else "failed",
                    "date": date,
                    "moment": moment or "02:00",
                },
            )


def level(db: Database, deadline: time | None = time(4)) -> ServiceLevel:
    return reader_of(db, deadline).service_level()


def test_the_service_level_of_the_last_nights(db: Database) -> None:
    empty = level(db)
    assert (empty.sessions, empty.attained, empty.burn) == (0, None, None)
    night(db, "2024-03-01", "01:40", "03:59")
    night(db, "2024-03-02", "01:40", "04:01")
    night(db, "2024-03-03", "01:40", None)
    night(db, "2024-03-04", "01:40", "01:41")
    found = level(db)
    assert [(s.slot_date.day, s.series, s.series_complete) for s in found.newest] == [
        (4, 4, 4),
        (3, 4, 2),
        (2, 4, 2),
        (1, 4, 4),
    ]
    assert found.newest[0].deadline == datetime(2024, 3, 4, 4, tzinfo=UTC)
    assert (found.sessions, found.sessions_met, found.attained) == (4, 2, 0.5)
    assert found.budget == pytest.approx(0.04)
    assert found.burn == pytest.approx(50.0)
    assert level(db, time(1)).sessions_met == 3  # until 01:00 of the next day
    none = level(db, None)
    assert (none.deadline, none.sessions, none.newest) == (None, 0, [])


def test_cancelled_symbols_and_runs_that_are_not_over_are_not_judged(db: Database) -> None:
    night(db, "2024-03-01", "01:40", status="cancelled")
    night(db, "2999-03-01", "01:40", None)
    assert level(db).sessions == 0
    client = create_app(reader_of(db, time(4)), Commands(db), ready=lambda: None).test_client()
    body = json_body(client.get(f"{ROOT}/service-level"))
    assert (body["deadline"], body["target_series"], body["burn"]) == ("04:00", 0.99, None)


def test_the_words_of_a_forecast() -> None:
    at = datetime(2024, 3, 1, 4, tzinfo=UTC)
    forecast = RunForecast(UUID(int=1), "us", at, *[at - timedelta(minutes=75)] * 2, -75.0)
    assert health.forecast_text(forecast) == (
        "The run of schedule us is expected to end at 2024-03-01 02:45 UTC, 1 h 15 min before its "
        "deadline, 2024-03-01 04:00 UTC"
    )
