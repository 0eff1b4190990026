"""Several providers in an order for each asset class: the first that has bars, answers.

An outage is failed over, a quota is waited for: the next provider mostly reaches less far back, and
what it sends in place of the first one stays.

>>> Failover({}, lambda asset_class: ()).named("bloomberg")
Traceback (most recent call last):
enrichment.domain.errors.UnknownVendor: no provider 'bloomberg' is in use: there is none
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from enrichment.domain.errors import (
    NoProvider,
    ProviderError,
    Snooze,
    UnknownSymbol,
    UnknownVendor,
)
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.domain.statuses import SnoozeCause
from enrichment.vendors.base import Provider

_log = logging.getLogger(__name__)

PAUSED_WAIT_SECONDS = 30.0
FAILOVER_AFTER = timedelta(hours=6)


class Failover:
    """Asks the next provider when one fails, has no bars, or lets all wait for too long.

    Args:
        providers: By name.
        order: The names to ask for an asset class, the first one first.
        paused: The names of the providers that an operator has paused.
        failover_after: How long a provider may keep every request waiting, by its quota or a pause,
            before the next one is asked.
        clock: In seconds.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        order: Callable[[AssetClass], Sequence[str]],
        *,
        paused: Callable[[], Container[str]] = tuple,
        failover_after: timedelta = FAILOVER_AFTER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._providers = providers
        self._order = order
        self._paused = paused
        self._failover_after = failover_after.total_seconds()
        self._clock = clock
        self._waits: dict[str, tuple[float, float]] = {}  # begin and end so far, until an answer
        self._fallbacks: dict[AssetClass, str | None] = {}  # that served last

    def named(self, name: str) -> Provider:
        """One provider, without failover; UnknownVendor if it is not in use."""
        if name not in self._providers:
            in_use = ", ".join(self._providers) or "there is none"
            raise UnknownVendor(f"no provider {name!r} is in use: {in_use}")
        return self._providers[name]

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        """Fetch the bars that start in the window.

        Without bars from any provider: a transient failure is raised first, then the shortest wait
        of a provider that may know the symbol; then an empty answer is returned, or the first
        permanent failure raised. An empty answer counts if all providers before it have answered.

        Raises:
            ProviderError: A provider failed and none answered.
            Snooze: It is the turn of a provider whose quota or pause is to be waited for, or one
                can be asked later and no other knows the symbol.
        """
        waits: list[Snooze] = []
        failures: list[ProviderError] = []
        empty: list[FetchedBars] = []
        paused = self._paused()
        for name in self._order(asset_class):
            try:
                if name in paused:
                    reason = f"provider {name} is paused"
                    raise Snooze(reason, PAUSED_WAIT_SECONDS, SnoozeCause.PAUSE)
                fetched = self._providers[name].fetch(symbol, asset_class, timeframe, window)
                self._waits.pop(name, None)
            except Snooze as exc:
                if not self._is_failed_over(name, exc):
                    raise
                waits.append(exc)
            except ProviderError as exc:
                failures.append(exc)
            else:
                fetched = replace(fetched, fallback=bool(waits) or _not_answered(failures))
                if len(fetched.bars.ts):
                    self._log_change(asset_class, name, fetched, [*waits, *failures])
                    return fetched
                if not fetched.fallback:  # else a preferred one may have the bars
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

    def _log_change(
        self,
        asset_class: AssetClass,
        name: str,
        fetched: FetchedBars,
        errors: Sequence[Exception],
    ) -> None:
        """Log once that a fallback serves an asset class, and that it does no longer."""
        fallback = name if fetched.fallback else None
        if self._fallbacks.get(asset_class) == fallback:
            return
        self._fallbacks[asset_class] = fallback
        if fallback is None:
            _log.info("%s: %s serves again", asset_class, name)
        else:
            served = f" ({fetched.substitution})" if fetched.substitution else ""
            _log.warning("%s: fallback %s serves%s: %s", asset_class, name, served, errors[0])

    def _is_failed_over(self, name: str, snooze: Snooze) -> bool:
        if snooze.cause is SnoozeCause.OUTAGE:
            return True
        now = self._clock()
        begin, end = self._waits.get(name, (now, now))
        if snooze.cause is not SnoozeCause.PAUSE and now - end > self._failover_after:
            begin = now  # nobody has waited since: that was another night's quota
        self._waits[name] = begin, now + snooze.seconds
        return now - begin + snooze.seconds > self._failover_after

    def fetch_from_other(
        self,
        symbol: str,
        asset_class: AssetClass,
        timeframe: Timeframe,
        window: Window,
        *,
        excluding: str,
    ) -> FetchedBars | None:
        """Fetch from the first provider of another source that answers; None if none does.

        Args:
            excluding: The source not to ask, as in `FetchedBars.source`.
        """
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


def _not_answered(failures: Sequence[ProviderError]) -> bool:
    """Whether one of the failures says nothing of the symbol."""
    return any(not isinstance(failure, UnknownSymbol) for failure in failures)
