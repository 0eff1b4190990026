"""The one judgement: a bad night stays bad until its symbols are enriched, whatever else runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from enrichment.domain.bars import Bars, to_datetime
from enrichment.domain.errors import StepFailed, UnknownSymbol
from enrichment.domain.model import Failure, FetchedBars, JobKind
from enrichment.domain.schedules import nightly
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.services import health
from enrichment.services.alerts.metrics import METRICS, AlertInputs
from enrichment.services.commands import Commands
from enrichment.services.health import Health
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.read_models.night import NightState
from enrichment.warehouse.series.warehouse import Warehouse
from tests.helpers.fakes import FakeVendor, recorded_bars

SYMBOLS = [f"S{number:02}" for number in range(20)]
FAILING = SYMBOLS[:6]
PROVIDERS = {"stock": ("polygon", "yahoo"), "crypto": ("binance",)}


class PickyVendor(FakeVendor):
    """Knows all symbols but some."""

    def __init__(self, bars: Bars) -> None:
        super().__init__(bars)
        self.unknown: set[str] = set()

    def fetch(self, symbol: str, *rest: object) -> FetchedBars:  # type: ignore[override]
        if symbol in self.unknown:
            raise UnknownSymbol(f"no bars of {symbol}")
        return super().fetch(symbol, *rest)  # type: ignore[arg-type]


class Installation:
    """The real warehouse, queue and read models around a vendor in memory."""

    def __init__(self, db: Database) -> None:
        self.db, self.queue, self.commands = db, JobQueue(db), Commands(db)
        self.reader = ReadModels(db, providers=PROVIDERS)
        self.vendor = PickyVendor(recorded_bars().take(slice(1400, 1500)))
        now = to_datetime(self.vendor.bars.ts[-1]) + timedelta(days=1)
        self.pipeline = EnrichmentPipeline(
            self.vendor, Warehouse(db), history_days=9000, now=lambda: now
        )
        self.commands.track([parse_tracked(name, "stock", "1d") for name in SYMBOLS], actor="test")
        worker = WorkerRegistry(db, "w")
        worker.register(host="here", pid=1, version="test", threads=2)
        worker.ticked(None)

    def run_night(self, date: str, unknown: set[str]) -> UUID:
        with self.db.begin() as conn:
            slot = nightly().slot(datetime.fromisoformat(date).date())
            job = jobs.insert_job(conn, kind=JobKind.SCHEDULED, requested_by="scheduler", slot=slot)
            assert job is not None
            jobs.snapshot_items(conn, job, symbols=None, asset_class=None, priority=10)
        self.work(unknown)
        return job

    def run_by_hand(self, symbols: list[str], unknown: set[str]) -> None:
        self.commands.trigger(actor="analyst", symbols=symbols)
        self.work(unknown)

    def work(self, unknown: set[str]) -> None:
        """Do everything that is queued."""
        self.vendor.unknown = unknown
        for task in self.queue.claim("w", 1000):
            try:
                self.pipeline.enrich(task, lambda step: None)
            except StepFailed as failed:
                cause = failed.__cause__
                failure = Failure(type(cause).__name__, str(cause), "fetch", "1d")
                self.queue.fail(task, failure, None)
        self.queue.close_finished_jobs()

    def night(self) -> NightState:
        return self.reader.night()

    def health(self, *, with_alerts: bool = True) -> Health:
        return health.assess(self.night(), with_alerts=with_alerts)

    def figure(self, name: str) -> float | None:
        inputs = AlertInputs(
            self.reader.overview(),
            self.health(with_alerts=False),
            self.reader.monitoring.sample(),
        )
        return METRICS[name](inputs)


@pytest.fixture
def installation(db: Database) -> Installation:
    return Installation(db)


def about(judged: Health, words: str) -> list[str]:
    return [issue for issue in judged.issues if words in issue]


def test_a_manual_run_does_not_hide_a_failed_night(installation: Installation) -> None:
    installation.run_night("2026-11-27", set(FAILING))
    assert about(installation.health(), "6 of 20 symbols of the last night")
    installation.run_by_hand([SYMBOLS[10]], unknown=set())
    judged = installation.health()
    assert judged.status == "warning"
    assert about(judged, "6 of 20 symbols of the last night")
    assert about(judged, "6 symbols have a series in error")
    assert installation.figure("last_job.failed") == 6
    assert installation.figure("last_job.failure_rate") == pytest.approx(0.3)
    overview = installation.reader.overview()
    assert overview.last_job is not None
    assert (overview.last_job.successful, overview.last_job.failed) == (14, 6)


def test_a_run_of_the_failed_symbols_cures_the_night(installation: Installation) -> None:
    installation.run_night("2026-11-27", set(FAILING))
    installation.run_by_hand(FAILING[:4], unknown=set())
    assert installation.figure("last_job.failed") == 2
    installation.run_by_hand(FAILING[4:], unknown=set())
    assert installation.figure("last_job.failed") == 0
    judged = installation.health()
    assert not about(judged, "of the last night")
    assert not about(judged, "in error")
    run = installation.night().run
    assert run is not None
    assert (run.failed, run.still_failing) == (6, 0)


def test_one_mistyped_symbol_by_hand_is_no_failed_night(installation: Installation) -> None:
    installation.run_night("2026-11-27", set())
    installation.commands.track([parse_tracked("TYPO", "stock", "1d")], actor="test")
    installation.run_by_hand(["TYPO"], unknown={"TYPO"})
    assert installation.figure("last_job.failure_rate") == 0.0
    assert about(installation.health(), "1 symbol has a series in error: 1 UnknownSymbol")


def test_a_symbol_that_is_no_longer_tracked_does_not_fail(installation: Installation) -> None:
    installation.run_night("2026-11-27", set(FAILING))
    for symbol in FAILING:
        installation.commands.untrack(symbol, actor="test")
    assert installation.figure("last_job.failed") == 0
    assert not about(installation.health(), "in error")


def test_time_between_a_run_and_its_resume_is_no_time_at_work(installation: Installation) -> None:
    job = installation.run_night("2026-11-27", set(FAILING))
    with installation.db.begin() as conn:  # it ran for 23 s, 37 minutes ago
        conn.execute(
            text(
                "UPDATE enrichment_jobs SET started_at = now() - interval '37 minutes',"
                " completed_at = now() - interval '37 minutes' + interval '23 seconds'"
            )
        )
    installation.commands.resume_failed(job, actor="analyst")
    installation.work(unknown=set())
    run = installation.night().run
    assert run is not None
    assert (run.successful, run.failed) == (20, 0)
    assert run.duration_seconds == pytest.approx(23, abs=20)
    page = installation.reader.history(1)
    assert page.jobs[0].duration_seconds == pytest.approx(run.duration_seconds, abs=0.001)
    progress = installation.reader.progress(job)
    assert progress is not None
    assert progress.duration_seconds == pytest.approx(run.duration_seconds, abs=0.001)
    endings = installation.reader.monitoring.sample().jobs
    assert sum(ending.duration_seconds for ending in endings) < 60


def test_without_any_night_a_run_of_everything_is_judged(installation: Installation) -> None:
    installation.run_by_hand(["S00"], unknown={"S00"})
    assert installation.night().run is None
    installation.commands.trigger(actor="analyst")
    installation.work(unknown=set(FAILING))
    assert installation.figure("last_job.failed") == 6
    assert about(installation.health(), "of the last run of all symbols")


def test_what_the_mean_leaves_out_is_said(installation: Installation) -> None:
    installation.run_night("2026-11-27", set(FAILING))
    with installation.db.begin() as conn:  # scored as of today, and badly
        conn.execute(
            text(
                "UPDATE data_quality_metrics SET avg_quality_score = 0.5,"
                " date = (now() AT TIME ZONE 'UTC')::date"
            )
        )
    (issue,) = about(installation.health(), "mean quality score")
    assert "6 of 20 series have no score" in issue


def publish(db: Database, worker: str, name: str, state: str, mode: str = "auto") -> None:
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO resilience_state (worker_id, kind, name, state, status, seq) VALUES"
                " (:worker, 'circuit_breaker', :name, :state,"
                " jsonb_build_object('mode', CAST(:mode AS text)), 1)"
            ),
            {"worker": worker, "name": name, "state": state, "mode": mode},
        )


def test_all_providers_out_is_critical(installation: Installation) -> None:
    installation.run_night("2026-11-27", set())
    publish(installation.db, "w", "polygon_api", "open")
    publish(installation.db, "v", "polygon_api", "open")
    publish(installation.db, "w", "yahoo_api", "closed")
    publish(installation.db, "v", "yahoo_api", "open")
    assert installation.health().status == "warning"  # one worker still reaches Yahoo
    installation.commands.pause(actor="ops", scope="provider", key="yahoo", reason="blocked us")
    judged = installation.health()
    assert judged.status == "critical"
    assert about(judged, "No provider is available for stock")


@pytest.mark.parametrize(
    ("action", "mode", "state", "words"),
    [
        ("force_open", "forced_open", "open", "rejected"),
        ("disable", "disabled", "closed", "not protected"),
    ],
)
def test_a_breaker_set_by_hand_says_by_whom_and_why(
    installation: Installation, action: str, mode: str, state: str, words: str
) -> None:
    publish(installation.db, "w", "polygon_api", state, mode)
    installation.commands.override_breaker("polygon_api", action, actor="ops", reason="their bug")
    (issue,) = about(installation.health(), mode.replace("_", " "))
    assert all(word in issue for word in ("polygon_api", "ops", "their bug", words))
    (breaker,) = installation.night().breakers
    assert (breaker.set_by, breaker.mode) == ("ops", mode)
    assert breaker.since is not None


def test_firing_alerts_are_named_but_not_where_alerts_are_judged(
    installation: Installation,
) -> None:
    with installation.db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO alert_states (rule, severity, state, since, updated_at)"
                " VALUES ('OwnRule', 'warning', 'firing', now(), now())"
            )
        )
    assert about(installation.health(), "OwnRule")
    assert not about(installation.health(with_alerts=False), "OwnRule")


def test_a_timed_pause_says_until_when(installation: Installation) -> None:
    until = datetime.now(UTC) + timedelta(hours=2)
    installation.commands.pause(actor="ops", reason="maintenance", until=until)
    (issue,) = about(installation.health(), "is paused by ops")
    assert f"until {until:%Y-%m-%d %H:%M} UTC" in issue


def test_a_waiting_worker_says_for_what(installation: Installation) -> None:
    WorkerRegistry(installation.db, "w").beat(busy=0, state="waiting", note="the Dask scheduler")
    assert about(installation.health(), "the Dask scheduler")


def test_a_series_in_error_shows_its_error_and_not_its_deductions(
    installation: Installation,
) -> None:
    installation.run_night("2026-11-26", set())
    with installation.db.begin() as conn:
        conn.execute(text("UPDATE enrichment_status SET reasons = ARRAY['completeness 0.95']"))
    installation.run_night("2026-11-27", {"S00"})
    series = next(
        s for s in installation.reader.overview_page.needs_attention() if s.symbol == "S00"
    )
    assert series.status == "error"
    assert series.reasons == ["completeness 0.95"]
    assert "no bars of S00" in series.cause
    details = installation.reader.symbols.find("S00")
    assert details is not None
    assert "no bars of S00" in details.timeframes[0].cause


def test_failures_that_were_cured_since_are_marked(installation: Installation) -> None:
    installation.run_night("2026-11-27", set(FAILING))
    installation.run_by_hand(FAILING[:5], unknown=set())
    (error,) = installation.reader.overview_page.errors()
    assert (error.error_class, error.symbols, error.still_failing) == ("UnknownSymbol", 6, 1)


def test_a_breaker_set_by_hand_shows_its_mode_as_its_state(installation: Installation) -> None:
    publish(installation.db, "v", "polygon_api", "open", "forced_open")
    publish(installation.db, "w", "polygon_api", "closed", "disabled")
    publish(installation.db, "x", "polygon_api", "closed")
    states = [pattern.shown_state for pattern in installation.reader.resilience()]
    assert sorted(map(str, states)) == ["closed", "disabled", "forced_open"]
