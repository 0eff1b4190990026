"""Settings: from the environment or a `.env` file, validated once, frozen, secrets masked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import platformdirs
from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from enrichment.domain.errors import ConfigurationError
from enrichment.domain.model import PROVIDER_NAMES, AssetClass

SANDBOX_KEY = "sandbox"
_DASK_SCHEDULER = re.compile(r"(tcp|tls)://([\w.\-]+|\[[0-9a-fA-F:]+\]):\d{1,5}")


def _providers(value: Any) -> Any:
    """An ordered list from text separated by commas."""
    names = (
        [n.strip().lower() for n in value.split(",") if n.strip()]
        if isinstance(value, str)
        else value
    )
    unknown = [name for name in names if name not in PROVIDER_NAMES]
    if unknown or not names:
        raise ValueError(f"name at least one of {', '.join(PROVIDER_NAMES)}, not {value!r}")
    return tuple(names)


def _executor(value: Any) -> Any:
    if value != "threads" and not _DASK_SCHEDULER.fullmatch(str(value)):
        raise ValueError(
            "choose 'threads' or the address of a Dask scheduler, such as tcp://127.0.0.1:8786, "
            f"not {value!r}"
        )
    return value


def _addresses(value: Any) -> Any:
    """E-mail addresses in lower case from text separated by commas."""
    given = value.split(",") if isinstance(value, str) else value
    found = tuple(address.strip().lower() for address in given if address.strip())
    wrong = [address for address in found if not re.fullmatch(r"[^@\s]+@[^@\s]+", address)]
    if wrong:
        raise ValueError(f"write e-mail addresses separated by commas, not {wrong[0]!r}")
    return found


def _blank_is_absent(value: Any) -> Any:
    return None if value == "" else value


Port = Annotated[int, Field(ge=0, le=65535)]
ProviderOrder = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_providers)]
Addresses = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_addresses)]
Secret = Annotated[SecretStr | None, BeforeValidator(_blank_is_absent)]


class Settings(BaseSettings):
    """Every setting by the name of its environment variable, in lower case."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    database_url: Annotated[SecretStr | None, BeforeValidator(_blank_is_absent)] = Field(
        None, description="PostgreSQL ≥ 14 to use; absent: the embedded server"
    )
    enrichment_home: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("market-enrichment")),
        description="data folder of the embedded server and of the logs",
    )
    enrichment_hour: int = Field(1, ge=0, le=23, description="hour of the nightly run, UTC")
    enrichment_minute: int = Field(30, ge=0, le=59, description="minute of the nightly run")
    max_concurrent_symbols: int = Field(5, ge=1, le=500, description="symbols at work at once")
    parallel_timeframes: int = Field(
        1, ge=1, le=7, description="timeframes of a symbol at work at once"
    )
    one_processor: bool = Field(True, description="whether a worker keeps to one processor")
    max_retries: int = Field(3, ge=0, le=20, description="retries of a symbol, after 2, 4, 8 … s")
    enable_daily_enrichment: bool = Field(True, description="whether the nightly run takes place")
    history_days: int = Field(
        365, ge=1, le=36_500, description="reach of a series' first run, in days"
    )
    polygon_api_key: Secret = Field(
        None, description="key of Polygon; absent: the sandbox vendor takes every vendor's place"
    )
    polygon_base_url: str = Field(
        "https://api.polygon.io", description="address of Polygon's API, where a key is set"
    )
    polygon_rate: int = Field(5, ge=1, description="Polygon's quota, requests a minute, strict")
    binance_base_url: str = Field("https://api.binance.com", description="address of Binance's API")
    binance_rate: int = Field(1200, ge=1, description="requests a minute to Binance, strict")
    yahoo_base_url: str = Field(
        "https://query1.finance.yahoo.com", description="address of Yahoo's charts"
    )
    yahoo_rate: int = Field(60, ge=1, description="requests a minute to Yahoo, strict")
    providers_stock: ProviderOrder = Field(
        ("polygon", "yahoo"), description="providers of stocks, in order"
    )
    providers_etf: ProviderOrder = Field(
        ("polygon", "yahoo"), description="providers of ETFs, in order"
    )
    providers_crypto: ProviderOrder = Field(
        ("binance", "polygon", "yahoo"), description="providers of crypto, in order"
    )
    enrichment_api_host: str = Field("127.0.0.1", description="address the API listens on")
    enrichment_api_port: Port = Field(8000, description="port of the API")
    enrichment_api_token: Secret = Field(
        None, description="bearer token for whatever changes state; required beyond loopback"
    )
    enrichment_api_rate: int = Field(
        3000, ge=0, description="requests a minute that the API answers to one client; 0: any"
    )
    enrichment_dashboard_host: str = Field(
        "127.0.0.1", description="address the dashboard listens on"
    )
    enrichment_dashboard_port: Port = Field(8501, description="port of the dashboard")
    enrichment_dashboard_password: Secret = Field(
        None, description="password of operators; required beyond loopback"
    )
    enrichment_dashboard_viewer_password: Secret = Field(
        None, description="password of those who may only look"
    )
    enrichment_dashboard_operators: Addresses = Field(
        (), description="addresses of those who may act, where people sign in by OpenID Connect"
    )
    enrichment_sandbox_port: Port = Field(8900, description="port of the sandbox vendor")
    enrichment_executor: Annotated[str, BeforeValidator(_executor)] = Field(
        "threads", description="where symbols are enriched: 'threads' or a Dask scheduler's address"
    )

    alert_rules_file: Annotated[Path | None, BeforeValidator(_blank_is_absent)] = Field(
        None, description="own alert rules, TOML; absent: alerts.toml in ENRICHMENT_HOME, if any"
    )
    alert_webhook_url: Secret = Field(None, description="address that alerts are posted to")
    alert_webhook_format: Literal["auto", "generic", "slack"] = Field(
        "auto", description="what is posted; auto: Slack's form where the host is Slack's"
    )
    pagerduty_routing_key: Secret = Field(
        None, description="integration key of PagerDuty's Events API v2"
    )
    pagerduty_base_url: str = Field(
        "https://events.pagerduty.com", description="address of PagerDuty's Events API"
    )

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Settings of this process; ConfigurationError names the variable and the mend."""
        try:
            return cls(**overrides)
        except ValidationError as exc:
            raise ConfigurationError(_explain(exc)) from None

    @property
    def uses_sandbox(self) -> bool:
        """Whether bars come from the sandbox vendor, for want of a key."""
        return self.polygon_api_key is None

    @property
    def dask_scheduler(self) -> str | None:
        """The address of the Dask scheduler; None where symbols are enriched on threads."""
        return None if self.enrichment_executor == "threads" else self.enrichment_executor

    @property
    def sandbox_url(self) -> str:
        return f"http://127.0.0.1:{self.enrichment_sandbox_port}"

    def providers(self, asset_class: AssetClass) -> tuple[str, ...]:
        """The order of providers for an asset class."""
        return {
            AssetClass.STOCK: self.providers_stock,
            AssetClass.ETF: self.providers_etf,
            AssetClass.CRYPTO: self.providers_crypto,
        }[asset_class]

    @property
    def providers_in_use(self) -> tuple[str, ...]:
        """The providers of all asset classes, each once."""
        return tuple(dict.fromkeys(name for kind in AssetClass for name in self.providers(kind)))


def _explain(exc: ValidationError) -> str:
    problems = []
    for error in exc.errors():
        name = str(error["loc"][0]).upper()
        message = error["msg"].removeprefix("Value error, ").lower()
        problems.append(f"{name}={error['input']!r}: {message}")
    return "; ".join(problems) + " (set it in the environment or in .env)"
