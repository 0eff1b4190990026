"""What a notebook needs: questions to the warehouse in SQL, its readers, and its vendors' answers.

    from enrichment.notebook import connect
    warehouse = connect()
    warehouse.query("SELECT * FROM enrichment_status WHERE symbol = :symbol", symbol="AAPL")

It reads the database that `enrichment up` uses with the same settings, or that of a running demo,
whose ENRICHMENT_HOME the demo prints. Nothing is written through it.
"""

from __future__ import annotations

import atexit
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pandas as pd

from enrichment.config import Settings
from enrichment.domain.bars import Bars
from enrichment.domain.errors import ConfigurationError, ProviderError, Snooze
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.guard import VendorProtection
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.adhoc_sql import AdhocSql
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.wiring.database import build_read_models, open_reading_database
from enrichment.wiring.vendors import build_providers
from resilience import init_resilience_manager

TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True)
class VendorAnswer:
    """What one provider said to a request: its bars, or why there are none."""

    provider: str
    fetched: FetchedBars | None = None
    error: str | None = None


class WarehouseReader:
    """The open connection; `reader` and `reports` are those of the dashboard."""

    def __init__(self, settings: Settings, db: Database, close: ExitStack) -> None:
        self.settings = settings
        self.reader: ReadModels = build_read_models(db, settings)
        self.reports = self.reader.reports
        self._analysis = AdhocSql(db)
        self._close = close

    def query(self, sql: str, **values: Any) -> pd.DataFrame:
        """The rows of one statement, `:name` standing for the value of that name."""
        return self._analysis.query(sql, **values)

    def ask_each(
        self,
        symbol: str,
        asset_class: AssetClass,
        timeframe: Timeframe,
        window: Window,
        *,
        protection: VendorProtection | None = None,
    ) -> list[VendorAnswer]:
        """Every configured provider's own answer to the same request, in their order.

        These requests are the vendors' real ones and use up their quotas. protection: how often
        and how long a vendor is tried; None: as by the workers.
        """
        manager = init_resilience_manager()
        answers = []
        try:
            providers = build_providers(self.settings, manager, protection=protection)
            for name in self.settings.providers(asset_class):
                try:
                    provider = providers.named(name)
                    fetched = provider.fetch(symbol, asset_class, timeframe, window)
                    answers.append(VendorAnswer(name, fetched))
                except (ProviderError, Snooze) as exc:
                    answers.append(VendorAnswer(name, error=str(exc)))
        finally:
            manager.close()
        return answers

    def close(self) -> None:
        """Let go of the connection; done by itself when the kernel ends."""
        self._close.close()


def connect(
    settings: Settings | None = None, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> WarehouseReader:
    """Open the database of the settings (default: those of the environment) for reading.

    timeout_seconds: of one query. ConfigurationError where there is no database yet.
    """
    chosen = settings or Settings.load()
    if chosen.database_url is None and not (chosen.enrichment_home / "postgres").exists():
        raise ConfigurationError(
            f"there is no database in {chosen.enrichment_home}: run 'enrichment up' first, set "
            "ENRICHMENT_HOME to the folder that 'enrichment demo' prints, or set DATABASE_URL"
        )
    stack = ExitStack()
    db = stack.enter_context(open_reading_database(chosen, timeout_seconds=timeout_seconds))
    atexit.register(stack.close)
    return WarehouseReader(chosen, db, stack)


def frame(bars: Bars) -> pd.DataFrame:
    """The columns of bars, one row per bar, by its start in UTC."""
    return pd.DataFrame(bars.columns()).set_index("ts").tz_localize("UTC")
