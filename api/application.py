"""The Flask application: blueprints, protection and error handlers."""

from __future__ import annotations

from collections.abc import Callable, Collection

from flask import Flask, Response
from werkzeug.exceptions import HTTPException

from api import (
    admin,
    alerts,
    calendar,
    corporate_actions,
    data,
    enrichment,
    jobs,
    metrics,
    repair,
    review,
    service,
    symbols,
)
from api.compression import compress_answers
from api.endpoint import RequestInvalid, current_endpoint
from api.enrichment import RunConfig
from api.protection import ApiProtection, ClientRates, protect
from api.response_cache import ResponseCache
from api.responses import problem, problem_of
from enrichment.domain.errors import EnrichmentError
from enrichment.services.commands import Commands
from enrichment.warehouse.read_models.facade import ReadModels


def create_app(
    reader: ReadModels,
    commands: Commands,
    *,
    ready: Callable[[], None],
    config: RunConfig | None = None,
    token: str | None = None,
    clients: ClientRates | None = None,
    cache: ResponseCache | None = None,
    origins: Collection[str] = (),
) -> Flask:
    """Build the application.

    Args:
        ready: Raises an EnrichmentError if requests can't be answered.
        config: The settings that `/dashboard/health` shows.
        token: Required for every change of state, if given.
        clients: Rate limit per client; none by default.
        cache: Shares responses among clients for a moment; none by default.
        origins: Of pages in browsers that may use the API besides its own.
    """
    app, cache = Flask(__name__), cache or ResponseCache(0)
    app.register_blueprint(service.blueprint(ready))
    app.register_blueprint(enrichment.blueprint(reader, commands, config or RunConfig(), cache))
    app.register_blueprint(jobs.blueprint(reader, commands))
    app.register_blueprint(symbols.blueprint(reader.symbols, commands))
    app.register_blueprint(admin.blueprint(reader, commands))
    app.register_blueprint(data.blueprint(reader))
    app.register_blueprint(repair.blueprint(commands))
    app.register_blueprint(review.blueprint(commands))
    app.register_blueprint(corporate_actions.blueprint(reader, commands))
    app.register_blueprint(calendar.blueprint(reader, commands))
    app.register_blueprint(alerts.blueprint(reader.alerts, commands))
    app.register_blueprint(metrics.blueprint(reader.monitoring, cache))
    compress_answers(app)
    protect(app, ApiProtection(token, clients or ClientRates(None), frozenset(origins)))

    @app.after_request
    def invalidate_cache(response: Response) -> Response:
        endpoint = current_endpoint()
        if endpoint is not None and endpoint.changes_state:
            cache.invalidate()
        return response

    @app.errorhandler(RequestInvalid)
    def handle_invalid_request(error: RequestInvalid) -> Response:
        return error.as_problem()

    @app.errorhandler(EnrichmentError)
    def handle_enrichment_error(error: EnrichmentError) -> Response:
        response = problem_of(error)
        if response.status_code == 500:
            app.logger.error("%s: %s", type(error).__name__, error)
        return response

    @app.errorhandler(HTTPException)
    def handle_http_error(error: HTTPException) -> Response:
        response = problem(error.code or 500, error.name, error.description or error.name)
        for name, value in error.get_headers():
            if name.lower() not in ("content-type", "content-length"):
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    def handle_unexpected_error(error: Exception) -> Response:
        app.logger.exception("request failed", exc_info=error)
        return problem(500, "Internal error", "the request failed; see the server's log")

    return app
