"""The registry of vendors: complete, light to import, and strict about names."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta

import pytest

from api.enrichment import ScopeQuery
from enrichment.config import Settings
from enrichment.dashboard.charts.providers import COLOURS
from enrichment.domain.errors import UnknownVendor
from enrichment.domain.model import AssetClass, Timeframe
from enrichment.sandbox.app import WIRE_FORMATS
from enrichment.vendors.failover import Failover
from enrichment.vendors.http import HttpClient
from enrichment.vendors.registry import VENDORS, VendorRegistry, VendorSpec
from tests.helpers.fake_transport import direct


@pytest.mark.parametrize("spec", list(VENDORS), ids=lambda spec: spec.name)
def test_a_vendor_is_described_completely(spec: VendorSpec) -> None:
    with HttpClient("https://vendor.test", call=direct) as client:
        provider = spec.build(client, "where from")
    assert (provider.name, provider.source) == (spec.name, "where from")
    assert re.fullmatch(r"#[0-9a-f]{6}", spec.colour)
    assert {setting.name for setting in spec.settings} <= Settings.model_fields.keys()
    assert spec.test_symbol[0] in spec.coverage
    assert spec.sandbox_test_symbol[0] in spec.coverage


def test_the_sandbox_has_exactly_the_registered_vendors() -> None:
    assert {wire_format.name for wire_format in WIRE_FORMATS} == set(VENDORS.names)


def test_the_api_and_the_dashboard_know_every_vendor() -> None:
    provider = ScopeQuery.model_json_schema()["properties"]["provider"]["anyOf"][0]
    assert provider["enum"] == list(VENDORS.names)
    assert list(COLOURS) == list(VENDORS.names)


def test_an_unknown_vendor_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownVendor, match="'bloomberg': choose from polygon, binance, yahoo"):
        VENDORS["bloomberg"]
    with pytest.raises(UnknownVendor, match="'bloomberg'"):
        Failover({}, lambda _: ()).named("bloomberg")


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="yahoo"):
        VendorRegistry(*VENDORS, VENDORS["yahoo"])


def test_sources_are_traced_back_to_their_vendors() -> None:
    for spec in VENDORS:
        assert {VENDORS.name_of(spec.source(sandbox=flag)) for flag in (True, False)} == {spec.name}
    assert VENDORS.name_of("sandbox:bloomberg") == "sandbox:bloomberg"


@pytest.mark.parametrize(
    ("asset_class", "timeframe", "reach"),
    [
        (AssetClass.STOCK, Timeframe.H1, timedelta(days=60)),
        (AssetClass.CRYPTO, Timeframe.H1, timedelta(days=730)),
        (AssetClass.ETF, Timeframe.D1, None),
    ],
)
def test_yahoo_reaches_back(
    asset_class: AssetClass, timeframe: Timeframe, reach: timedelta | None
) -> None:
    assert VENDORS["yahoo"].reach(asset_class, timeframe) == reach


def test_settings_and_registry_load_nothing_heavy() -> None:
    program = (
        "import enrichment.config, sys; print({'numpy', 'requests', 'flask'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
