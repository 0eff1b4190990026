"""The Flask application: the blueprint, liveness and readiness, errors as problems."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from api import alerts as alerting
from api import metrics
from api.enrichment import Schedule, blueprint
from api.envelope import answer, from_error, problem
from enrichment.clock import utc_now
from enrichment.commands import Commands
from enrichment.errors import EnrichmentError
from enrichment.storage.alerts import AlertStore
from enrichment.storage.monitoring import Monitoring
from enrichment.storage.read_models import ReadModels


@dataclass(frozen=True, slots=True)
class Probe:
    status: str
    timestamp: datetime


def create_app(
    reader: ReadModels,
    commands: Commands,
    *,
    ready: Callable[[], None],
    monitoring: Monitoring | None = None,
    alerts: AlertStore | None = None,
    config: Schedule | None = None,
    token: str | None = None,
) -> Flask:
    """The application on these services.

    ready: raises unless requests can be answered. monitoring, alerts: what `/metrics` and `/alerts`
    show, which are not there without them. config: what `health` shows. token: what changes state
    asks for it, if given.
    """
    app = Flask(__name__)
    app.register_blueprint(blueprint(reader, commands, config or Schedule(), token))
    if monitoring is not None:
        app.register_blueprint(metrics.blueprint(monitoring))
    if alerts is not None:
        app.register_blueprint(alerting.blueprint(alerts, commands, token))

    @app.get("/livez")
    def livez() -> Response:
        return answer(Probe("alive", utc_now()))

    @app.get("/readyz")
    def readyz() -> Response:
        try:
            ready()
        except EnrichmentError:
            return problem(
                503, "Not ready", "the database does not answer or its schema is not current"
            )
        return answer(Probe("ready", utc_now()))

    @app.errorhandler(EnrichmentError)
    def ours(error: EnrichmentError) -> Response:
        if from_error(error).status_code == 500:
            app.logger.error("%s: %s", type(error).__name__, error)
        return from_error(error)

    @app.errorhandler(HTTPException)
    def http(error: HTTPException) -> Response:
        return problem(error.code or 500, error.name, error.description or error.name)

    @app.errorhandler(Exception)
    def unexpected(error: Exception) -> Response:
        app.logger.exception("request failed", exc_info=error)
        return problem(500, "Internal error", "the request failed; see the server's log")

    return app
