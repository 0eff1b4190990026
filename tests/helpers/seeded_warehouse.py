"""Rows in every table that figures and metrics are read from."""

from __future__ import annotations

from sqlalchemy import text

from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue.workers import WorkerRegistry
from enrichment.warehouse.resilience_state import ResilienceStore
from enrichment.warehouse.series import rollups
from resilience import init_resilience_manager
from tests.helpers.api_client import run_open_items


def log_fetches(db: Database, source: str | None, *durations_ms: float, hours_ago: int = 0) -> None:
    """Log one fetch of AAPL for each duration; without a source it is a failed one."""
    with db.begin() as conn:
        for ms in durations_ms:
            conn.execute(
                text(
                    "INSERT INTO enrichment_fetch_log (at, symbol, source, success, duration_ms)"
                    " VALUES (now() - make_interval(hours => :ago), 'AAPL', :source, :ok, :ms)"
                ),
                {"source": source, "ok": source is not None, "ms": ms, "ago": hours_ago},
            )


def seed(db: Database) -> Commands:
    """Two workers, one with patterns; a job with a failure; fetches; a pause; an alert."""
    commands = Commands(db)
    commands.track([parse_tracked(s, "stock", "1d,1h") for s in ("AAPL", "MSFT")], actor="test")
    commands.track([parse_tracked("X:BTCUSD", "crypto", "1h")], actor="test")
    for name in ("w1", "w2"):
        registry = WorkerRegistry(db, name)
        registry.register(host="here", pid=1, version="test", threads=5)
        registry.ticked(None)
    manager = init_resilience_manager(publisher=ResilienceStore(db, "w1"))
    manager.register_circuit_breaker("polygon_api").force_open()
    manager.register_rate_limiter("polygon_api", 5, 60, 5)
    manager.register_bulkhead("polygon_api", 10)
    manager.close()
    commands.trigger(actor="test")
    run_open_items(db, failing="MSFT")
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
        rollups.roll_up(conn)
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


def keep_actions_unasked(db: Database, source: str) -> None:
    """Let no worker ask a vendor for corporate actions: tests count or break its requests."""
    with db.begin() as conn:
        conn.execute(
            text(
                "INSERT INTO corporate_action_refreshes (source, symbol, attempted_at)"
                " VALUES (:source, '', 'infinity')"
            ),
            {"source": source},
        )
