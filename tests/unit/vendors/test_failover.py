"""Failover between providers: which answer, wait or error the caller gets."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from enrichment.domain.bars import Bars
from enrichment.domain.errors import (
    AccessDenied,
    NoProvider,
    ProviderError,
    ProviderUnavailable,
    Snooze,
    UnknownSymbol,
)
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.domain.statuses import SnoozeCause
from enrichment.vendors.failover import Failover

WINDOW = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
ONE = Bars.of(np.array(["2026-01-01"], "datetime64[us]"), *(np.ones(1) for _ in range(5)))


class FakeProvider:
    """Returns its bars, or raises its error; counts requests."""

    def __init__(self, name: str, error: Exception | None = None, *, bars: Bars = ONE) -> None:
        self.name = self.source = name
        self.error, self.bars = error, bars
        self.requests = 0

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        self.requests += 1
        if self.error is not None:
            raise self.error
        return FetchedBars(self.bars, self.name, adjusted=True)


def fetch(*providers: FakeProvider, order: tuple[str, ...] | None = None) -> FetchedBars:
    names = order if order is not None else tuple(p.name for p in providers)
    failover = Failover({p.name: p for p in providers}, lambda _: names)
    return failover.fetch("AAPL", AssetClass.STOCK, Timeframe.D1, WINDOW)


def test_the_first_answer_is_returned_and_the_others_are_not_requested() -> None:
    first, second = FakeProvider("first"), FakeProvider("second")
    assert fetch(first, second).source == "first"
    assert second.requests == 0


@pytest.mark.parametrize(
    "error", [Snooze("open", 60, SnoozeCause.OUTAGE), ProviderUnavailable("500")]
)
def test_the_next_provider_replaces_one_that_fails_or_must_wait(error: Exception) -> None:
    assert fetch(FakeProvider("first", error), FakeProvider("second")).source == "second"


@pytest.mark.parametrize("cause", [SnoozeCause.QUOTA, SnoozeCause.PAUSE, SnoozeCause.CAPACITY])
def test_a_quota_is_waited_for(cause: SnoozeCause) -> None:
    second = FakeProvider("second")
    with pytest.raises(Snooze, match="used up"):
        fetch(FakeProvider("first", Snooze("used up", 30, cause)), second)
    assert second.requests == 0


def test_a_wait_longer_than_the_setting_is_failed_over() -> None:
    first = FakeProvider("first", Snooze("come back tomorrow", 6 * 3600 + 1, SnoozeCause.QUOTA))
    assert fetch(first, FakeProvider("second")).source == "second"


def test_a_provider_that_answers_nobody_for_longer_than_the_setting_is_failed_over() -> None:
    first, second = FakeProvider("first"), FakeProvider("second")
    now, paused = 0.0, {"first"}
    failover = Failover(
        {"first": first, "second": second},
        lambda _: ("first", "second"),
        paused=lambda: paused,
        failover_after=timedelta(hours=6),
        clock=lambda: now,
    )

    def source() -> str:
        return failover.fetch("AAPL", AssetClass.STOCK, Timeframe.D1, WINDOW).source

    with pytest.raises(Snooze, match="paused"):
        source()
    now = 5 * 3600.0
    with pytest.raises(Snooze, match="paused"):
        source()
    now = 6 * 3600.0
    assert source() == "second"
    paused.clear()
    assert source() == "first"
    paused.add("first")  # counted anew
    with pytest.raises(Snooze, match="paused"):
        source()


def test_a_transient_failure_is_raised_before_a_wait() -> None:
    with pytest.raises(ProviderError, match="answered 500"):
        fetch(
            FakeProvider("a", Snooze("open", 60, SnoozeCause.OUTAGE)),
            FakeProvider("b", ProviderUnavailable("answered 500")),
        )


def test_the_shortest_wait_is_raised_if_all_must_wait() -> None:
    with pytest.raises(Snooze) as raised:
        fetch(
            FakeProvider("a", Snooze("open", 60, SnoozeCause.OUTAGE)),
            FakeProvider("b", Snooze("open", 5, SnoozeCause.OUTAGE)),
        )
    assert raised.value.seconds == 5


def test_an_empty_order_is_an_error_that_names_the_setting() -> None:
    with pytest.raises(NoProvider, match="PROVIDERS_STOCK"):
        fetch(FakeProvider("a"), order=())


def test_the_next_provider_is_asked_if_one_has_no_bars() -> None:
    nothing = FakeProvider("a", bars=Bars.empty())
    assert fetch(nothing, FakeProvider("b")).source == "b"
    assert fetch(nothing, FakeProvider("b", UnknownSymbol("404"))).source == "a"
    with pytest.raises(ProviderUnavailable):
        fetch(nothing, FakeProvider("b", ProviderUnavailable("answered 500")))


@pytest.mark.parametrize(
    "error",
    [Snooze("open", 60, SnoozeCause.OUTAGE), ProviderUnavailable("500"), AccessDenied("no key")],
)
def test_a_fallback_without_bars_does_not_stand_for_a_vendor_that_gave_no_answer(
    error: Exception,
) -> None:
    """The first may have the bars: the item waits for it, or fails for its reason."""
    nothing = FakeProvider("second", bars=Bars.empty())
    with pytest.raises(type(error), match=str(error)):
        fetch(FakeProvider("first", error), nothing)
    unknown = FakeProvider("first", UnknownSymbol("404"))
    assert fetch(unknown, nothing).source == "second"
    assert fetch(nothing, FakeProvider("third", error=AccessDenied("403"))).source == "second"


def test_another_nights_wait_for_a_quota_does_not_count() -> None:
    """A job that was cancelled while it waited leaves no answer behind."""
    first = FakeProvider("first", Snooze("used up", 60, SnoozeCause.QUOTA))
    now = 0.0
    failover = Failover(
        {"first": first, "second": FakeProvider("second")},
        lambda _: ("first", "second"),
        failover_after=timedelta(hours=6),
        clock=lambda: now,
    )
    for hours in (0, 24, 25, 48):
        now = hours * 3600.0
        with pytest.raises(Snooze, match="used up"):
            failover.fetch("AAPL", AssetClass.STOCK, Timeframe.D1, WINDOW)


def test_a_symbol_is_unknown_only_if_every_provider_says_so() -> None:
    with pytest.raises(Snooze):
        fetch(
            FakeProvider("a", UnknownSymbol("404")),
            FakeProvider("b", Snooze("open", 60, SnoozeCause.OUTAGE)),
        )
    with pytest.raises(UnknownSymbol):
        fetch(FakeProvider("a", UnknownSymbol("404")), FakeProvider("b", UnknownSymbol("404")))


def test_the_other_provider_has_another_source() -> None:
    providers = {
        p.name: p
        for p in (
            FakeProvider("a"),
            FakeProvider("b", Snooze("open", 5, SnoozeCause.OUTAGE)),
            FakeProvider("c"),
        )
    }
    failover = Failover(providers, lambda _: tuple(providers), paused=lambda: ("d",))
    request = ("AAPL", AssetClass.STOCK, Timeframe.D1, WINDOW)
    other = failover.fetch_from_other(*request, excluding="a")
    assert other is not None
    assert other.source == "c"
    alone = Failover({"a": providers["a"]}, lambda _: ("a",))
    assert alone.fetch_from_other(*request, excluding="a") is None


def test_a_fallback_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    first = FakeProvider("first", ProviderUnavailable("answered 503"))
    second = FakeProvider("second")
    failover = Failover({"first": first, "second": second}, lambda _: ("first", "second"))
    caplog.set_level("INFO", "enrichment.vendors.failover")
    for error in (first.error, first.error, None, None):
        first.error = error
        failover.fetch("AAPL", AssetClass.STOCK, Timeframe.D1, WINDOW)
    assert [record.getMessage() for record in caplog.records] == [
        "stock: fallback second serves: answered 503",
        "stock: first serves again",
    ]
