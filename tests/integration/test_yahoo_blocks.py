"""Yahoo turns clients away: by looks, for want of a crumb, by silence, to a consent page."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import UUID

import pytest
from flask import Flask

from enrichment.config import Settings
from enrichment.domain.errors import AccessDenied, Snooze, StepFailed
from enrichment.domain.model import AssetClass, Task, Timeframe, Window
from enrichment.pipeline.enrich import EnrichmentPipeline
from enrichment.sandbox import create_app, running
from enrichment.sandbox.faults import Fault
from enrichment.vendors.guard import VendorProtection
from enrichment.vendors.http import HttpClient
from enrichment.vendors.registry import VENDORS
from enrichment.vendors.yahoo import YahooProvider
from enrichment.wiring.vendors import build_providers
from resilience import init_resilience_manager
from tests.helpers.fake_transport import direct
from tests.helpers.fakes import EmptyStore
from tests.helpers.virtual_time import VirtualTime

WINDOW = Window(datetime(2026, 2, 2, tzinfo=UTC), datetime(2026, 2, 28, tzinfo=UTC))
SYMBOLS = 3
SHORT = VendorProtection(connect_timeout=0.1, read_timeout=0.1, max_retries=0)
HOUR = 3600.0
FAULTS = {
    "429": Fault("*", "rate_limit", seconds=1, vendor="yahoo"),
    "401": Fault("*", "unauthorized", vendor="yahoo"),
    "403": Fault("*", "forbidden", vendor="yahoo"),
    "hang": Fault("*", "hang", seconds=60, vendor="yahoo"),
    "reset": Fault("*", "reset", vendor="yahoo"),
    "503": Fault("*", "server_error", status=503, vendor="yahoo"),
    "consent": Fault("*", "redirect", vendor="yahoo"),
    "HTML": Fault("*", "html", status=200, vendor="yahoo"),
}


class Sandbox:
    """A sandbox on virtual time, and what Yahoo's client asked of it."""

    def __init__(self, app: Flask, url: str, time: VirtualTime) -> None:
        self.vendor, self.url, self.time = app.extensions["sandbox"], url, time

    def provider(self) -> YahooProvider:
        client = HttpClient(self.url, call=direct, headers=VENDORS["yahoo"].headers)
        return YahooProvider(client, now=self.time.wall, cookie_url=self.url)

    @property
    def outcomes(self) -> dict[str, int]:
        counts: dict[str, int] = self.vendor.requests.describe()["by_outcome"]
        return counts


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    time = VirtualTime(1)
    app = create_app(clock=time.wall)
    with running(app) as url:
        yield Sandbox(app, url, time)


def daily(provider: YahooProvider) -> int:
    return len(provider.fetch("SIM1", AssetClass.STOCK, Timeframe.D1, WINDOW).bars)


def test_cookie_and_crumb_are_fetched_where_they_are_asked_for(sandbox: Sandbox) -> None:
    sandbox.vendor.faults.add([Fault("*", "crumb", vendor="yahoo")])
    provider = sandbox.provider()
    assert daily(provider) == 19
    assert sandbox.outcomes == {"crumb": 1, "ok": 1}
    assert daily(provider) == 19
    assert sandbox.outcomes == {"crumb": 1, "ok": 2}


def test_a_refusal_that_a_crumb_does_not_change_is_reported(sandbox: Sandbox) -> None:
    sandbox.vendor.faults.add([FAULTS["401"]])
    provider = sandbox.provider()
    for requests in (2, 3):  # the crumb is not fetched again at once
        with pytest.raises(AccessDenied, match=r"yahoo, SIM1: .* answered 401"):
            daily(provider)
        assert sandbox.outcomes == {"unauthorized": requests}


def test_a_browser_is_not_turned_away_and_others_are(sandbox: Sandbox) -> None:
    looks = {**VENDORS["yahoo"].headers, "User-Agent": "python-requests/2.32"}
    plain = YahooProvider(
        HttpClient(sandbox.url, call=direct, headers=looks), now=sandbox.time.wall
    )
    with pytest.raises(Exception, match="answered 429"):
        daily(plain)
    assert daily(sandbox.provider()) == 19


@pytest.mark.parametrize(
    ("fault", "order"),
    [
        *((fault, ("yahoo",)) for fault in FAULTS),
        ("429", ("yahoo", "polygon")),
        ("reset", ("yahoo", "polygon")),
    ],
)
def test_a_night_ends_whatever_yahoo_does(
    sandbox: Sandbox, fault: str, order: tuple[str, ...]
) -> None:
    sandbox.vendor.faults.add([FAULTS[fault]])
    settings = Settings(
        _env_file=None,
        providers_stock=",".join(order),
        polygon_api_key="free",
        polygon_base_url=sandbox.url,
        polygon_rate=1000,
        yahoo_base_url=sandbox.url,
        yahoo_cookie_url=sandbox.url,
    )
    time, store = sandbox.time, EmptyStore()
    providers = build_providers(
        settings,
        init_resilience_manager(**time.injectables),
        now=time.wall,
        clock=lambda: time.nanoseconds() / 1e9,
        protection=SHORT if fault == "hang" else None,
    )
    pipeline = EnrichmentPipeline(providers, store, history_days=30, now=time.wall)
    ended = run_night(pipeline, time)
    enriched = {symbol for symbol, _ in store.updates}
    if order == ("yahoo",):
        assert (len(enriched), len(ended)) == (0, SYMBOLS)
    else:
        assert (len(enriched), ended) == (SYMBOLS, {})
        assert all(u.fetched.source == "polygon" for u in store.updates.values())
        assert time.nanoseconds() / 1e9 < HOUR
    assert time.nanoseconds() / 1e9 < 2 * HOUR
    if fault == "429":
        assert sandbox.outcomes["rate_limit"] <= 3


def run_night(pipeline: EnrichmentPipeline[None], time: VirtualTime) -> dict[str, str]:
    """Run each item until it is stored or has failed four times; the last error of the failed."""
    due = {f"SIM{n}": 0.0 for n in range(1, SYMBOLS + 1)}
    failures = dict.fromkeys(due, 0)
    ended: dict[str, str] = {}
    while due:
        symbol = min(due, key=due.__getitem__)
        now = time.nanoseconds() / 1e9
        time.sleep(max(0.0, due[symbol] - now))
        assert time.nanoseconds() / 1e9 < 12 * HOUR, "the night does not end"
        task = Task(UUID(int=1), symbol, AssetClass.STOCK, (Timeframe.D1,), "w", 1)
        try:
            pipeline.enrich(task)
            del due[symbol]
        except StepFailed as failed:
            cause = failed.__cause__
            now = time.nanoseconds() / 1e9
            if isinstance(cause, Snooze):
                due[symbol] = now + cause.seconds
                continue
            failures[symbol] += 1
            due[symbol] = now + 2.0 ** failures[symbol]
            if getattr(cause, "permanent", False) or failures[symbol] > 3:
                ended[symbol] = str(cause)
                del due[symbol]
    return ended
