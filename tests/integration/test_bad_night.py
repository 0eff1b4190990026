"""A bad night in every place that judges: health, metrics, the page, the command line, alerts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from typer.testing import CliRunner

from enrichment.cli.main import app
from enrichment.config import Settings
from enrichment.services.alerts.rules import DEFAULT_RULES
from enrichment.services.alerts.service import AlertService
from enrichment.warehouse.database import Database
from enrichment.wiring.alerts import build_alert_service
from resilience import init_resilience_manager
from tests.helpers.api_client import ROOT, api_client, json_body
from tests.helpers.dashboard_pages import open_page, page_text
from tests.helpers.webhook_receiver import WebhookReceiver, webhook_receiver
from tests.integration.test_night import FAILING, SYMBOLS, Installation

RULES = tuple(replace(rule, keep_firing_for=timedelta(0)) for rule in DEFAULT_RULES)
SENTENCE = "6 of 20 symbols of the last night (2026-11-27) failed and have not been enriched since"

pytestmark = pytest.mark.usefixtures("main_module_kept")


class Places:
    """All that judge the installation."""

    def __init__(
        self,
        installation: Installation,
        alerts: AlertService,
        receiver: WebhookReceiver,
        db_url: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        self.installation, self.alerts, self.receiver = installation, alerts, receiver
        self._db_url, self._monkeypatch = db_url, monkeypatch
        monkeypatch.setenv("DATABASE_URL", db_url)

    @property
    def client(self) -> FlaskClient:
        """Of an API process that has nothing in its caches."""
        return api_client(self.installation.db)

    def issues(self) -> dict[str, str]:
        """Place → the text in which it judges."""
        health = json_body(self.client.get(f"{ROOT}/dashboard/health"))
        return {
            "health": "\n".join(health["issues"]),
            "page": page_text(open_page("overview", self._db_url, self._monkeypatch)),
            "command line": CliRunner().invoke(app, ["status"]).output,
        }

    def statuses(self) -> set[str]:
        """The health in every place that names it."""
        metric = re.search(r"^enrichment_health_status (\d)", self.metrics(), re.MULTILINE)
        assert metric is not None
        shown = CliRunner().invoke(app, ["status", "--json"]).output
        return {
            str(json_body(self.client.get(f"{ROOT}/dashboard/health"))["health_status"]),
            ("healthy", "warning", "critical")[int(metric[1])],
            str(json.loads(shown)["health"]["status"]),
        }

    def metrics(self) -> str:
        return self.client.get("/metrics").get_data(as_text=True)

    def failed(self) -> set[int]:
        """How many symbols of the night fail, in every place that counts them."""
        overview = json_body(self.client.get(f"{ROOT}/dashboard/overview"))
        metric = re.search(
            r'^enrichment_last_job_symbols\{outcome="failed",schedule="nightly"\} (\d+)',
            self.metrics(),
            re.MULTILINE,
        )
        assert metric is not None
        figure = self.installation.figure("last_job.failed")
        return {overview["last_job"]["failed"], int(metric[1]), int(figure or 0)}

    def firing(self) -> set[str]:
        """The rules that fire after an evaluation, as the receiver was told."""
        self.alerts.evaluate()
        self.alerts.deliver()
        told: dict[str, str] = dict(self.receiver.states())
        return {rule for rule, state in told.items() if state == "firing"}


@pytest.fixture
def places(db: Database, db_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Places]:
    with webhook_receiver() as receiver:
        manager = init_resilience_manager()
        settings = Settings(_env_file=None, alert_webhook_url=f"{receiver.url}/hook")
        service = build_alert_service(
            settings, db, manager, evaluator="test", interval=0.0, rules=RULES
        )
        yield Places(Installation(db), service, receiver, db_url, monkeypatch)
        manager.close()


def run_bad_night(places: Places) -> UUID:
    return places.installation.run_night("2026-11-27", set(FAILING))


def test_a_manual_run_leaves_the_judgement_everywhere(places: Places) -> None:
    run_bad_night(places)
    for _ in range(2):
        assert places.statuses() == {"warning"}
        assert places.failed() == {6}
        assert {place for place, text in places.issues().items() if SENTENCE not in text} == set()
        assert places.firing() == {"EnrichmentJobFailed", "HighFailureRate"}
        places.installation.run_by_hand([SYMBOLS[10]], unknown=set())


def test_a_manual_run_is_not_part_of_the_nights_trends(places: Places) -> None:
    run_bad_night(places)
    places.installation.run_by_hand([SYMBOLS[10]], unknown=set())
    assert "of the last 1 night; target: below 30 min" in places.issues()["page"]


def test_curing_the_symbols_ends_the_judgement_everywhere(places: Places) -> None:
    run_bad_night(places)
    assert places.firing() == {"EnrichmentJobFailed", "HighFailureRate"}
    places.installation.run_by_hand(FAILING, unknown=set())
    assert places.failed() == {0}
    assert {place for place, text in places.issues().items() if "of the last night" in text} <= {
        "page"  # its card still names the night
    }
    assert places.firing() == set()


def test_a_pause_and_a_dead_worker_are_named_everywhere(places: Places) -> None:
    run_bad_night(places)
    places.installation.commands.pause(actor="ops", reason="maintenance")
    assert {p for p, text in places.issues().items() if "paused by ops" not in text} == set()
    with places.installation.db.begin() as conn:
        conn.exec_driver_sql(
            "UPDATE workers SET heartbeat_at = now() - interval '1 hour',"
            " ticked_at = now() - interval '1 hour'"
        )
    assert places.statuses() == {"critical"}
    missing = {p for p, text in places.issues().items() if "scheduler is not running" not in text}
    assert missing == set()
    assert places.firing() == set()  # a pause of everything holds notifications back
    assert {p for p, text in places.issues().items() if "no alerts are sent" not in text} == set()
    places.installation.commands.resume(actor="ops")
    assert "SchedulerNotRunning" in places.firing()
