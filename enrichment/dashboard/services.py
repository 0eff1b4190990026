"""What the pages share: the services, one pool for all sessions, and figures cached for 2
seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from enrichment.commands import Commands
from enrichment.config import Settings
from enrichment.dashboard.access import require_operator
from enrichment.storage import reading
from enrichment.storage.database import Database
from enrichment.storage.read_models import ReadModels

STATEMENT_TIMEOUT_MS = 2000
ACTOR = "dashboard"


@dataclass(frozen=True)
class Services:
    """The read models; `writing` is for `commands` alone."""

    reader: ReadModels
    writing: Commands


@st.cache_resource(show_spinner=False)
def services() -> Services:
    """The read models under a statement timeout, and the commands on a connection without one."""
    settings = Settings.load()
    if settings.database_url is None:
        raise RuntimeError("start the dashboard with 'enrichment dashboard'")
    url = settings.database_url.get_secret_value()
    writing = Database(url, pool_size=1, application="enrichment-dashboard")
    reader = ReadModels(
        Database(
            url,
            application="enrichment-dashboard",
            statement_timeout_ms=STATEMENT_TIMEOUT_MS,
            read_only=True,
            role=reading.role(writing),
        ),
        hour=settings.enrichment_hour,
        minute=settings.enrichment_minute,
        enabled=settings.enable_daily_enrichment,
    )
    return Services(reader, Commands(writing))


def commands() -> Commands:
    """What changes anything; NotAllowed unless this session is an operator's."""
    require_operator()
    return services().writing
