"""What is failed over and what is waited for: each kind of outage, and each kind of quota."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

import pytest
import requests
from pydantic import SecretStr

from enrichment.config import Settings
from enrichment.domain.errors import Snooze
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.domain.statuses import SnoozeCause
from enrichment.sandbox import create_app, running
from enrichment.sandbox.faults import Fault
from enrichment.vendors.guard import VendorProtection
from enrichment.warehouse.database import Database
from enrichment.wiring.vendors import build_providers
from resilience import init_resilience_manager
from tests.helpers.free_plan import free_plan_nights

NOW = datetime(2024, 12, 26, 12, tzinfo=UTC)
QUICK = VendorProtection(max_retries=0, connect_timeout=0.5, read_timeout=4.0)


@contextmanager
def vendor_that_is(state: str) -> Iterator[str]:
    """The address of a vendor in this state."""
    with ExitStack() as stack:
        if state == "unknown":
            yield "http://vendor.invalid"
            return
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]
        if state == "refusing":
            listener.close()
        scheme = "https" if state == "without an answer to TLS" else "http"
        yield f"{scheme}://127.0.0.1:{port}"


def fetch(
    first: str, second: str, failover_after: timedelta = timedelta(hours=6), **options: object
) -> FetchedBars:
    settings = Settings(
        polygon_api_key=SecretStr("key"),
        polygon_base_url=first,
        yahoo_base_url=second,
        failover_after=failover_after,
    )
    manager = init_resilience_manager()
    providers = build_providers(
        settings,
        manager,
        protection=QUICK,
        now=lambda: NOW,
        **options,  # type: ignore[arg-type]
    )
    try:
        window = Window(NOW - timedelta(days=30), NOW)
        return providers.fetch("SIM1", AssetClass.STOCK, Timeframe.D1, window)
    finally:
        manager.close()


@pytest.mark.parametrize("state", ["refusing", "silent", "without an answer to TLS", "unknown"])
def test_a_vendor_that_can_not_be_reached_is_failed_over(state: str) -> None:
    with running(create_app(clock=lambda: NOW)) as url, vendor_that_is(state) as broken:
        fetched = fetch(broken, url)
    assert (fetched.source, fetched.fallback, len(fetched.bars) > 15) == ("yahoo", True, True)


@pytest.mark.parametrize("kind", ["server_error", "html", "reset", "truncated"])
def test_a_vendor_that_fails_is_failed_over(kind: str) -> None:
    app = create_app(clock=lambda: NOW, faults=[Fault("*", kind, vendor="polygon", status=503)])
    with running(app) as url:
        fetched = fetch(url, url)
    assert (fetched.source, fetched.fallback) == ("yahoo", True)


def test_an_answer_of_429_and_a_pause_are_waited_for() -> None:
    fault = Fault("*", "rate_limit", vendor="polygon", seconds=90)
    with running(create_app(clock=lambda: NOW, faults=[fault])) as url:
        with pytest.raises(Snooze) as caught:
            fetch(url, url)
        assert (caught.value.cause, caught.value.seconds) == (SnoozeCause.QUOTA, 90)
        with pytest.raises(Snooze) as caught:
            fetch(url, url, paused=lambda: {"polygon"})
        assert caught.value.cause is SnoozeCause.PAUSE


def test_a_wait_beyond_the_setting_is_failed_over() -> None:
    fault = Fault("*", "rate_limit", vendor="polygon", seconds=7 * 3600)
    with running(create_app(clock=lambda: NOW, faults=[fault])) as url:
        with pytest.raises(Snooze):  # for an hour at a time, however long the vendor asks for
            fetch(url, url)
        assert fetch(url, url, failover_after=timedelta(minutes=59)).source == "yahoo"


def test_a_night_waits_for_429s_and_stays_with_the_first_vendor(db: Database) -> None:
    with free_plan_nights(db, ["SIM1", "SIM2", "SIM3"], threads=5) as nights:
        nights.faults.add(
            [
                Fault("SIM1", "rate_limit", vendor="polygon", seconds=120, times=2),
                Fault("SIM3", "rate_limit", vendor="polygon", seconds=30, times=3),
            ]
        )
        outcomes = nights.run()
        assert nights.rows("SELECT DISTINCT source FROM enrichment_status") == [("polygon",)]
        assert outcomes["rate_limit"] == 5
        assert nights.rows("SELECT count(*) FROM enrichment_status WHERE status <> 'healthy'") == [
            (0,)
        ]


def test_a_key_that_others_have_used_up_is_waited_for(db: Database) -> None:
    """The vendor answers 429 for minutes, without a Retry-After."""
    with free_plan_nights(db, ["SIM1", "SIM2"], threads=5) as nights:
        path = "/v2/aggs/ticker/SIM9/range/1/day/2026-01-02/2026-02-02"
        for _ in range(6):
            headers = {"Authorization": "Bearer free"}
            requests.get(nights.url + path, headers=headers, timeout=10)
        outcomes = nights.run()
        assert nights.rows("SELECT DISTINCT source FROM enrichment_status") == [("polygon",)]
        assert outcomes["quota"] > 0
