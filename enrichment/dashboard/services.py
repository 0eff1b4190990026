"""The read models and commands that all sessions share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

import streamlit as st

from enrichment.config import Settings
from enrichment.dashboard.auth import require_operator
from enrichment.services.commands import Commands
from enrichment.warehouse import reader_role
from enrichment.warehouse.database import Connection, Database
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.wiring.database import build_commands

STATEMENT_TIMEOUT_MS = 2000


@dataclass(frozen=True)
class Services:
    reader: ReadModels
    commands: Commands  # get it by `commands()`, which checks the user's role at once
    provider_orders: Mapping[str, Sequence[str]]  # asset class → its providers, first choice first


class _OperatorsDatabase(Database):
    """Begins a transaction only for operators: every command is checked where it is executed."""

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        require_operator()
        with super().begin() as conn:
            yield conn


def _reader_role(url: str) -> str | None:
    with closing(Database(url, pool_size=1, application="enrichment-dashboard")) as database:
        return reader_role.role(database)


@st.cache_resource(show_spinner=False)
def services() -> Services:
    """The read models with a statement timeout, the commands on a connection without one."""
    settings = Settings.load()
    if settings.database_url is None:
        raise RuntimeError("start the dashboard with 'enrichment dashboard'")
    url = settings.database_url.get_secret_value()
    orders = settings.provider_orders
    database = _OperatorsDatabase(url, pool_size=1, application="enrichment-dashboard")
    reader = ReadModels(
        Database(
            url,
            application="enrichment-dashboard",
            statement_timeout_ms=STATEMENT_TIMEOUT_MS,
            read_only=True,
            role=_reader_role(url),
        ),
        settings.run_schedules,
        enabled=settings.enable_daily_enrichment,
        providers=orders,
        quotas=settings.quotas,
        deadline=settings.enrichment_deadline,
    )
    return Services(reader, build_commands(database, settings), orders)


def commands() -> Commands:
    """The commands; NotAllowed unless the session's user is an operator."""
    require_operator()
    return services().commands
