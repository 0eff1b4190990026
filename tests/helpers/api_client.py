"""A client of the API on a test's database, jobs for it to report, and checks of responses."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from flask.testing import FlaskClient

from api import create_app
from api.protection import ClientRates
from enrichment.domain.model import Failure, RowCounts
from enrichment.domain.symbol_csv import parse_tracked
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.queue import jobs
from enrichment.warehouse.queue.jobs import JobQueue
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.schema import require_current
from enrichment.wiring.database import feature_columns

ROOT = "/api/v1/enrichment"
DATA = "/api/v1/data"
LOG_LINES = ("2026-01-02T01:30:00Z INFO    asking", "2026-01-02T01:30:01Z WARNING answered 500")
"""Of the item that fails."""


def api_client(
    db: Database,
    *,
    token: str | None = None,
    clients: ClientRates | None = None,
    origins: Collection[str] = (),
) -> FlaskClient:
    return create_app(
        ReadModels(db),
        Commands(db),
        ready=lambda: require_current(db, feature_columns()),
        token=token,
        clients=clients,
        origins=origins,
    ).test_client()


def track_symbols(db: Database) -> Commands:
    """Track two stocks and a crypto pair."""
    commands = Commands(db)
    commands.track([parse_tracked(s, "stock", "1d") for s in ("AAPL", "MSFT")], actor="test")
    commands.track([parse_tracked("X:BTCUSD", "crypto", "1h")], actor="test")
    return commands


def run_open_items(db: Database, *, failing: str | None = None) -> None:
    """End every open item: `failing` fails, the others insert 250 bars and update one."""
    queue = JobQueue(db)
    for task in queue.claim("w", 50):
        if task.symbol == failing:
            failure = Failure("ProviderUnavailable", "answered 500", "fetch", log_lines=LOG_LINES)
            queue.fail(task, failure, None)
            continue
        with db.begin() as conn:
            jobs.complete(conn, {task: RowCounts(inserted=250, updated=1)})
    queue.close_finished_jobs()


def json_body(response: Any, status: int = 200) -> Any:
    """The JSON body of a response of this status; an error has to be a problem document."""
    assert response.status_code == status, response.get_data(as_text=True)
    value = response.get_json(force=True)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", value["timestamp"])
    if status >= 400 and status != 422:
        assert response.mimetype == "application/problem+json"
        assert value["status"] == status
    return value


def next_page_url(response: Any) -> str | None:
    """The URL of the next page in the response's Link header."""
    link = response.headers.get("Link")
    if link is None:
        return None
    found = re.fullmatch(r'<(.+)>; rel="next"', link)
    assert found is not None
    return found[1]
