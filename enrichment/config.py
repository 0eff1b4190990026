"""Settings: from the environment or a `.env` file, validated once, frozen, secrets masked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import platformdirs
from pydantic import (
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    create_model,
    field_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from enrichment.domain.errors import ConfigurationError
from enrichment.domain.model import AssetClass
from enrichment.vendors.registry import VENDORS, VendorRegistry, VendorSetting, VendorSpec

_DASK_SCHEDULER = re.compile(r"(tcp|tls)://([\w.\-]+|\[[0-9a-fA-F:]+\]):\d{1,5}")


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
ProviderOrder = Annotated[tuple[str, ...], NoDecode]
Addresses = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_addresses)]
Secret = Annotated[SecretStr | None, BeforeValidator(_blank_is_absent)]


def vendor_settings(vendors: Iterable[VendorSpec]) -> type[BaseSettings]:
    """A base class of settings with the vendors' own settings as its fields."""
    fields: dict[str, Any] = {
        setting.name: (_type_of(setting), Field(setting.default, description=setting.description))
        for spec in vendors
        for setting in spec.settings
    }
    return create_model("VendorSettings", __base__=BaseSettings, **fields)


def _type_of(setting: VendorSetting) -> Any:
    if setting.secret:
        return Secret
    return Annotated[int, Field(ge=1)] if isinstance(setting.default, int) else str


if TYPE_CHECKING:
    VendorSettings = BaseSettings
else:
    VendorSettings = vendor_settings(VENDORS)


class Settings(VendorSettings):
    """Every setting by the name of its environment variable, in lower case.

    Those of the vendors come from their registry.
    """

    vendors: ClassVar[VendorRegistry] = VENDORS
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

    @field_validator("providers_stock", "providers_etf", "providers_crypto", mode="before")
    @classmethod
    def _known_providers(cls, value: Any) -> Any:
        """An ordered list of vendors from text separated by commas."""
        parts = value.split(",") if isinstance(value, str) else value
        names = tuple(name.strip().lower() for name in parts if name.strip())
        if not names or any(name not in cls.vendors for name in names):
            raise ValueError(f"name at least one of {', '.join(cls.vendors.names)}, not {value!r}")
        return names

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Settings of this process; ConfigurationError names the variable and the mend."""
        try:
            return cls(**overrides)
        except ValidationError as exc:
            raise ConfigurationError(_explain(exc)) from None

    @property
    def uses_sandbox(self) -> bool:
        """Whether the sandbox stands in for every vendor: no vendor has all its credentials."""
        return not any(
            spec.credentials and all(getattr(self, setting.name) for setting in spec.credentials)
            for spec in self.vendors
        )

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
    def providers_in_use(self) -> tuple[VendorSpec, ...]:
        """The vendors of all asset classes, each once."""
        names = dict.fromkeys(name for kind in AssetClass for name in self.providers(kind))
        return tuple(self.vendors[name] for name in names)


def _explain(exc: ValidationError) -> str:
    problems = []
    for error in exc.errors():
        name = str(error["loc"][0]).upper()
        message = error["msg"].removeprefix("Value error, ").lower()
        problems.append(f"{name}={error['input']!r}: {message}")
    return "; ".join(problems) + " (set it in the environment or in .env)"
