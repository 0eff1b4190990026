"""Read-only access to the warehouse for notebooks: SQL, read models and vendors' answers.

    from enrichment.notebook import connect
    warehouse = connect()
    warehouse.query("SELECT * FROM enrichment_status WHERE symbol = :symbol", symbol="AAPL")

It reads the database that `enrichment up` uses with the same settings. For the database of a
running demo set ENRICHMENT_HOME to the folder that the demo prints.
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
    """One provider's bars for a request, or the error it failed with."""

    provider: str
    fetched: FetchedBars | None = None
    error: str | None = None


class WarehouseReader:
    """A read-only connection to the warehouse, made by `connect`.

    Attributes:
        settings: The settings it was opened with.
        reader: The read models of the API and the dashboard.
        reports: The quality reports.
    """

    def __init__(self, settings: Settings, db: Database, resources: ExitStack) -> None:
        self.settings = settings
        self.reader: ReadModels = build_read_models(db, settings)
        self.reports = self.reader.reports
        self._sql = AdhocSql(db)
        self._resources = resources

    def query(self, sql: str, **values: Any) -> pd.DataFrame:
        """The rows of one SQL statement, in which `:name` is replaced by the value of that name."""
        return self._sql.query(sql, **values)

    def ask_each(
        self,
        symbol: str,
        asset_class: AssetClass,
        timeframe: Timeframe,
        window: Window,
        *,
        protection: VendorProtection | None = None,
    ) -> list[VendorAnswer]:
        """Fetch the same bars from every configured provider.

        The requests are real and count against the vendors' quotas.

        Args:
            symbol: Ticker.
            asset_class: Selects the providers.
            timeframe: Length of a bar.
            window: Range of bar starts.
            protection: Retries and timeouts; None for those of the workers.

        Returns:
            One answer per provider, in the configured order.
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
        """Close the connection; done automatically when the kernel ends."""
        self._resources.close()


def connect(
    settings: Settings | None = None, *, timeout_seconds: float = TIMEOUT_SECONDS
) -> WarehouseReader:
    """Open the warehouse for reading.

    Args:
        settings: None to read them from the environment.
        timeout_seconds: Timeout of one query.

    Raises:
        ConfigurationError: There is no database yet.
    """
    settings = settings or Settings.load()
    if settings.database_url is None and not (settings.enrichment_home / "postgres").exists():
        raise ConfigurationError(
            f"there is no database in {settings.enrichment_home}: run 'enrichment up' first, set "
            "ENRICHMENT_HOME to the folder that 'enrichment demo' prints, or set DATABASE_URL"
        )
    resources = ExitStack()
    db = resources.enter_context(open_reading_database(settings, timeout_seconds=timeout_seconds))
    atexit.register(resources.close)
    return WarehouseReader(settings, db, resources)


def frame(bars: Bars) -> pd.DataFrame:
    """Bars as a data frame: one row per bar, indexed by its start in UTC."""
    return pd.DataFrame(bars.columns()).set_index("ts").tz_localize("UTC")
