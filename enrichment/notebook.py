"""Read-only access to the warehouse for notebooks: SQL, read models and vendors' answers.

    from enrichment.notebook import connect
    warehouse = connect()
    warehouse.bars("AAPL", "1d", "2024-01-01", adjust="split")
    warehouse.query("SELECT * FROM enrichment_status WHERE symbol = :symbol", symbol="AAPL")

It reads the database that `enrichment up` uses with the same settings. For the database of a
running demo set ENRICHMENT_HOME to the folder that the demo prints.
"""

from __future__ import annotations

import atexit
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import pandas as pd
import pyarrow as pa

from enrichment.config import Settings
from enrichment.domain.bars import Bars
from enrichment.domain.corporate_actions import Adjustment
from enrichment.domain.errors import (
    ConfigurationError,
    InvalidRequest,
    NotTracked,
    ProviderError,
    Snooze,
)
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.guard import VendorProtection
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.adhoc_sql import AdhocSql
from enrichment.warehouse.read_models.bars import COLUMNS, default_columns, schema
from enrichment.warehouse.read_models.corporate_actions import ListedAction
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.wiring.database import build_read_models, open_reading_database
from enrichment.wiring.vendors import build_providers
from resilience import init_resilience_manager

TIMEOUT_SECONDS = 30.0
MAX_ACTIONS = 10_000


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

    def bars(
        self,
        symbol: str,
        timeframe: str | Timeframe = Timeframe.D1,
        start: datetime | str | None = None,
        end: datetime | str | None = None,
        *,
        columns: Sequence[str] | None = None,
        adjust: str | Adjustment = Adjustment.SPLIT,
    ) -> pd.DataFrame:
        """The stored bars of a series with their features, ascending.

        Args:
            symbol: In any usual spelling.
            timeframe: Length of a bar, such as '1d'.
            start: Earliest start of a bar, such as '2024-01-01'; UTC unless it says otherwise.
            end: Exclusive.
            columns: Such as 'close' and 'rsi_14'; None for all.
            adjust: The basis of prices and volumes: 'none' as traded, 'split' on today's share
                basis, 'total' also as if dividends had been reinvested.

        Returns:
            One row per bar, indexed by its start in UTC; `attrs` holds symbol, timeframe and
            adjust.

        Raises:
            NotTracked: The warehouse does not know the symbol.
            InvalidRequest: An argument is none of those above.
        """
        name = self.reader.symbols.stored_as(symbol)
        frame_of, basis = Timeframe.parse(str(timeframe)), _basis(adjust)
        names = default_columns(frame_of) if columns is None else list(columns)
        if unknown := [column for column in names if column not in COLUMNS]:
            raise InvalidRequest(f"unknown columns {unknown}: choose among {', '.join(COLUMNS)}")
        downloads = self.reader.bars
        if not downloads.exists(name):
            raise NotTracked.of(name)
        extent = downloads.extent(name, frame_of, _utc(start), _utc(end), adjustment=basis)
        batches = list(downloads.chunks(extent, names))
        table = pa.Table.from_batches(batches, schema(names))
        result: pd.DataFrame = table.to_pandas().set_index("ts")
        result.attrs = {"symbol": name, "timeframe": str(frame_of), "adjust": str(basis)}
        return result

    def actions(self, symbol: str) -> pd.DataFrame:
        """A symbol's splits, dividends and other corporate actions, ascending, as the leading
        source describes them; `applies` says which are part of the adjustment of prices.
        """
        name = self.reader.symbols.stored_as(symbol)
        listed = self.reader.corporate_actions.listed(MAX_ACTIONS, symbol=name)
        columns = [field.name for field in fields(ListedAction)]
        rows = [asdict(action) for action in reversed(listed)]
        return pd.DataFrame(rows, columns=columns).set_index("effective_date")

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


def _basis(adjust: str | Adjustment) -> Adjustment:
    try:
        return Adjustment(adjust)
    except ValueError:
        raise InvalidRequest(
            f"unknown basis {adjust!r}: choose one of {', '.join(Adjustment)}"
        ) from None


def _utc(moment: datetime | str | None) -> datetime | None:
    if moment is None:
        return None
    try:
        at = pd.Timestamp(moment)
    except ValueError:
        raise InvalidRequest(f"{moment!r} is no date or time") from None
    return (at.tz_localize("UTC") if at.tz is None else at).to_pydatetime()


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
