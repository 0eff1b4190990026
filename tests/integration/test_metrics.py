"""`/metrics`: the whole installation in Prometheus' format, with monotonic totals."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import text

from enrichment import __version__
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models import lifetime_totals
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.retention import prune
from enrichment.warehouse.series import rollups
from tests.helpers.api_client import api_client, run_open_items
from tests.helpers.promtool import needs_promtool, promtool
from tests.helpers.seeded_warehouse import log_fetches, seed

Samples = Mapping[str, float]


def scrape(db: Database) -> Samples:
    """Every sample as 'name{label=value,…}' without the prefix."""
    response = api_client(db).get("/metrics")
    assert response.status_code == 200
    samples = {}
    for family in text_string_to_metric_families(response.get_data(as_text=True)):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            name = sample.name.removeprefix("enrichment_")
            samples[f"{name}{{{labels}}}" if labels else name] = sample.value
    return samples


def test_a_new_installation_has_zeros_and_no_samples_of_unknown_values(db: Database) -> None:
    samples = scrape(db)
    assert samples[f"build_info{{version={__version__}}}"] == 1
    assert samples["scheduler_running"] == 0
    assert samples["queue_items{status=pending}"] == 0
    assert samples["queue_oldest_age_seconds"] == 0
    assert samples["computations_total{outcome=success}"] == 0
    assert not [name for name in samples if name.startswith("last_job")]


def test_one_scrape_shows_all_workers_and_all_data(db: Database) -> None:
    seed(db)
    samples = scrape(db)
    expected = {
        "scheduler_running": 1,
        "tracked_symbols{asset_class=stock}": 2,
        "tracked_symbols{asset_class=crypto}": 1,
        "jobs_total{kind=manual,state=partial}": 1,
        "last_job_symbols{outcome=successful,schedule=}": 2,
        "last_job_symbols{outcome=failed,schedule=}": 1,
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
        "circuit_breaker_mode{mode=forced_open,name=polygon_api,worker=w1}": 1,
        "circuit_breaker_mode{mode=auto,name=polygon_api,worker=w1}": 0,
        "rate_limiter_tokens{name=polygon_api,worker=w1}": 5,
        "bulkhead_available_slots{name=polygon_api,worker=w1}": 10,
        "pauses{scope=symbol}": 1,
        "pauses{scope=global}": 0,
        "alert_firing{rule=LowDataQuality,severity=warning}": 1,
    }
    assert {name: samples.get(name) for name in expected} == expected
    near = {
        "fetch_duration_seconds_sum{provider=polygon}": 20.325,
        "quality_score_ratio{asset_class=stock,timeframe=1d}": (0.9 + 0.8) / 2,
        "data_completeness_ratio{asset_class=stock,timeframe=1d}": (0.99 + 1.0) / 2,
        "validation_ratio{asset_class=stock,timeframe=1d}": (0.9 + 1.0) / 2,
    }
    assert {name: samples.get(name) for name in near} == pytest.approx(near)
    assert 0 <= samples["worker_heartbeat_age_seconds{worker=w1}"] < 60


@needs_promtool
def test_promtool_reports_no_problems(db: Database) -> None:
    seed(db)
    body = api_client(db).get("/metrics").get_data()
    assert promtool("check", "metrics", given=body) == (0, "")


def test_the_number_of_samples_does_not_depend_on_the_number_of_symbols(db: Database) -> None:
    commands = seed(db)
    before = set(scrape(db))
    commands.track([parse_tracked(f"SIM{n}", "stock", "1d,1h") for n in range(200)], actor="test")
    assert set(scrape(db)) == before


def totals(samples: Samples) -> Samples:
    parts = ("_total", "_bucket", "_count", "_sum")
    return {name: v for name, v in samples.items() if name.partition("{")[0].endswith(parts)}


def test_totals_do_not_change_on_rollup_and_retention(db: Database) -> None:
    seed(db)
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
            lifetime_totals.advance(conn)
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
        rollups.roll_up(conn)
        lifetime_totals.advance(conn)
    run_open_items(db)
    after = totals(scrape(db))
    assert all(after[name] >= value for name, value in before.items())
    assert after["jobs_total{kind=manual,state=completed}"] == 1
    name = "fetch_duration_seconds_bucket{le=0.025,provider=polygon}"
    assert after[name] == before[name] + 2


def test_a_resumed_job_is_counted_again_and_no_total_shrinks(db: Database) -> None:
    commands = seed(db)
    before = totals(scrape(db))
    job = ReadModels(db).history(10).jobs[-1]
    commands.resume_failed(job.job_id, actor="test")
    between = totals(scrape(db))
    assert between == before
    run_open_items(db)
    after = totals(scrape(db))
    assert after["jobs_total{kind=manual,state=partial}"] == 1
    assert after["jobs_total{kind=manual,state=completed}"] >= 1


def test_without_a_database_the_scrape_fails_with_503() -> None:
    unreachable = Database("postgresql://nobody@127.0.0.1:1/none", pool_size=1)
    assert api_client(unreachable).get("/metrics").status_code == 503
