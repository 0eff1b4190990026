"""Starts Streamlit with the dashboard's settings and theme."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from enrichment.config import Settings
from enrichment.dashboard.requests import MAX_UPLOAD_MEGABYTES
from enrichment.domain.errors import ConfigurationError
from enrichment.net import is_loopback, require_free
from enrichment.warehouse.embedded import EmbeddedPostgres

SHUTDOWN_SECONDS = 5
OPTIONS: dict[str, object] = {
    "server.headless": True,
    "server.fileWatcherType": "none",
    "server.maxUploadSize": MAX_UPLOAD_MEGABYTES,
    "server.maxMessageSize": 50,
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "runner.postScriptGC": False,  # it collects all objects after every refresh: 100 ms
    "theme.primaryColor": "#2563eb",
    "theme.baseRadius": "0.5rem",
    "theme.light.backgroundColor": "#ffffff",
    "theme.light.secondaryBackgroundColor": "#f4f6fa",
    "theme.light.textColor": "#0b1322",
    "theme.light.borderColor": "#d9dfe8",
    "theme.dark.primaryColor": "#2f68d8",
    "theme.dark.linkColor": "#8ab4ff",
    "theme.dark.backgroundColor": "#0f1522",
    "theme.dark.secondaryBackgroundColor": "#182132",
    "theme.dark.textColor": "#e4e9f2",
    "theme.dark.borderColor": "#2b3648",
}


def serve(settings: Settings, on_start: Callable[[], None] = lambda: None) -> None:
    """Serve until SIGTERM or Ctrl-C, with the embedded database if DATABASE_URL is not set.

    Args:
        settings: Of this process.
        on_start: Called once the settings are found to be usable.

    Raises:
        ConfigurationError: If it would be open to other machines without signing in.
    """
    import streamlit as st
    from starlette.middleware import Middleware

    from enrichment.dashboard import auth
    from enrichment.dashboard.requests import RequestLimits, session_routes

    host = settings.enrichment_dashboard_host
    protected = settings.enrichment_dashboard_password is not None or auth.openid_configured()
    if not protected and not is_loopback(host):
        raise ConfigurationError(
            f"refusing to serve the dashboard on {host} without signing in: set "
            "ENRICHMENT_DASHBOARD_PASSWORD, or [auth] in .streamlit/secrets.toml for OpenID "
            "Connect, or keep ENRICHMENT_DASHBOARD_HOST=127.0.0.1"
        )
    require_free("dashboard", host, settings.enrichment_dashboard_port)
    on_start()
    hosts = allowed_hosts(settings, protected=protected)
    options = {
        **OPTIONS,
        "server.address": host,
        "server.port": settings.enrichment_dashboard_port,
        "server.allowedHosts": list(hosts),
    }
    embedded = None
    if settings.database_url is None:
        embedded = EmbeddedPostgres(settings.enrichment_home / "postgres")
        os.environ["DATABASE_URL"] = embedded.start()
    with_password = settings.enrichment_dashboard_password is not None
    limits = Middleware(
        RequestLimits,
        hosts=hosts,
        may_upload=lambda cookie: not with_password or bool(auth.sessions().role_of(cookie)),
    )
    routes = session_routes(auth.sessions()) if with_password else []
    app = st.App(script(), routes=routes, middleware=[limits])
    limit_shutdown()
    try:
        app.run(config=options)
    finally:
        if embedded is not None:
            embedded.stop()


def limit_shutdown() -> None:
    """Let uvicorn wait a few seconds for open requests when it stops, not for as long as they take.

    Streamlit passes it no such option.
    """
    import uvicorn

    unlimited = uvicorn.Config.__init__

    def limited(config: uvicorn.Config, *args: Any, **options: Any) -> None:
        unlimited(config, *args, **{"timeout_graceful_shutdown": SHUTDOWN_SECONDS, **options})

    uvicorn.Config.__init__ = limited  # type: ignore[method-assign,assignment]


def allowed_hosts(settings: Settings, *, protected: bool) -> tuple[str, ...]:
    """Host names by which the dashboard may be opened; empty for any.

    Without signing in, a page of any site could otherwise operate it by a host name of its own
    that resolves to this machine (DNS rebinding).
    """
    named = settings.enrichment_dashboard_allowed_hosts
    if protected and not named:
        return ()
    return ("localhost", "127.0.0.1", "::1", settings.enrichment_dashboard_host, *named)


def script() -> Path:
    """`app.py`: next to the packages in a checkout, inside this package in a wheel."""
    packaged = Path(__file__).with_name("app.py")
    return packaged if packaged.exists() else Path(__file__).parents[2] / "app.py"
