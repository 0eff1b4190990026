"""A vendor beside the shipped ones: one spec and its wire format in the sandbox are enough."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import orjson
import pytest
from flask import Blueprint, Response, request
from pydantic import SecretStr

from enrichment.cli import doctor
from enrichment.config import Settings, vendor_settings
from enrichment.domain.bars import Bars
from enrichment.domain.errors import ConfigurationError, UnknownVendor
from enrichment.domain.model import AssetClass, FetchedBars, Timeframe, Window
from enrichment.sandbox import create_app, running
from enrichment.sandbox.app import WIRE_FORMATS
from enrichment.sandbox.wire_format import WireFormat
from enrichment.vendors.http import HttpClient
from enrichment.vendors.registry import (
    VENDORS,
    VendorRegistry,
    VendorSetting,
    VendorSpec,
)
from enrichment.wiring.vendors import build_providers
from resilience import init_resilience_manager

WEEK = Window(datetime(2024, 5, 27, tzinfo=UTC), datetime(2024, 6, 3, tzinfo=UTC))


class KrakenProvider:
    """Days as a list of stamps, each a bar of price 1."""

    name = "kraken"

    def __init__(self, client: HttpClient, source: str) -> None:
        self._client, self.source = client, source

    def fetch(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, window: Window
    ) -> FetchedBars:
        days = self._client.get_json("/kraken/days", {"symbol": symbol}).body
        ones = np.ones(len(days))
        bars = Bars.of(np.array(days, "datetime64[us]"), ones, ones, ones, ones, ones)
        return FetchedBars(bars, self.source, adjusted=False)


class KrakenFormat(WireFormat):
    name: ClassVar[str] = "kraken"
    keys: ClassVar[list[str]] = []

    def blueprint(self) -> Blueprint:
        routes = Blueprint("kraken", __name__)
        routes.add_url_rule("/kraken/days", view_func=self.days)
        return routes

    def days(self) -> Response:
        self.keys.append(request.headers["X-Api-Key"])
        return self._serve(request.args["symbol"], self._page, lambda: b"[]")

    def _page(self, damages: object) -> bytes:
        return orjson.dumps(["2024-05-30", "2024-05-31"])

    def _error_body(self, outcome: str) -> bytes:
        return b"{}"


KRAKEN = VendorSpec(
    name="kraken",
    colour="#123456",
    credentials=(VendorSetting("kraken_api_key", None, "API key of Kraken", secret=True),),
    base_url=VendorSetting("kraken_base_url", "https://kraken.test", "address of Kraken's API"),
    rate=VendorSetting("kraken_rate", 15, "requests a minute sent to Kraken at most"),
    headers={"X-Api-Key": "{kraken_api_key}"},
    coverage={AssetClass.CRYPTO: {Timeframe.D1: 720}},
    build=KrakenProvider,
    test_symbol=(AssetClass.CRYPTO, "X:BTCUSD"),
    sandbox_test_symbol=(AssetClass.CRYPTO, "X:SIM1USD"),
    sandbox_source="sandbox:kraken",
)


class SettingsWithKraken(Settings, vendor_settings([KRAKEN])):  # type: ignore[misc]  # made here
    vendors: ClassVar[VendorRegistry] = VendorRegistry(*VENDORS, KRAKEN)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with running(create_app(wire_formats=(*WIRE_FORMATS, KrakenFormat))) as url:
        yield url


def load(**values: Any) -> SettingsWithKraken:
    return SettingsWithKraken.load(_env_file=None, providers_crypto="kraken,binance", **values)


def real(address: str) -> SettingsWithKraken:
    return load(kraken_api_key="my-key", kraken_base_url=address, kraken_rate="7")


def simulated(address: str) -> SettingsWithKraken:
    return load(enrichment_sandbox=True, enrichment_sandbox_port=urlsplit(address).port)


def fetch(settings: Settings) -> FetchedBars:
    manager = init_resilience_manager()
    try:
        kraken = build_providers(settings, manager).named("kraken")
        return kraken.fetch("X:BTCUSD", AssetClass.CRYPTO, Timeframe.D1, WEEK)
    finally:
        manager.close()


def test_its_settings_are_settings_like_any_others(address: str) -> None:
    settings = real(address)
    assert settings.kraken_rate == 7
    assert "my-key" not in repr(settings)
    assert settings.providers(AssetClass.CRYPTO) == ("kraken", "binance")
    assert load(enrichment_sandbox=False).providers(AssetClass.CRYPTO) == ("binance",)
    with pytest.raises(ConfigurationError, match="KRAKEN_RATE='many': "):
        load(kraken_rate="many")


def test_it_is_built_and_asked_with_its_key(address: str) -> None:
    fetched = fetch(real(address))
    assert (fetched.source, len(fetched.bars)) == ("kraken", 2)
    assert KrakenFormat.keys[-1] == "my-key"


def test_the_sandbox_replaces_it_without_its_key(address: str) -> None:
    fetched = fetch(simulated(address))
    assert (fetched.source, len(fetched.bars)) == ("sandbox:kraken", 2)
    assert KrakenFormat.keys[-1] == "sandbox"


def test_doctor_checks_it(address: str, db_url: str) -> None:
    settings = simulated(address).model_copy(update={"database_url": SecretStr(db_url)})
    results = {result.check: result for result in doctor.run_checks(lambda: settings)}
    assert results["kraken"].ok
    assert "X:SIM1USD" in results["kraken"].detail
    assert "kraken" in results["configuration"].detail


def test_a_name_without_a_spec_is_refused_everywhere() -> None:
    known = ", ".join(VENDORS.names)
    with pytest.raises(ConfigurationError, match=f"{known}, kraken"):
        SettingsWithKraken.load(_env_file=None, providers_crypto="bloomberg")
    with pytest.raises(ConfigurationError, match=f"{known}, not"):
        Settings.load(_env_file=None, providers_crypto="kraken")
    manager = init_resilience_manager()
    with pytest.raises(UnknownVendor, match="bloomberg"):
        build_providers(load(enrichment_sandbox=True), manager).named("bloomberg")
    manager.close()
