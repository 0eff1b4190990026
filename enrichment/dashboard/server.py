"""Starts Streamlit with the dashboard's settings and theme."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from enrichment.config import Settings
from enrichment.domain.errors import ConfigurationError
from enrichment.net import is_loopback, require_free
from enrichment.warehouse.embedded import EmbeddedPostgres

_OPTIONS = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "runner.postScriptGC": "false",  # it collects all objects after every refresh: 100 ms
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


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C, with the embedded database if DATABASE_URL is not set.

    Raises:
        ConfigurationError: If it would be open to other machines without signing in.
    """
    from streamlit.web import cli

    from enrichment.dashboard import auth

    host = settings.enrichment_dashboard_host
    protected = settings.enrichment_dashboard_password is not None or auth.openid_configured()
    if not protected and not is_loopback(host):
        raise ConfigurationError(
            f"refusing to serve the dashboard on {host} without signing in: set "
            "ENRICHMENT_DASHBOARD_PASSWORD, or [auth] in .streamlit/secrets.toml for OpenID "
            "Connect, or keep ENRICHMENT_DASHBOARD_HOST=127.0.0.1"
        )
    require_free("dashboard", host, settings.enrichment_dashboard_port)
    options = {
        **_OPTIONS,
        "server.address": host,
        "server.port": str(settings.enrichment_dashboard_port),
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    embedded = None
    if settings.database_url is None:
        embedded = EmbeddedPostgres(settings.enrichment_home / "postgres")
        os.environ["DATABASE_URL"] = embedded.start()
    sys.argv = ["streamlit", "run", str(script()), *flags]
    try:
        cli.main()
    finally:
        if embedded is not None:
            embedded.stop()


def script() -> Path:
    """`app.py`: next to the packages in a checkout, inside this package in a wheel."""
    packaged = Path(__file__).with_name("app.py")
    return packaged if packaged.exists() else Path(__file__).parents[2] / "app.py"
