"""Settings: which vendors are asked, and what a wrong value is answered with."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from enrichment.cli.doctor import run_checks
from enrichment.config import Settings
from enrichment.domain.errors import ConfigurationError
from enrichment.domain.model import AssetClass


def load(**values: Any) -> Settings:
    return Settings.load(_env_file=None, **values)


def names(settings: Settings) -> list[str]:
    return [spec.name for spec in settings.providers_in_use]


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("values", "uses_sandbox"),
    [
        ({}, True),
        ({"polygon_api_key": ""}, True),
        ({"yahoo_rate": "5"}, True),
        ({"polygon_api_key": "key"}, False),
        ({"providers_stock": "yahoo"}, False),
        ({"enrichment_sandbox": "false"}, False),
        ({"enrichment_sandbox": ""}, True),
        ({"enrichment_sandbox": "true", "polygon_api_key": "key"}, True),
        ({"enrichment_sandbox": "true", "providers_stock": "polygon"}, True),
    ],
)
def test_the_sandbox_is_chosen_or_used_where_no_vendor_is_configured(
    values: dict[str, str], uses_sandbox: bool
) -> None:
    settings = load(**values)
    assert settings.uses_sandbox is uses_sandbox
    assert pickle.loads(pickle.dumps(settings)).uses_sandbox is uses_sandbox  # noqa: S301


def test_variables_of_the_environment_configure_a_vendor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVIDERS_CRYPTO", " Binance, yahoo,")
    settings = load()
    assert not settings.uses_sandbox
    assert settings.providers(AssetClass.CRYPTO) == ("binance", "yahoo")


def test_a_vendor_without_its_key_is_left_out() -> None:
    settings = load(providers_crypto="binance,polygon")
    assert settings.providers(AssetClass.CRYPTO) == ("binance",)
    assert settings.providers(AssetClass.STOCK) == ("yahoo",)
    assert names(load(enrichment_sandbox=True)) == ["polygon", "yahoo", "binance"]


def test_an_order_of_vendors_that_all_lack_their_keys_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="PROVIDERS_ETF=polygon: set POLYGON_API_KEY"):
        load(providers_etf="polygon")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"providers_stock": "bloomberg"}, "PROVIDERS_STOCK='bloomberg': name at least one of pol"),
        ({"providers_stock": ","}, "name at least one of polygon, binance, yahoo"),
        ({"polygon_rate": 0}, "POLYGON_RATE=0: input should be greater than or equal to 1"),
        ({"enrichment_executor": "ray"}, "tcp://127.0.0.1:8786"),
        ({"enrichment_dashboard_operators": "a@b.c, me"}, "e-mail addresses .* not 'me'"),
    ],
)
def test_a_wrong_value_is_refused_with_the_remedy(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(**values)


@pytest.mark.parametrize(
    ("variable", "setting"),
    [
        ("POLYGON_APIKEY", "POLYGON_API_KEY"),
        ("MAX_CONCURENT_SYMBOLS", "MAX_CONCURRENT_SYMBOLS"),
        ("HISTORY_DAY", "HISTORY_DAYS"),
        ("PROVIDERS_STOCKS", "PROVIDERS_STOCK"),
        ("ALERT_9_9_9_9_9_9", None),
    ],
)
@pytest.mark.parametrize("in_file", [False, True])
def test_a_misspelt_setting_is_named(
    variable: str,
    setting: str | None,
    in_file: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if in_file:
        (tmp_path / ".env").write_text(f"export {variable}=5\n")
    else:
        monkeypatch.setenv(variable, "5")
    assert Settings.misspelt().get(variable, "") == setting
    results = run_checks(lambda: load(providers_etf="polygon"))  # invalid: no other check is run
    assert [result.ok for result in results] == [False, False]
    assert variable in results[1].detail
    assert (setting or "docs/configuration.md") in results[1].detail


def test_settings_and_variables_of_other_programs_are_not_misspelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("polygon_api_key=secret\nPATH_TO=x\n")
    for name in ("DATABASE_USER", "MAX_HISTORY", "ENRICHMENT_SUPERVISED", "HISTORY_DAYS"):
        monkeypatch.setenv(name, "5")
    assert Settings.misspelt() == {}
