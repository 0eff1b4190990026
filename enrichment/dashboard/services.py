"""What the pages share: the services, one pool for all sessions, and figures cached for 2
seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import streamlit as st

from enrichment.config import Settings
from enrichment.dashboard.auth import actor as actor
from enrichment.dashboard.auth import require_operator
from enrichment.dashboard.data.cache import cached_read
from enrichment.domain.model import AssetClass
from enrichment.services.commands import Commands
from enrichment.warehouse import reader_role
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.facade import ReadModels

STATEMENT_TIMEOUT_MS = 2000


@dataclass(frozen=True)
class Services:
    """The read models; `writing` is for `commands` alone. orders: providers by asset class."""

    reader: ReadModels
    writing: Commands
    orders: Mapping[str, Sequence[str]]


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
            role=reader_role.role(writing),
        ),
        hour=settings.enrichment_hour,
        minute=settings.enrichment_minute,
        enabled=settings.enable_daily_enrichment,
    )
    orders = {kind.value: settings.providers(kind) for kind in AssetClass}
    return Services(reader, Commands(writing), orders)


def commands() -> Commands:
    """What changes anything; NotAllowed unless this session is an operator's."""
    require_operator()
    return services().writing


@cached_read
def silent_since() -> datetime | None:
    """The newest sign of life where no worker is alive; None where one is, or none ever was."""
    return services().reader.silent_since()
