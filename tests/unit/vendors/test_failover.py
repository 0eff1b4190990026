"""Several providers in order: the first that can, answers."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from enrichment.domain.bars import Bars
from enrichment.domain.errors import (
    NoProvider,
    ProviderError,
    ProviderUnavailable,
    Snooze,
    UnknownSymbol,
)
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.vendors.failover import Failover

WINDOW = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
ONE = Bars.of(np.array(["2026-01-01"], "datetime64[us]"), *(np.ones(1) for _ in range(5)))


class Scripted:
    """Answers, or raises what it was given."""

    def __init__(self, name: str, error: Exception | None = None, *, bars: Bars = ONE) -> None:
        self.name = self.source = name
        self.error, self.bars = error, bars
        self.asked = 0

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return FetchedBars(self.bars, self.name, adjusted=True)


def ask(*providers: Scripted, order: tuple[str, ...] | None = None) -> FetchedBars:
    names = order if order is not None else tuple(p.name for p in providers)
    failover = Failover({p.name: p for p in providers}, lambda _: names)
    return failover.fetch("AAPL", AssetClass.STOCK, Timeframe.D1, WINDOW)


def test_the_first_that_can_answers_and_the_rest_are_not_asked() -> None:
    first, second = Scripted("first"), Scripted("second")
    assert ask(first, second).source == "first"
    assert second.asked == 0


@pytest.mark.parametrize("error", [Snooze("breaker open", 60), ProviderUnavailable("500")])
def test_the_next_takes_over_from_one_that_is_out_or_fails(error: Exception) -> None:
    assert ask(Scripted("first", error), Scripted("second")).source == "second"


def test_a_real_failure_outweighs_a_wait() -> None:
    with pytest.raises(ProviderError, match="answered 500"):
        ask(Scripted("a", Snooze("open", 60)), Scripted("b", ProviderUnavailable("answered 500")))


def test_where_all_ask_to_wait_the_shortest_wait_counts() -> None:
    with pytest.raises(Snooze) as raised:
        ask(Scripted("a", Snooze("open", 60)), Scripted("b", Snooze("open", 5)))
    assert raised.value.seconds == 5


def test_no_provider_names_the_setting() -> None:
    with pytest.raises(NoProvider, match="PROVIDERS_STOCK"):
        ask(Scripted("a"), order=())


def test_one_that_has_no_bars_is_not_the_last_word() -> None:
    nothing = Scripted("a", bars=Bars.empty())
    assert ask(nothing, Scripted("b")).source == "b"
    assert ask(nothing, Scripted("b", UnknownSymbol("404"))).source == "a"
    with pytest.raises(ProviderUnavailable):
        ask(nothing, Scripted("b", ProviderUnavailable("answered 500")))


def test_a_symbol_is_unknown_only_when_nobody_is_left_to_ask() -> None:
    with pytest.raises(Snooze):
        ask(Scripted("a", UnknownSymbol("404")), Scripted("b", Snooze("open", 60)))
    with pytest.raises(UnknownSymbol):
        ask(Scripted("a", UnknownSymbol("404")), Scripted("b", UnknownSymbol("404")))


def test_a_second_opinion_comes_from_another_source_or_not_at_all() -> None:
    providers = {
        p.name: p for p in (Scripted("a"), Scripted("b", Snooze("open", 5)), Scripted("c"))
    }
    failover = Failover(providers, lambda _: tuple(providers), paused=lambda: ("d",))
    asked = ("AAPL", AssetClass.STOCK, Timeframe.D1, WINDOW)
    other = failover.fetch_from_other(*asked, excluding="a")
    assert other is not None
    assert other.source == "c"
    alone = Failover({"a": providers["a"]}, lambda _: ("a",))
    assert alone.fetch_from_other(*asked, excluding="a") is None
