"""`/metrics`: one scrape shows everything, in Prometheus' format, and totals never go back."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families
from promtool import needs_promtool, promtool
from sqlalchemy import text

from api import create_app
from enrichment import __version__
from enrichment.commands import Commands, parse_tracked
from enrichment.domain import Failure, Written
from enrichment.storage import jobs, logs, settling
from enrichment.storage.database import Database
from enrichment.storage.jobs import JobQueue
from enrichment.storage.monitoring import Monitoring
from enrichment.storage.read_models import ReadModels
from enrichment.storage.resilience_state import ResilienceStore
from enrichment.storage.retention import prune
from enrichment.storage.workers import WorkerRegistry
from resilience import init_resilience_manager


def client_of(db: Database) -> FlaskClient:
    reader = ReadModels(db, hour=1, minute=30, enabled=True)
    app = create_app(reader, Commands(db), ready=db.ping, monitoring=Monitoring(db))
    return app.test_client()


Samples = Mapping[str, float]


def scrape(db: Database) -> Samples:
    """Every sample as 'name{label=value,…}' without the prefix."""
    answer = client_of(db).get("/metrics")
    assert answer.status_code == 200
    found = {}
    for family in text_string_to_metric_families(answer.get_data(as_text=True)):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            name = sample.name.removeprefix("enrichment_")
            found[f"{name}{{{labels}}}" if labels else name] = sample.value
    return found


def run(db: Database, *, failing: str | None = None) -> None:
    queue = JobQueue(db)
    for task in queue.claim("w", 50):
        if task.symbol == failing:
            queue.fail(task, Failure("ProviderUnavailable", "answered 500", "fetch"), None)
            continue
        with db.begin() as conn:
            jobs.complete(conn, task, Written(inserted=250))
    queue.close_finished()


def log_fetches(db: Database, source: str | None, *durations_ms: float, hours_ago: int = 0) -> None:
    with db.begin() as conn:
        for ms in durations_ms:
            conn.execute(
                text(
                    "INSERT INTO enrichment_fetch_log (at, symbol, source, success, duration_ms)"
                    " VALUES (now() - make_interval(hours => :ago), 'AAPL', :source, :ok, :ms)"
                ),
                {"source": source, "ok": source is not None, "ms": ms, "ago": hours_ago},
            )


def fill(db: Database) -> Commands:
    """Two workers, one with patterns; a job with a failure; fetches; a pause; an alert."""
    commands = Commands(db)
    commands.track([parse_tracked(s, "stock", "1d,1h") for s in ("AAPL", "MSFT")], actor="test")
    commands.track([parse_tracked("X:BTCUSD", "crypto", "1h")], actor="test")
    for name in ("w1", "w2"):
        registry = WorkerRegistry(db, name)
        registry.register(host="here", pid=1, version="test", threads=5)
        registry.ticked()
    manager = init_resilience_manager(publisher=ResilienceStore(db, "w1"))
    manager.register_circuit_breaker("polygon_api").force_open()
    manager.register_rate_limiter("polygon_api", 5, 60, 5)
    manager.register_bulkhead("polygon_api", 10)
    manager.close()
    commands.trigger(actor="test")
    run(db, failing="MSFT")
    commands.pause(actor="test", scope="symbol", key="AAPL")
    commands.trigger(actor="test", symbols=["MSFT"])
    log_fetches(db, "polygon", 5, 20, 300, 20_000)
    log_fetches(db, None, 40)
    with db.begin() as conn:
        conn.execute(text(QUALITY))
        conn.execute(text(STATUS))
        conn.execute(
            text(
                "INSERT INTO alert_states (rule, severity, state)"
                " VALUES ('LowDataQuality', 'warning', 'firing')"
            )
        )
        logs.roll_up(conn)
    return commands


QUALITY = """
INSERT INTO data_quality_metrics (symbol, timeframe, date, total_records, validated_records,
    validation_rate, gaps_detected, anomalies_detected, avg_quality_score, data_completeness,
    validation, features, freshness, status, reasons)
VALUES ('AAPL', '1d', current_date, 100, 90, 90, 1, 0, 0.9, 0.99, 1, 1, 1, 'healthy', '{}'),
    ('MSFT', '1d', current_date - 1, 100, 100, 100, 0, 0, 0.8, 1.0, 1, 1, 1, 'healthy', '{}'),
    ('AAPL', '1d', current_date - 1, 100, 50, 50, 0, 0, 0.1, 0.1, 1, 1, 1, 'error', '{}')
"""

STATUS = """
INSERT INTO enrichment_status (symbol, timeframe, status, last_success_at)
VALUES ('AAPL', '1d', 'healthy', to_timestamp(1000)), ('MSFT', '1d', 'stale', to_timestamp(500))
ON CONFLICT (symbol, timeframe) DO UPDATE
SET status = EXCLUDED.status, last_success_at = EXCLUDED.last_success_at
"""


def test_a_new_installation_shows_zeros_and_leaves_out_what_is_unknown(db: Database) -> None:
    found = scrape(db)
    assert found[f"build_info{{version={__version__}}}"] == 1
    assert found["scheduler_running"] == 0
    assert found["queue_items{status=pending}"] == 0
    assert found["queue_oldest_age_seconds"] == 0
    assert found["computations_total{outcome=success}"] == 0
    assert not [name for name in found if name.startswith("last_job")]


def test_one_scrape_shows_every_worker_and_everything_stored(db: Database) -> None:
    fill(db)
    found = scrape(db)
    expected = {
        "scheduler_running": 1,
        "tracked_symbols{asset_class=stock}": 2,
        "tracked_symbols{asset_class=crypto}": 1,
        "jobs_total{kind=manual,state=partial}": 1,
        "last_job_symbols{outcome=successful}": 2,
        "last_job_symbols{outcome=failed}": 1,
        "queue_items{status=pending}": 1,
        "fetches_total{outcome=success,provider=polygon}": 4,
        "fetches_total{outcome=failure,provider=none}": 2,
        "fetch_duration_seconds_bucket{le=0.01,provider=polygon}": 1,
        "fetch_duration_seconds_bucket{le=0.05,provider=polygon}": 2,
        "fetch_duration_seconds_bucket{le=0.5,provider=polygon}": 3,
        "fetch_duration_seconds_bucket{le=10.0,provider=polygon}": 3,
        "fetch_duration_seconds_bucket{le=+Inf,provider=polygon}": 4,
        "fetch_duration_seconds_count{provider=polygon}": 4,
        "series{asset_class=stock,status=healthy,timeframe=1d}": 1,
        "series{asset_class=stock,status=not_enriched,timeframe=1h}": 1,
        "scored_series{asset_class=stock,timeframe=1d}": 2,
        "newest_success_timestamp_seconds{asset_class=stock,timeframe=1d}": 1000,
        "oldest_success_timestamp_seconds{asset_class=stock,timeframe=1d}": 500,
        "worker_threads{worker=w1}": 5,
        "worker_threads{worker=w2}": 5,
        "circuit_breaker_state{name=polygon_api,state=open,worker=w1}": 1,
        "circuit_breaker_state{name=polygon_api,state=closed,worker=w1}": 0,
        "rate_limiter_tokens{name=polygon_api,worker=w1}": 5,
        "bulkhead_available_slots{name=polygon_api,worker=w1}": 10,
        "pauses{scope=symbol}": 1,
        "pauses{scope=global}": 0,
        "alert_firing{rule=LowDataQuality,severity=warning}": 1,
    }
    assert {name: found.get(name) for name in expected} == expected
    near = {
        "fetch_duration_seconds_sum{provider=polygon}": 20.325,
        "quality_score_ratio{asset_class=stock,timeframe=1d}": (0.9 + 0.8) / 2,
        "data_completeness_ratio{asset_class=stock,timeframe=1d}": (0.99 + 1.0) / 2,
        "validation_ratio{asset_class=stock,timeframe=1d}": (0.9 + 1.0) / 2,
    }
    assert {name: found.get(name) for name in near} == pytest.approx(near)
    assert 0 <= found["worker_heartbeat_age_seconds{worker=w1}"] < 60


@needs_promtool
def test_prometheus_own_checker_finds_nothing_to_say(db: Database) -> None:
    fill(db)
    body = client_of(db).get("/metrics").get_data()
    assert promtool("check", "metrics", given=body) == (0, "")


def test_no_metric_grows_with_the_number_of_symbols(db: Database) -> None:
    commands = fill(db)
    before = set(scrape(db))
    commands.track([parse_tracked(f"SIM{n}", "stock", "1d,1h") for n in range(200)], actor="test")
    assert set(scrape(db)) == before


def totals(found: Samples) -> Samples:
    parts = ("_total", "_bucket", "_count", "_sum")
    return {name: v for name, v in found.items() if name.partition("{")[0].endswith(parts)}


def test_totals_do_not_change_when_hours_settle_or_retention_drops_rows(db: Database) -> None:
    fill(db)
    with db.begin() as conn:
        conn.execute(
            text(
                "UPDATE enrichment_fetch_hourly SET hour = hour - interval '9 hours';"
                "INSERT INTO enrichment_compute_hourly"
                " VALUES (date_trunc('hour', now()) - interval '9 hours', 7, 6, 1500),"
                " (date_trunc('hour', now()), 2, 2, 500)"
            )
        )
    before = totals(scrape(db))
    assert before["compute_duration_seconds_sum"] == 2.0
    for _ in range(2):  # settling again adds nothing
        with db.begin() as conn:
            settling.settle(conn)
        assert totals(scrape(db)) == before
    with db.begin() as conn:
        for table in ("enrichment_fetch_hourly", "enrichment_compute_hourly"):
            conn.execute(text(f"DELETE FROM {table} WHERE hour < now() - interval '8 hours'"))
        conn.execute(
            text(
                "UPDATE enrichment_jobs SET completed_at = now() - interval '99 days'"
                " WHERE completed_at IS NOT NULL"
            )
        )
    assert prune(db, log_months=1, job_days=30).jobs == 1
    assert totals(scrape(db)) == before
    log_fetches(db, "polygon", 20)
    with db.begin() as conn:
        conn.execute(text("DELETE FROM enrichment_fetch_log WHERE duration_ms <> 20"))
        logs.roll_up(conn)
        settling.settle(conn)
    run(db)
    after = totals(scrape(db))
    assert all(after[name] >= value for name, value in before.items())
    assert after["jobs_total{kind=manual,state=completed}"] == 1
    name = "fetch_duration_seconds_bucket{le=0.025,provider=polygon}"
    assert after[name] == before[name] + 2


def test_a_resumed_job_ends_again_and_no_total_shrinks(db: Database) -> None:
    commands = fill(db)
    before = totals(scrape(db))
    job = ReadModels(db, hour=1, minute=30, enabled=True).history(10).jobs[-1]
    commands.resume_failed(job.job_id, actor="test")
    between = totals(scrape(db))
    assert between == before
    run(db)
    after = totals(scrape(db))
    assert after["jobs_total{kind=manual,state=partial}"] == 1
    assert after["jobs_total{kind=manual,state=completed}"] >= 1


def test_without_a_database_the_scrape_fails_clearly() -> None:
    gone = Database("postgresql://nobody@127.0.0.1:1/none", pool_size=1)
    assert client_of(gone).get("/metrics").status_code == 503
