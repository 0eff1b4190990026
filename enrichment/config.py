"""Settings: from the environment or a `.env` file, validated once, frozen, secrets masked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, time, timedelta
from difflib import get_close_matches
from functools import cached_property
from ipaddress import ip_network
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
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    SettingsConfigDict,
)

from enrichment.domain.durations import parse_duration
from enrichment.domain.errors import ConfigurationError
from enrichment.domain.model import AssetClass, StockSession
from enrichment.domain.redact import redactor
from enrichment.domain.schedule_toml import parse_schedules
from enrichment.domain.schedules import Schedule, nightly
from enrichment.vendors.registry import VENDORS, VendorRegistry, VendorSetting, VendorSpec

_PREFIXES = ("enrichment_", "providers_", "alert_", "pagerduty_")
_NOT_SETTINGS = ("enrichment_supervised",)  # set by `enrichment up` for its children
_MISSPELT = 0.9  # similarity to a setting at which a name without a prefix counts as misspelt
_DASK_SCHEDULER = re.compile(r"(tcp|tls)://([\w.\-]+|\[[0-9a-fA-F:]+\]):\d{1,5}")


def _valid_executor(value: Any) -> Any:
    if value != "threads" and not _DASK_SCHEDULER.fullmatch(str(value)):
        raise ValueError(
            "choose 'threads' or the address of a Dask scheduler, such as tcp://127.0.0.1:8786, "
            f"not {value!r}"
        )
    return value


def _split_list(value: Any) -> tuple[str, ...]:
    """The non-empty parts of a comma-separated text, in lower case."""
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(part.strip().lower() for part in parts if part.strip())


def _valid_emails(value: Any) -> tuple[str, ...]:
    emails = _split_list(value)
    for email in emails:
        if not re.fullmatch(r"[^@\s]+@[^@\s]+", email):
            raise ValueError(f"write e-mail addresses separated by commas, not {email!r}")
    return emails


def _valid_origins(value: Any) -> tuple[str, ...]:
    origins = tuple(origin.rstrip("/").lower() for origin in _split_list(value))
    for origin in origins:
        if not re.fullmatch(r"https?://[^\s/?#*@]+", origin):
            raise ValueError(f"write origins such as https://app.example.com, not {origin!r}")
    return origins


def _valid_networks(value: Any) -> tuple[str, ...]:
    networks = _split_list(value)
    for network in networks:
        try:
            ip_network(network)
        except ValueError:
            raise ValueError(
                f"write addresses or networks such as 127.0.0.1,10.0.0.0/8, not {network!r}"
            ) from None
    return networks


def _duration(value: Any) -> Any:
    return parse_duration(value, zero=True) if isinstance(value, str) else value


def _time_of_day(value: Any) -> Any:
    if not isinstance(value, str) or value == "":
        return value or None
    try:
        return datetime.strptime(value, "%H:%M").time()  # noqa: DTZ007 — a time of day has no zone
    except ValueError:
        raise ValueError("write a time of day in UTC such as 04:00, or nothing for none") from None


def _home(value: Any) -> Any:
    """The folder; an empty one is the default."""
    return value or Path(platformdirs.user_data_dir("market-enrichment"))


def _none_if_empty(value: Any) -> Any:
    return None if value == "" else value


Port = Annotated[int, Field(ge=0, le=65535)]
ProviderOrder = Annotated[tuple[str, ...], NoDecode]
Duration = Annotated[timedelta, BeforeValidator(_duration)]
HostNames = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_list)]
Networks = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_valid_networks)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_valid_origins)]
Emails = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_valid_emails)]
NoneIfEmpty = BeforeValidator(_none_if_empty)
Secret = Annotated[SecretStr | None, NoneIfEmpty]


def vendor_settings(vendors: Iterable[VendorSpec]) -> type[BaseSettings]:
    """A base class for settings, with the vendors' settings as its fields."""
    fields: dict[str, Any] = {
        setting.name: (_type_of(setting), Field(setting.default, description=setting.description))
        for spec in vendors
        for setting in spec.settings
    }
    return create_model("VendorSettings", __base__=BaseSettings, **fields)


def _type_of(setting: VendorSetting) -> Any:
    if setting.secret:
        return Secret
    if setting.choices:
        return Literal[setting.choices]
    return Annotated[int, Field(ge=1)] if isinstance(setting.default, int) else str


if TYPE_CHECKING:
    VendorSettings = BaseSettings
else:
    VendorSettings = vendor_settings(VENDORS)


class Settings(VendorSettings):
    """All settings. A field's name is its environment variable in lower case.

    The vendors' settings are inherited: their registry declares them.

    >>> Settings(polygon_api_key="secret").polygon_api_key
    SecretStr('**********')
    """

    vendors: ClassVar[VendorRegistry] = VENDORS
    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    database_url: Secret = Field(
        None, description="URL of a PostgreSQL server ≥ 14; not set: an embedded server"
    )
    direct_database_url: Secret = Field(
        None,
        description="URL of the server itself where DATABASE_URL is that of a pooler: for "
        "notifications of new jobs, upgrades and dumps",
    )
    enrichment_home: Annotated[Path, BeforeValidator(_home)] = Field(
        default_factory=lambda: _home(""),
        description="folder of the embedded server's data and of the logs",
    )
    enrichment_hour: int = Field(
        1, ge=0, le=23, description="hour at which the nightly run starts, UTC"
    )
    enrichment_minute: int = Field(30, ge=0, le=59, description="minute at which it starts")
    max_concurrent_symbols: int = Field(
        5, ge=1, le=500, description="symbols that a worker processes at the same time"
    )
    parallel_timeframes: int = Field(
        1, ge=1, le=7, description="timeframes of one symbol processed at the same time"
    )
    one_processor: bool = Field(True, description="whether a worker runs on a single CPU core")
    max_retries: int = Field(
        3, ge=0, le=20, description="retries of a failed symbol, after 2, 4, 8 … s"
    )
    enrichment_deadline: Annotated[time | None, BeforeValidator(_time_of_day)] = Field(
        "04:00",
        validate_default=True,
        description="time of day, UTC, by which runs should be done; empty for no deadline",
    )
    schedules: Annotated[str | None, NoneIfEmpty] = Field(
        None,
        description="schedules in TOML, or the path of a file with them; not set: schedules.toml "
        "in ENRICHMENT_HOME, if any, else every symbol at ENRICHMENT_HOUR:ENRICHMENT_MINUTE",
    )
    enable_daily_enrichment: bool = Field(True, description="whether runs are scheduled")
    history_days: int = Field(
        365, ge=1, le=36_500, description="days of history that a new series starts with"
    )
    enrichment_sandbox: Annotated[bool | None, NoneIfEmpty] = Field(
        None,
        description="whether the sandbox replaces every vendor; "
        "not set: only while no vendor has a key and no PROVIDERS_… is set",
    )
    providers_stock: ProviderOrder = Field(
        ("polygon", "yahoo"), description="vendors of stocks, in order of failover"
    )
    providers_etf: ProviderOrder = Field(
        ("polygon", "yahoo"), description="vendors of ETFs, in order of failover"
    )
    providers_crypto: ProviderOrder = Field(
        ("binance", "polygon", "yahoo"), description="vendors of crypto, in order of failover"
    )
    stock_session: StockSession = Field(
        StockSession.REGULAR,
        description="hours of intraday bars of US stocks and ETFs: 'regular', or 'extended', from "
        "04:00 to four hours after the close",
    )
    failover_after: Duration = Field(
        "6h",
        validate_default=True,
        description="wait for a vendor's quota or pause after which the next vendor is asked",
    )
    enrichment_api_host: str = Field("127.0.0.1", description="address the API listens on")
    enrichment_api_port: Port = Field(8000, description="port of the API")
    enrichment_api_token: Secret = Field(
        None,
        description="bearer token of requests that change state; "
        "required if the API listens beyond this machine",
    )
    enrichment_api_rate: int = Field(
        3000, ge=0, description="requests a minute allowed to one client; 0: unlimited"
    )
    enrichment_api_origins: Origins = Field(
        (),
        description="origins of web pages that may use the API, such as https://app.example.com",
    )
    trusted_proxies: Networks = Field(
        (),
        description="addresses or networks of reverse proxies whose X-Forwarded-… headers the API "
        "believes",
    )
    enrichment_dashboard_host: str = Field(
        "127.0.0.1", description="address the dashboard listens on"
    )
    enrichment_dashboard_port: Port = Field(8501, description="port of the dashboard")
    enrichment_dashboard_password: Secret = Field(
        None,
        description="password of operators; required if the dashboard listens beyond this machine",
    )
    enrichment_dashboard_viewer_password: Secret = Field(
        None, description="password of read-only users"
    )
    enrichment_dashboard_allowed_hosts: HostNames = Field(
        (),
        description="host names by which the dashboard may be opened, besides loopback's; "
        "not set: only loopback's without a password, any with one",
    )
    enrichment_dashboard_operators: Emails = Field(
        (), description="e-mail addresses of operators who sign in by OpenID Connect"
    )
    enrichment_sandbox_port: Port = Field(8900, description="port of the sandbox")
    log_format: Literal["text", "json"] = Field(
        "text", description="format of the processes' log lines"
    )
    enrichment_executor: Annotated[str, BeforeValidator(_valid_executor)] = Field(
        "threads", description="'threads', or the address of the Dask scheduler that runs symbols"
    )

    alert_rules_file: Annotated[Path | None, NoneIfEmpty] = Field(
        None,
        description="TOML file of alert rules; not set: alerts.toml in ENRICHMENT_HOME, if any",
    )
    alert_webhook_url: Secret = Field(None, description="URL that alerts are posted to")
    alert_webhook_format: Literal["auto", "generic", "slack"] = Field(
        "auto", description="format of the posted alerts; auto: Slack's if the URL is Slack's"
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
        names = _split_list(value)
        if not names or any(name not in cls.vendors for name in names):
            raise ValueError(f"name at least one of {', '.join(cls.vendors.names)}, not {value!r}")
        return names

    @model_validator(mode="after")
    def _usable_providers(self) -> Self:
        for asset_class in AssetClass:
            if not self.providers(asset_class):
                names = self._provider_order(asset_class)
                keys = [key for name in names for key in self.missing_credentials(name)]
                raise ValueError(
                    f"PROVIDERS_{asset_class.upper()}={','.join(names)}: set {', '.join(keys)}, "
                    "add a vendor that needs no key, or set ENRICHMENT_SANDBOX=true"
                )
        return self

    @model_validator(mode="after")
    def _one_way_to_schedule(self) -> Self:
        given = {"enrichment_hour", "enrichment_minute"} & self.model_fields_set
        if self.has_schedules and given:
            raise ValueError(
                f"{', '.join(sorted(given)).upper()}: the schedules have times of their own: "
                "remove this, or SCHEDULES and schedules.toml in ENRICHMENT_HOME"
            )
        return self

    @cached_property
    def run_schedules(self) -> tuple[Schedule, ...]:
        """When which symbols are enriched by themselves."""
        source = self._schedules_source
        if source is None:
            return (nightly(self.enrichment_hour, self.enrichment_minute),)
        return parse_schedules(source)

    @property
    def has_schedules(self) -> bool:
        """Whether there are others than the one of ENRICHMENT_HOUR; ConfigurationError if they
        are not valid."""
        return self._schedules_source is not None and bool(self.run_schedules)

    @property
    def _schedules_source(self) -> str | None:
        default = self.enrichment_home / "schedules.toml"
        return str(default) if self.schedules is None and default.exists() else self.schedules

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Settings of this process; ConfigurationError names the variable and the remedy."""
        try:
            settings = cls(**overrides)
        except ValidationError as exc:
            raise ConfigurationError(_explain(exc)) from None
        settings.mask_secrets()
        return settings

    def mask_secrets(self) -> None:
        """Mask the values of secret settings in every message of this process from now on."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if not isinstance(value, SecretStr):
                continue
            if name in ("database_url", "direct_database_url", "alert_webhook_url"):
                redactor.add_url(value.get_secret_value(), secret_path=name == "alert_webhook_url")
            else:
                redactor.add(value.get_secret_value())

    @classmethod
    def misspelt(cls) -> dict[str, str | None]:
        """Variables of the environment and of `.env` that look like settings but are none.

        Returns:
            Their names and the settings that were probably meant; None if none is similar.
        """
        prefixes = (*_PREFIXES, *(f"{name}_" for name in cls.vendors.names))
        sources = (EnvSettingsSource(cls).env_vars, DotEnvSettingsSource(cls).env_vars)
        unknown = {name for source in sources for name in source} - {
            *cls.model_fields,
            *_NOT_SETTINGS,
        }
        found: dict[str, str | None] = {}
        for name in sorted(unknown):
            ours = name.startswith(prefixes)
            close = get_close_matches(name, cls.model_fields, 1, 0.6 if ours else _MISSPELT)
            if ours or close:
                found[name.upper()] = close[0].upper() if close else None
        return found

    @property
    def uses_sandbox(self) -> bool:
        """Whether the sandbox replaces every vendor."""
        if self.enrichment_sandbox is not None:
            return self.enrichment_sandbox
        orders = {f"providers_{asset_class}" for asset_class in AssetClass}
        keys = (spec for spec in self.vendors if spec.credentials)
        return not orders & self.model_fields_set and all(
            self.missing_credentials(spec.name) for spec in keys
        )

    def missing_credentials(self, vendor: str) -> tuple[str, ...]:
        """Environment variables that are to be set before the vendor can be asked."""
        credentials = self.vendors[vendor].credentials
        return tuple(c.name.upper() for c in credentials if getattr(self, c.name) is None)

    @property
    def dask_scheduler(self) -> str | None:
        """The address of the Dask scheduler; None if symbols are processed by threads."""
        return None if self.enrichment_executor == "threads" else self.enrichment_executor

    @property
    def sandbox_url(self) -> str:
        return f"http://127.0.0.1:{self.enrichment_sandbox_port}"

    def providers(self, asset_class: AssetClass) -> tuple[str, ...]:
        """An asset class' vendors in order of failover, without those that lack credentials."""
        names = self._provider_order(asset_class)
        sandbox = self.uses_sandbox
        return tuple(name for name in names if sandbox or not self.missing_credentials(name))

    @property
    def provider_orders(self) -> dict[str, tuple[str, ...]]:
        """`providers` of every asset class."""
        return {kind: self.providers(kind) for kind in AssetClass}

    def _provider_order(self, asset_class: AssetClass) -> tuple[str, ...]:
        return {
            AssetClass.STOCK: self.providers_stock,
            AssetClass.ETF: self.providers_etf,
            AssetClass.CRYPTO: self.providers_crypto,
        }[asset_class]

    @property
    def quotas(self) -> dict[str, int]:
        """Vendor in use → requests a minute; the sandbox has no quotas."""
        specs = () if self.uses_sandbox else self.providers_in_use
        return {spec.name: getattr(self, spec.rate.name) for spec in specs}

    @property
    def providers_in_use(self) -> tuple[VendorSpec, ...]:
        """The vendors of all asset classes, without duplicates."""
        names = dict.fromkeys(name for kind in AssetClass for name in self.providers(kind))
        return tuple(self.vendors[name] for name in names)


def _explain(exc: ValidationError) -> str:
    problems = []
    for error in exc.errors():
        message = error["msg"].removeprefix("Value error, ")
        if error["loc"]:  # of one setting, whose name and value the message does not hold
            name = str(error["loc"][0]).upper()
            message = f"{name}={error['input']!r}: {message[:1].lower()}{message[1:]}"
        problems.append(message)
    return "; ".join(problems) + " (set it in the environment or in .env)"
