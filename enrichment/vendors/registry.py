"""The vendors that bars can come from: the only list of them.

Settings, wiring, doctor, API and dashboard iterate over `VENDORS`. To add a vendor, write its
provider in a file of this package, add its `VendorSpec` here, and give the sandbox its wire format.
Importing this module loads no HTTP client: `build` imports the provider when it is called.

>>> "yahoo" in VENDORS, "bloomberg" in VENDORS
(True, False)
>>> VENDORS["yahoo"].reach(AssetClass.STOCK, Timeframe.M5)
datetime.timedelta(days=60)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from math import ceil
from typing import TYPE_CHECKING

from enrichment.domain.errors import UnknownSymbol, UnknownVendor
from enrichment.domain.model import AssetClass, Timeframe, Window
from enrichment.vendors.spelling import substituted_quote, vendor_spelling

if TYPE_CHECKING:
    from enrichment.vendors.base import ActionSource, Provider
    from enrichment.vendors.http import HttpClient
    from enrichment.vendors.market_days import MarketDaySource


SHORTEST_PLAN = timedelta(days=2 * 365 - 14)  # of history: every plan of Polygon has this much
_MINUTE = timedelta(minutes=1)
_WORKDAYS = 252 / 365.25  # without holidays
_EXTENDED_HOURS = _WORKDAYS * 16 / 24


@dataclass(frozen=True, slots=True)
class VendorSetting:
    """One setting of a vendor."""

    name: str
    """Its environment variable, in lower case."""
    default: str | int | None
    """None: not set. The default's type is the setting's type."""
    description: str
    secret: bool = False
    """Whether its value is masked wherever settings are shown."""
    choices: tuple[str, ...] = ()
    """Its possible values; empty for any."""
    address: bool = False
    """Whether it is an address that the sandbox takes the place of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorSpec:
    """Everything the program knows of a vendor beside its wire format."""

    name: str
    """Unique; what the PROVIDERS_… settings call it."""
    colour: str
    """Of its lines and bars in charts, as #rrggbb."""
    base_url: VendorSetting
    rate: VendorSetting
    """Requests a minute; the vendor's quota."""
    end_of_day_rate: int | None = None
    """Requests a minute of its plan that has a day only after midnight in New York, if any."""
    burst: int | None = None
    """How many of them it takes at once; None: all."""
    blocks: bool = False
    """Whether it turns clients away by their looks: its 429 is a block for hours, which is failed
    over, and no used-up quota; and it is asked as by a browser, if the extra is installed."""
    credentials: tuple[VendorSetting, ...] = ()
    """Empty for a vendor that serves everyone."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent with every request; `{setting}` stands for the value of that credential."""
    coverage: Mapping[AssetClass, Mapping[Timeframe, int | None]]
    """What it serves: asset class → timeframe → days it reaches back, None for unlimited."""
    page_rows: int | None = None
    """Rows of one answer; None: everything that is asked for."""
    pages_of_minutes: bool = False
    """Whether an answer's rows are counted as minutes, whatever the length of an intraday bar."""
    build: Callable[..., Provider]
    """(client, source recorded with its bars, values of `options` in order) → its provider."""
    extended_hours: bool = False
    """Whether its intraday bars of stocks include those before the open and after the close."""
    build_actions: Callable[[HttpClient, str], ActionSource] | None = None
    """(client, source) → what lists corporate actions of many symbols; None for none."""
    build_market_days: Callable[[HttpClient, str], MarketDaySource] | None = None
    """(client, source) → what sends whole days of the US stock market; None for none."""
    options: tuple[VendorSetting, ...] = ()
    """Further settings of the vendor."""
    test_symbol: tuple[AssetClass, str]
    """A symbol that the vendor certainly knows."""
    sandbox_test_symbol: tuple[AssetClass, str]
    """The same for the sandbox in this vendor's place."""
    sandbox_source: str
    """The source recorded with bars that the sandbox serves in this vendor's place."""

    @property
    def settings(self) -> tuple[VendorSetting, ...]:
        return (*self.credentials, self.base_url, self.rate, *self.options)

    def source(self, *, sandbox: bool) -> str:
        """The source recorded with its bars."""
        return self.sandbox_source if sandbox else self.name

    def refusal(
        self, symbol: str, asset_class: AssetClass, timeframe: Timeframe, *, extended: bool = False
    ) -> str | None:
        """Why the vendor can't serve a series, one of extended hours or not; None if it may."""
        if asset_class not in self.coverage:
            return f"{self.name} does not serve {asset_class}"
        if timeframe not in self.coverage[asset_class]:
            return f"{self.name} has no bars of {timeframe} for {asset_class}"
        if extended and not self.extended_hours:
            return f"{self.name} has no bars of extended hours"
        try:
            vendor_spelling(self.name, symbol)
        except UnknownSymbol as exc:
            return str(exc)
        return None

    def reach(self, asset_class: AssetClass, timeframe: Timeframe) -> timedelta | None:
        """How far back its bars go, None for unlimited; KeyError if it does not serve them."""
        days = self.coverage[asset_class][timeframe]
        return None if days is None else timedelta(days=days)

    def requests(self, asset_class: AssetClass, timeframe: Timeframe, window: Window) -> int:
        """About how many requests it takes to fetch a window.

        >>> from datetime import UTC, datetime
        >>> year = Window(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
        >>> [spec.requests(AssetClass.CRYPTO, Timeframe.H1, year) for spec in VENDORS][:3]
        [11, 9, 1]
        """
        if self.page_rows is None:
            return 1
        minutes = self.pages_of_minutes and timeframe.intraday
        rows = (window.end - window.start) / (_MINUTE if minutes else timeframe.duration)
        if asset_class is not AssetClass.CRYPTO:
            rows *= _EXTENDED_HOURS if timeframe.intraday else _WORKDAYS
        return max(1, ceil(rows / self.page_rows))


class VendorRegistry:
    """Vendors by name, in a fixed order."""

    def __init__(self, *specs: VendorSpec) -> None:
        self._specs = {spec.name: spec for spec in specs}
        if len(self._specs) < len(specs):
            raise ValueError(f"two vendors have one name: {[spec.name for spec in specs]}")

    def __iter__(self) -> Iterator[VendorSpec]:
        return iter(self._specs.values())

    def __contains__(self, name: object) -> bool:
        return name in self._specs

    def __getitem__(self, name: str) -> VendorSpec:
        """The vendor of this name; UnknownVendor, with the names there are, if there is none."""
        if name not in self._specs:
            raise UnknownVendor(f"unknown provider {name!r}: choose from {', '.join(self.names)}")
        return self._specs[name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._specs)

    def name_of(self, source: str) -> str:
        """The vendor that a stored source stands for; a source of no known vendor as it is.

        >>> VENDORS.name_of("sandbox:binance"), VENDORS.name_of("import")
        ('binance', 'import')
        """
        names = {spec.sandbox_source: spec.name for spec in self}
        return names.get(source, source)

    def source_text(self, symbol: str, source: str) -> str:
        """A source as it is shown: with the currency that it serves in place of the symbol's.

        >>> VENDORS.source_text("X:BTCUSD", "binance"), VENDORS.source_text("AAPL", "polygon")
        ('binance (USDT for USD)', 'polygon')
        """
        quotes = substituted_quote(self.name_of(source), symbol)
        return f"{source} ({quotes[1]} for {quotes[0]})" if quotes else source


_UNLIMITED: Mapping[Timeframe, int | None] = dict.fromkeys(Timeframe)
_YAHOO_CRYPTO: Mapping[Timeframe, int | None] = {
    **_UNLIMITED,
    **dict.fromkeys((Timeframe.M5, Timeframe.M15, Timeframe.M30), 60),
    **dict.fromkeys((Timeframe.H1, Timeframe.H4), 730),
}
# Yahoo's hours of stocks begin at half past: those on the clock are built from its half-hours.
_YAHOO_STOCKS = {**_YAHOO_CRYPTO, **dict.fromkeys((Timeframe.H1, Timeframe.H4), 60)}
_STOCK = (AssetClass.STOCK, "AAPL")


def _polygon(client: HttpClient, source: str) -> Provider:
    from enrichment.vendors.polygon import PolygonProvider

    return PolygonProvider(client, source=source)


def _polygon_actions(client: HttpClient, source: str) -> ActionSource:
    from enrichment.vendors.polygon_actions import PolygonActions

    return PolygonActions(client, source)


def _polygon_days(client: HttpClient, source: str) -> MarketDaySource:
    from enrichment.vendors.polygon_days import PolygonDays

    return PolygonDays(client, source)


def _binance(client: HttpClient, source: str) -> Provider:
    from enrichment.vendors.binance import BinanceProvider

    return BinanceProvider(client, source=source)


def _yahoo(client: HttpClient, source: str, cookie_url: str = "https://fc.yahoo.com") -> Provider:
    from enrichment.vendors.yahoo import YahooProvider

    return YahooProvider(client, source=source, cookie_url=cookie_url)


def _coinbase(client: HttpClient, source: str) -> Provider:
    from enrichment.vendors.coinbase import CoinbaseProvider

    return CoinbaseProvider(client, source=source)


def _alpaca(client: HttpClient, source: str, feed: str = "sip") -> Provider:
    from enrichment.vendors.alpaca import AlpacaProvider

    return AlpacaProvider(client, source=source, feed=feed)


VENDORS = VendorRegistry(
    VendorSpec(
        name="polygon",
        colour="#4c7fe0",
        credentials=(VendorSetting("polygon_api_key", None, "API key of Polygon", secret=True),),
        base_url=VendorSetting(
            "polygon_base_url", "https://api.polygon.io", "address of Polygon's API"
        ),
        rate=VendorSetting("polygon_rate", 5, "requests a minute that Polygon's plan allows"),
        end_of_day_rate=5,
        headers={"Authorization": "Bearer {polygon_api_key}"},
        coverage=dict.fromkeys(AssetClass, _UNLIMITED),
        page_rows=50_000,
        pages_of_minutes=True,
        build=_polygon,
        build_actions=_polygon_actions,
        extended_hours=True,
        build_market_days=_polygon_days,
        test_symbol=_STOCK,
        sandbox_test_symbol=_STOCK,
        sandbox_source="sandbox",  # as recorded since before there were other vendors
    ),
    VendorSpec(
        name="binance",
        colour="#e0a82e",
        base_url=VendorSetting(
            "binance_base_url", "https://api.binance.com", "address of Binance's API"
        ),
        rate=VendorSetting("binance_rate", 1200, "requests a minute sent to Binance at most"),
        coverage={AssetClass.CRYPTO: _UNLIMITED},
        page_rows=1000,
        build=_binance,
        test_symbol=(AssetClass.CRYPTO, "X:BTCUSD"),
        sandbox_test_symbol=(AssetClass.CRYPTO, "X:SIM1USD"),
        sandbox_source="sandbox:binance",
    ),
    VendorSpec(
        name="yahoo",
        colour="#8b6fd6",
        base_url=VendorSetting(
            "yahoo_base_url", "https://query1.finance.yahoo.com", "address of Yahoo's chart API"
        ),
        rate=VendorSetting("yahoo_rate", 60, "requests a minute sent to Yahoo at most"),
        blocks=True,
        headers={  # Yahoo refuses clients that do not look like a browser.
            "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"
            " Chrome/142.0.0.0 Safari/537.36",
            "Accept": "*/*",
            "Accept-Language": "en-US,en;q=0.9",
            "Origin": "https://finance.yahoo.com",
            "Referer": "https://finance.yahoo.com/",
            "Sec-Ch-Ua": '"Chromium";v="142", "Google Chrome";v="142", "Not_A Brand";v="99"',
            "Sec-Ch-Ua-Mobile": "?0",
            "Sec-Ch-Ua-Platform": '"Linux"',
            "Sec-Fetch-Dest": "empty",
            "Sec-Fetch-Mode": "cors",
            "Sec-Fetch-Site": "same-site",
        },
        options=(
            VendorSetting(
                "yahoo_cookie_url",
                "https://fc.yahoo.com",
                "address that sets the cookie of Yahoo's API",
                address=True,
            ),
        ),
        coverage={
            AssetClass.STOCK: _YAHOO_STOCKS,
            AssetClass.ETF: _YAHOO_STOCKS,
            AssetClass.CRYPTO: _YAHOO_CRYPTO,
        },
        build=_yahoo,
        test_symbol=_STOCK,
        sandbox_test_symbol=_STOCK,
        sandbox_source="sandbox:yahoo",
    ),
    VendorSpec(
        name="coinbase",
        colour="#3aa0a8",
        base_url=VendorSetting(
            "coinbase_base_url",
            "https://api.exchange.coinbase.com",
            "address of Coinbase Exchange's API",
        ),
        rate=VendorSetting("coinbase_rate", 300, "requests a minute sent to Coinbase at most"),
        burst=10,  # of the 15 that its bucket holds
        coverage={AssetClass.CRYPTO: _UNLIMITED},
        page_rows=300,
        build=_coinbase,
        test_symbol=(AssetClass.CRYPTO, "X:BTCUSD"),
        sandbox_test_symbol=(AssetClass.CRYPTO, "X:SIM1USD"),
        sandbox_source="sandbox:coinbase",
    ),
    VendorSpec(
        name="alpaca",
        colour="#c25fa0",
        credentials=(
            VendorSetting("alpaca_api_key", None, "ID of Alpaca's API key", secret=True),
            VendorSetting("alpaca_api_secret", None, "secret of Alpaca's API key", secret=True),
        ),
        base_url=VendorSetting(
            "alpaca_base_url", "https://data.alpaca.markets", "address of Alpaca's market data API"
        ),
        rate=VendorSetting("alpaca_rate", 200, "requests a minute that Alpaca's plan allows"),
        headers={
            "APCA-API-KEY-ID": "{alpaca_api_key}",
            "APCA-API-SECRET-KEY": "{alpaca_api_secret}",
        },
        coverage=dict.fromkeys((AssetClass.STOCK, AssetClass.ETF), _UNLIMITED),
        page_rows=10_000,
        build=_alpaca,
        extended_hours=True,
        options=(
            VendorSetting(
                "alpaca_feed",
                "sip",
                "Alpaca's feed: sip (all exchanges) or iex (one exchange, some 3 % of the volume)",
                choices=("sip", "iex"),
            ),
        ),
        test_symbol=_STOCK,
        sandbox_test_symbol=_STOCK,
        sandbox_source="sandbox:alpaca",
    ),
)
