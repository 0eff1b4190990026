"""The API in production: gunicorn with threads, which finishes requests in flight on SIGTERM."""

from __future__ import annotations

import ipaddress
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication

from api.application import create_app
from api.enrichment import Schedule
from enrichment import bootstrap
from enrichment.commands import Commands
from enrichment.config import Settings
from enrichment.errors import ConfigurationError
from enrichment.storage.monitoring import Monitoring
from enrichment.storage.revision import require_current
from enrichment.supervisor import require_free

THREADS = 16


class _Server(BaseApplication):  # type: ignore[misc]  # gunicorn ships no types
    def __init__(self, app: Flask, bind: str) -> None:
        self._app = app
        self._bind = bind
        super().__init__()

    def load_config(self) -> None:
        options: dict[str, Any] = {
            "bind": self._bind,
            "worker_class": "gthread",
            "workers": 1,
            "threads": THREADS,
            "timeout": 0,
            "graceful_timeout": 15,
            "keepalive": 5,
            "accesslog": None,
            "loglevel": "warning",
            "control_socket_disable": True,
        }
        for name, value in options.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        return self._app


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    host, port = settings.enrichment_api_host, settings.enrichment_api_port
    token = settings.enrichment_api_token
    if token is None and not _is_loopback(host):
        raise ConfigurationError(
            f"the API does not listen on {host} without ENRICHMENT_API_TOKEN: "
            "set the token, or keep ENRICHMENT_API_HOST=127.0.0.1"
        )
    require_free("API", host, port)
    columns = bootstrap.feature_columns()
    with bootstrap.database(settings, pool_size=THREADS, application="enrichment-api") as db:
        app = create_app(
            bootstrap.read_models(db, settings),
            Commands(db),
            ready=lambda: require_current(db, columns),
            monitoring=Monitoring(db),
            config=Schedule(
                settings.enrichment_hour,
                settings.enrichment_minute,
                settings.max_concurrent_symbols,
                settings.max_retries,
            ),
            token=token.get_secret_value() if token else None,
        )
        db.engine.dispose()  # connections must not cross gunicorn's fork
        _Server(app, f"{host}:{port}").run()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
