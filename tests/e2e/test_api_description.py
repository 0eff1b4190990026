"""The API conforms to its OpenAPI document: all checks of schemathesis."""

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
from enrichment.wiring.alerts import read_inputs
from resilience import init_resilience_manager
from tests.helpers.api_client import run_open_items, track_symbols
from tests.helpers.nightly_runs import NightlyRuns, quiet_bars
from tests.helpers.server_process import serving

BEARER = "s3cret"
# No worker runs here, so `wait` never sees the end of a job. A file whose lines contradict
# themselves, which no schema can say, is answered 422 with these lines.
CONFIGURATION = """
[checks]
positive_data_acceptance.expected-statuses = ["2xx", 401, 403, 404, 409, 422, 429, "5xx"]

[[operations]]
include-name = "POST /api/v1/enrichment/trigger"
parameters = { "wait" = 0.1 }
"""


def fill(db: Database) -> None:
    """At least one row of everything that the API shows."""
    NightlyRuns(db, quiet_bars(60)).run_at(60)
    commands = track_symbols(db)
    commands.trigger(actor="test")
    run_open_items(db, failing="MSFT")
    commands.pause(actor="test", scope="symbol", key="MSFT", reason="rehearsal")
    manager = init_resilience_manager(publisher=ResilienceStore(db, "w1"))
    manager.register_circuit_breaker("polygon_api")
    manager.close()
    reader = ReadModels(db)
    inputs = read_inputs(reader)
    AlertService(
        AlertStore(db), inputs, DEFAULT_RULES, {}, evaluator="test", interval=0.0
    ).evaluate()


def test_every_operation_conforms_to_its_description(
    db: Database, db_url: str, tmp_path: Path
) -> None:
    fill(db)
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    with serving(db_url, tmp_path, ENRICHMENT_API_TOKEN=BEARER) as api:
        completed = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{api.url}/openapi.json"),
                *("--checks", "all", "--max-examples", "15", "--generation-deterministic"),
                *("-H", f"Authorization: Bearer {BEARER}", "--no-color", "--no-shrink"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert completed.returncode == 0, completed.stdout + completed.stderr
