"""The API is what its OpenAPI document says, whatever is sent to it: schemathesis, all checks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from enrichment.services.alerts.rules import DEFAULT_RULES
from enrichment.services.alerts.service import AlertService
from enrichment.warehouse.alerts import AlertStore
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.resilience_state import ResilienceStore
from enrichment.wiring import alerts as alerting
from resilience import init_resilience_manager
from tests.helpers.api_client import run_open_items, track_symbols
from tests.helpers.nightly_runs import NightlyRuns, quiet_bars
from tests.helpers.server_process import serving

BEARER = "s3cret"
# Nothing works on the jobs here, so waiting for their end is kept short.
CONFIGURATION = """
[[operations]]
include-name = "POST /api/v1/enrichment/trigger"
parameters = { "wait" = 0.1 }
"""


def fill(db: Database) -> None:
    """Something of everything that can be asked for."""
    NightlyRuns(db, quiet_bars(60)).run_at(60)
    commands = track_symbols(db)
    commands.trigger(actor="test")
    run_open_items(db, failing="MSFT")
    commands.pause(actor="test", scope="symbol", key="MSFT", reason="rehearsal")
    manager = init_resilience_manager(publisher=ResilienceStore(db, "w1"))
    manager.register_circuit_breaker("polygon_api")
    manager.close()
    reader = ReadModels(db, hour=1, minute=30, enabled=True)
    readings = alerting.read_inputs(reader)
    AlertService(
        AlertStore(db), readings, DEFAULT_RULES, {}, evaluator="test", interval=0.0
    ).evaluate()


def test_every_operation_does_what_its_description_says(
    db: Database, db_url: str, tmp_path: Path
) -> None:
    fill(db)
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    with serving(db_url, tmp_path, ENRICHMENT_API_TOKEN=BEARER) as api:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{api.url}/openapi.json"),
                *("--checks", "all", "--max-examples", "15", "--generation-deterministic"),
                *("-H", f"Authorization: Bearer {BEARER}", "--no-color", "--no-shrink"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stdout + done.stderr
