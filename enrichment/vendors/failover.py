"""Several providers in the order of a setting per asset class: the first that can, answers."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

from enrichment.domain.errors import NoProvider, ProviderError, Snooze, UnknownVendor
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.base import Provider

PAUSED_WAIT_SECONDS = 30.0


class Failover:
    """Asks the next provider when one fails, has no bars, or is not to be asked now.

    paused: names of the providers that an operator has paused. If none answers, the first real
    failure surfaces; if one only asks to wait, and the others do not know the symbol, the wait
    does, for it may know it.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        order: Callable[[AssetClass], Sequence[str]],
        *,
        paused: Callable[[], Container[str]] = tuple,
    ) -> None:
        self._providers = providers
        self._order = order
        self._paused = paused

    def named(self, name: str) -> Provider:
        """One provider without failover; UnknownVendor if it is none of these."""
        if name not in self._providers:
            raise UnknownVendor(f"provider {name!r} is none of {', '.join(self._providers)}")
        return self._providers[name]

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        waits: list[Snooze] = []
        failures: list[ProviderError] = []
        empty: list[FetchedBars] = []
        paused = self._paused()
        for name in self._order(asset_class):
            if name in paused:
                waits.append(Snooze(f"provider {name} is paused", PAUSED_WAIT_SECONDS))
                continue
            try:
                fetched = self._providers[name].fetch(symbol, asset_class, timeframe, window)
            except Snooze as exc:
                waits.append(exc)
            except ProviderError as exc:
                failures.append(exc)
            else:
                if len(fetched.bars):
                    return fetched
                empty.append(fetched)
        failures.sort(key=lambda failure: failure.permanent)
        if failures and not (failures[0].permanent and (waits or empty)):
            raise failures[0]
        if waits and not empty:
            raise min(waits, key=lambda wait: wait.seconds)
        if empty:
            return empty[0]
        raise NoProvider(
            f"no provider is set for {asset_class}: set PROVIDERS_{asset_class.upper()}"
        )

    def fetch_from_other(
        self,
        symbol: str,
        asset_class: AssetClass,
        timeframe: Timeframe,
        window: Window,
        *,
        excluding: str,
    ) -> FetchedBars | None:
        """What the first other source than `but` says; None where none can be asked now."""
        paused = self._paused()
        for name in self._order(asset_class):
            provider = self._providers[name]
            if name in paused or provider.source == excluding:
                continue
            try:
                return provider.fetch(symbol, asset_class, timeframe, window)
            except (ProviderError, Snooze):
                continue
        return None
