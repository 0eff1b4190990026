"""What the pipeline needs from outside: a source of bars and a store of series.

>>> from enrichment.domain.errors import NoProvider
>>> class NoVendor:  # the smallest bar source
...     def fetch(self, symbol, asset_class, timeframe, window):
...         raise NoProvider(f"no vendor serves {symbol}")
...
...     def fetch_from_other(self, symbol, asset_class, timeframe, window, *, excluding):
...         return None
>>> source: BarSource = NoVendor()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol, TypeVar

from enrichment.domain.model import AssetClass, FetchedBars, Task, Timeframe, Window
from enrichment.domain.series import SeriesSnapshot, SeriesUpdate, StoredTail

Outcome = TypeVar("Outcome", covariant=True)


class BarSource(Protocol):
    """One vendor, or several with failover."""

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        """The bars of the window. Raises ProviderError, or Snooze to try the item again later."""

    def fetch_from_other(
        self,
        symbol: str,
        asset_class: AssetClass,
        timeframe: Timeframe,
        window: Window,
        *,
        excluding: str,
    ) -> FetchedBars | None:
        """The same from another vendor than `excluding`; None if no other is available."""


class SeriesStore(Protocol[Outcome]):
    """Where series are stored. Outcome: result of a commit, `RowCounts` or a future of them."""

    def read_snapshots(
        self, tasks: Sequence[Task], now: datetime
    ) -> Mapping[Task, Mapping[Timeframe, SeriesSnapshot]]:
        """Snapshots of all series of the tasks, with their tails as far as they can be batched."""

    def snapshot(self, symbol: str, timeframe: Timeframe) -> SeriesSnapshot:
        """Snapshot of one series, without a tail."""

    def read_tail(
        self, symbol: str, timeframe: Timeframe, since: datetime | None, lookback: int
    ) -> StoredTail:
        """All bars from `since` on (None: all there are), and `lookback` bars before it."""

    def store_chunk(self, task: Task, update: SeriesUpdate, remaining_until: datetime) -> None:
        """Write one chunk of a backfill, of which the window up to `remaining_until` remains."""

    def commit(self, task: Task, updates: Sequence[SeriesUpdate]) -> Outcome:
        """Write the updates and the completion of the task in one transaction."""
