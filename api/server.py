"""Serves the API with gunicorn; on SIGTERM requests in flight are finished."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from api.application import create_app
from api.buffered_worker import BufferedWorker
from api.enrichment import RunConfig
from api.protection import ClientRates
from api.proxies import TrustedProxies
from api.response_cache import ResponseCache
from enrichment.config import Settings
from enrichment.domain.errors import ConfigurationError
from enrichment.net import authority, is_loopback, require_free
from enrichment.services.alerts.rules import Rule
from enrichment.services.alerts.service import WATCHER_SECONDS
from enrichment.warehouse.database import Database
from enrichment.warehouse.schema import require_current
from enrichment.wiring.alerts import build_alert_service, load_rules
from enrichment.wiring.database import (
    build_commands,
    build_read_models,
    feature_columns,
    open_database,
    open_reader,
    wait_for_database,
)
from resilience import init_resilience_manager

THREADS = 16
STATEMENT_TIMEOUT_SECONDS = 5.0
CACHE_SECONDS = 1.0


class _GunicornServer(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    def __init__(self, app: Flask, bind: str, on_start: Callable[[], None]) -> None:
        self._app = app
        self._bind = bind
        self._on_start = on_start
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": self._bind,
            "worker_class": BufferedWorker,
            "workers": 1,
            "threads": THREADS,
            "timeout": 0,
            "graceful_timeout": 15,
            "limit_request_line": 8190,
            "accesslog": None,
            "loglevel": "warning",
            "control_socket_disable": True,
            "forwarded_allow_ips": "",  # TrustedProxies reads these headers
            "when_ready": lambda _: _log_like_the_rest(),
            "post_worker_init": lambda worker: self._on_start(),
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        return self._app


def serve(settings: Settings, on_start: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGTERM or Ctrl-C. on_start: Called once the settings are found to be usable."""
    host, port = settings.enrichment_api_host, settings.enrichment_api_port
    token = settings.enrichment_api_token
    if token is None and not is_loopback(host):
        raise ConfigurationError(
            f"the API does not listen on {host} without ENRICHMENT_API_TOKEN: "
            "set the token, or keep ENRICHMENT_API_HOST=127.0.0.1"
        )
    require_free("API", host, port)
    on_start()
    columns, rules = feature_columns(), load_rules(settings)
    wait_for_database(settings, writable=False)
    with (
        open_database(settings, pool_size=4, application="enrichment-api") as db,
        open_reader(
            db,
            pool_size=THREADS,
            application="enrichment-api-reader",
            timeout_seconds=STATEMENT_TIMEOUT_SECONDS,
        ) as reader_db,
    ):
        app = create_app(
            build_read_models(reader_db, settings),
            build_commands(db, settings),
            ready=lambda: require_current(reader_db, columns),
            config=RunConfig(
                None if settings.has_schedules else settings.enrichment_hour,
                None if settings.has_schedules else settings.enrichment_minute,
                settings.max_concurrent_symbols,
                settings.max_retries,
            ),
            token=token.get_secret_value() if token else None,
            cache=ResponseCache(CACHE_SECONDS),
            origins=settings.enrichment_api_origins,
            clients=ClientRates(settings.enrichment_api_rate or None),
        )
        db.engine.dispose()  # connections must not be inherited by gunicorn's fork
        proxied = TrustedProxies(app.wsgi_app, settings.trusted_proxies)
        app.wsgi_app = proxied.answer  # type: ignore[assignment, method-assign]  # as Flask says
        _GunicornServer(
            app, authority(host, port), lambda: _start_alerts(settings, db, rules)
        ).run()


def _log_like_the_rest() -> None:
    """Let gunicorn's lines have the format of the others."""
    logging.getLogger("gunicorn.error").handlers[:] = logging.getLogger().handlers


def _start_alerts(settings: Settings, db: Database, rules: tuple[Rule, ...]) -> None:
    """Evaluate the alert rules if no worker does; called after the fork, for it starts a thread."""
    build_alert_service(
        settings,
        db,
        init_resilience_manager(),
        evaluator=f"api:{socket.gethostname()}:{os.getpid()}",
        interval=WATCHER_SECONDS,
        rules=rules,
    ).start(WATCHER_SECONDS)
