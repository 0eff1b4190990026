"""How each vendor spells a symbol, both ways: one table of templates per vendor.

Polygon spells US securities as the consolidated tape (CQS suffixes), Alpaca with CMS suffixes after
a dot, Yahoo with suffixes of its own after a dash. The suffixes are those of Nasdaq's table "CQS
symbol convention"; exchanges outside the US are on Yahoo's list of exchanges. Alpaca documents no
spelling of warrants of a class: CMS is assumed.

>>> [vendor_spelling(vendor, "BACpL") for vendor in ("polygon", "alpaca", "yahoo")]
['BACpL', 'BAC.PRL', 'BAC-PL']
>>> vendor_spelling("binance", "X:BTCUSD"), symbol_at("coinbase", "BTC-USD")
('BTCUSDT', 'X:BTCUSD')
>>> vendor_spelling("polygon", "VOD.L")
Traceback (most recent call last):
enrichment.domain.errors.UnknownSymbol: polygon serves US stocks only
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from enrichment.domain.errors import UnknownSymbol
from enrichment.domain.exchanges import BY_SUFFIX
from enrichment.domain.symbols import (
    FIAT,
    Instrument,
    SymbolKind,
    parse_instrument,
    read,
    symbol_of,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VendorSpelling:
    """A vendor's spelling of the symbols that it serves."""

    templates: Mapping[SymbolKind, str]
    """Kind → template with {root} and {suffix}; a kind without one is not served."""
    quotes: frozenset[str] = frozenset()
    """The quote currencies of its pairs."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """Quote currency that it lacks → the one that it serves in its place."""
    coins: Mapping[str, str] = field(default_factory=dict)
    """Base currency → its name at a vendor that calls another coin by it."""


_CQS = {
    SymbolKind.WARRANT: "{root}.WS",
    SymbolKind.WARRANT_CLASS: "{root}.WS.{suffix}",
    SymbolKind.UNIT: "{root}.U",
    SymbolKind.RIGHT: "{root}r",
    SymbolKind.WHEN_ISSUED: "{root}w",
    SymbolKind.PREFERRED: "{root}p",
    SymbolKind.PREFERRED_SERIES: "{root}p{suffix}",
    SymbolKind.SHARE_CLASS: "{root}.{suffix}",
    SymbolKind.COMMON: "{root}",
}
_CMS = _CQS | {
    SymbolKind.WARRANT_CLASS: "{root}.WS{suffix}",
    SymbolKind.RIGHT: "{root}.RT",
    SymbolKind.WHEN_ISSUED: "{root}.WI",
    SymbolKind.PREFERRED: "{root}.PR",
    SymbolKind.PREFERRED_SERIES: "{root}.PR{suffix}",
}
_YAHOO = {
    SymbolKind.FOREIGN: "{root}.{suffix}",
    SymbolKind.PAIR: "{root}-{suffix}",
    SymbolKind.WARRANT: "{root}-WT",
    SymbolKind.WARRANT_CLASS: "{root}-WT{suffix}",
    SymbolKind.UNIT: "{root}-UN",
    SymbolKind.RIGHT: "{root}-RI",
    SymbolKind.WHEN_ISSUED: "{root}-WI",
    SymbolKind.PREFERRED: "{root}-P",
    SymbolKind.PREFERRED_SERIES: "{root}-P{suffix}",
    SymbolKind.SHARE_CLASS: "{root}-{suffix}",
    SymbolKind.COMMON: "{root}",
}

_BINANCE_QUOTES = (
    "USDT USDC FDUSD TUSD BUSD DAI BTC ETH BNB"
    " EUR GBP AUD BRL TRY JPY ARS COP CZK MXN PLN RON RUB UAH ZAR"
)

_YAHOO_COINS = (
    "APT21794 ARB11841 COMP5692 GRT6719 HYPE32196 IMX10603 JUP29210 MNT27075 PEPE24478 POL28321"
    " S32684 STX4847 SUI20947 TAO22974 TON11419 UNI7083"
)  # as numbered by CoinMarketCap, where the name alone is another coin

SPELLINGS: Mapping[str, VendorSpelling] = {
    "polygon": VendorSpelling(
        templates={SymbolKind.PAIR: "X:{root}{suffix}"} | _CQS,
        quotes=FIAT | {"BTC", "ETH"},
        instead={"USDT": "USD"},
    ),
    "binance": VendorSpelling(
        templates={SymbolKind.PAIR: "{root}{suffix}"},
        quotes=frozenset(_BINANCE_QUOTES.split()),
        instead={"USD": "USDT"},
    ),
    "yahoo": VendorSpelling(
        templates=_YAHOO,
        quotes=FIAT | {"BTC", "ETH"},
        instead={"USDT": "USD"},
        coins={name.rstrip("0123456789"): name for name in _YAHOO_COINS.split()},
    ),
    "coinbase": VendorSpelling(
        templates={SymbolKind.PAIR: "{root}-{suffix}"},
        quotes=frozenset(["USD", "USDT", "USDC", "EUR", "GBP", "BTC", "ETH", "DAI"]),
    ),
    "alpaca": VendorSpelling(
        templates={SymbolKind.PAIR: "{root}/{suffix}"} | _CMS,
        quotes=frozenset({"USD", "USDT", "USDC", "BTC"}),
    ),
}


@lru_cache(maxsize=65_536)
def vendor_spelling(vendor: str, symbol: str) -> str:
    """The vendor's spelling of a symbol.

    Raises:
        UnknownSymbol: The vendor does not serve what the symbol names.
    """
    spelling, instrument = SPELLINGS.get(vendor), parse_instrument(symbol)
    if symbol.startswith("X:") and instrument.kind is SymbolKind.OTHER:
        raise UnknownSymbol(f"{vendor} is not asked without a quote currency")
    if spelling is None or instrument.kind is SymbolKind.OTHER:
        return symbol
    template = spelling.templates.get(instrument.kind)
    if template is None:
        raise UnknownSymbol(f"{vendor} serves {_served(spelling)} only")
    if instrument.kind is SymbolKind.FOREIGN and instrument.suffix not in BY_SUFFIX:
        raise UnknownSymbol(
            f"{vendor} is not asked for .{instrument.suffix}, an exchange of unknown trading hours"
        )
    if instrument.kind is SymbolKind.PAIR:
        root = spelling.coins.get(instrument.root, instrument.root)
        instrument = replace(instrument, root=root, suffix=_quote(vendor, spelling, instrument))
    return instrument.spelled(template)


@lru_cache(maxsize=65_536)
def spelling_or_symbol(vendor: str, symbol: str) -> str:
    """The vendor's spelling; the symbol itself where the vendor has none."""
    try:
        return vendor_spelling(vendor, symbol)
    except UnknownSymbol:
        return symbol


def symbol_at(vendor: str, text: str) -> str | None:
    """The symbol that a vendor means by its spelling; None if it is none of its spellings."""
    spelling = SPELLINGS[vendor]
    notations = {kind: (template,) for kind, template in spelling.templates.items()}
    instrument = read(text, notations, spelling.quotes)
    if instrument is None:
        return None
    names = {name: coin for coin, name in spelling.coins.items()}
    if instrument.kind is SymbolKind.PAIR:
        instrument = replace(instrument, root=names.get(instrument.root, instrument.root))
    return symbol_of(instrument)


@lru_cache(maxsize=65_536)
def substituted_quote(vendor: str, symbol: str) -> tuple[str, str] | None:
    """(the symbol's quote currency, the one that the vendor serves in its place), if it does."""
    instrument = parse_instrument(symbol)
    served = SPELLINGS[vendor].instead.get(instrument.suffix) if vendor in SPELLINGS else None
    if instrument.kind is not SymbolKind.PAIR or served is None:
        return None
    return instrument.suffix, served


def _quote(vendor: str, spelling: VendorSpelling, pair: Instrument) -> str:
    served = spelling.instead.get(pair.suffix, pair.suffix)
    if served not in spelling.quotes or served == pair.root:
        raise UnknownSymbol(f"{vendor} has no markets in {pair.suffix}")
    return served


def _served(spelling: VendorSpelling) -> str:
    if SymbolKind.COMMON not in spelling.templates:
        return "crypto pairs"
    return "stocks" if SymbolKind.FOREIGN in spelling.templates else "US stocks"
