"""Symbols: what a ticker names, and the one spelling under which it is tracked and stored.

US securities follow the consolidated tape (CQS, the `.` for its `/`): BRK.B, BACpL, OXY.WS. Stocks
of other exchanges end with Yahoo's suffix of the exchange, crypto pairs begin with `X:`. Any other
usual spelling is understood:

>>> [parse_symbol(text) for text in ("brk-b", "BAC.PRL", "BAC/PL", "vod.l", "btc-usd")]
['BRK.B', 'BACpL', 'BACpL', 'VOD.L', 'X:BTCUSD']
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache

from enrichment.domain.errors import InvalidSymbol

_SYMBOL = re.compile(r"(?:[XC]:)?[A-Z0-9][A-Z0-9.\-]{0,23}")

_EXCHANGES = (
    "AE AQ AS AT AX BA BD BE BK BM BO BR CA CL CN CO CR DE DU F HA HE HK HM IC IL IR IS JK JO "
    "KL KQ KS KW L LS MC MI MU MX NE NS NX NZ OL PA PR PS QA RG RO SA SG SI SN SR SS ST SW SZ T "
    "TA TI TL TO TW TWO V VI VN VS WA XA XC XD"
)
EXCHANGES = frozenset(_EXCHANGES.split())
"""Suffixes of exchanges outside the US: Yahoo's list of exchanges and data providers."""
_US_CLASSES = frozenset({"MKC.V"})  # whose class reads like an exchange

_FIAT = (
    "AED ARS AUD BRL CAD CHF CNY COP CZK DKK EUR GBP HKD IDR ILS INR JPY KRW MXN NGN NOK NZD "
    "PHP PLN RON RUB SAR SEK SGD THB TRY TWD UAH USD ZAR"
)
FIAT = frozenset(_FIAT.split())
QUOTES = FIAT | {"USDT", "USDC", "BTC", "ETH", "BNB", "DAI"}
"""Quote currencies that are recognized at the end of a pair without a separator."""
_SEPARATED_QUOTES = frozenset({"FDUSD", "TUSD", "BUSD"})  # X:SHIBUSD is in USD, not in BUSD
_SHORTEST_PAIR = 6  # characters, without `X:`; a US ticker has at most 5


class SymbolKind(Enum):
    """What a symbol names; decides on how it is spelled."""

    FOREIGN = auto()  # its suffix is the exchange
    PAIR = auto()  # its suffix is the quote currency
    PREFERRED = auto()
    PREFERRED_SERIES = auto()
    WARRANT = auto()
    WARRANT_CLASS = auto()
    UNIT = auto()
    RIGHT = auto()
    WHEN_ISSUED = auto()
    SHARE_CLASS = auto()
    COMMON = auto()
    OTHER = auto()  # of no known form; spelled as it is


@dataclass(frozen=True, slots=True)
class Instrument:
    """What a symbol names."""

    kind: SymbolKind
    root: str
    """The ticker without its suffix; the base currency of a pair."""
    suffix: str = ""
    """The exchange, quote currency, class or series."""

    def spelled(self, template: str) -> str:
        return template.format(root=self.root, suffix=self.suffix)


_NOTATIONS: Mapping[SymbolKind, tuple[str, ...]] = {
    # The first is the spelling of the symbol. A `/` counts as `-`. The first kind that fits, wins.
    SymbolKind.FOREIGN: ("{root}.{suffix}",),
    SymbolKind.PAIR: ("X:{root}{suffix}", "X:{root}-{suffix}", "{root}-{suffix}", "{root}{suffix}"),
    SymbolKind.WARRANT: ("{root}.WS", "{root}-WS", "{root}-WT"),
    SymbolKind.WARRANT_CLASS: (
        *("{root}.WS.{suffix}", "{root}.WS{suffix}", "{root}-WT{suffix}", "{root}-WS{suffix}"),
        *("{root}-WS-{suffix}", "{root}-WT-{suffix}"),
    ),
    SymbolKind.UNIT: ("{root}.U", "{root}-U", "{root}-UN"),
    SymbolKind.RIGHT: ("{root}r", "{root}.RT", "{root}-RT", "{root}-RI"),
    SymbolKind.WHEN_ISSUED: ("{root}w", "{root}.WI", "{root}-WI"),
    SymbolKind.PREFERRED: ("{root}p", "{root}.P", "{root}-P"),
    SymbolKind.PREFERRED_SERIES: (
        *("{root}p{suffix}", "{root}.P{suffix}", "{root}-P{suffix}", "{root}.PR{suffix}"),
        "{root}-PR{suffix}",
    ),
    SymbolKind.SHARE_CLASS: ("{root}.{suffix}", "{root}-{suffix}"),
    SymbolKind.COMMON: ("{root}",),
}


def parse_symbol(text: str) -> str:
    """The symbol that a ticker stands for, in its one spelling.

    Case matters only for the p, r and w of BACpL, DBr and XYZw.

    Raises:
        InvalidSymbol: It is malformed.
    """
    return symbol_of(parse_instrument(text))


@lru_cache(maxsize=65_536)
def parse_instrument(text: str) -> Instrument:
    """What a ticker names. Raises InvalidSymbol if it is malformed."""
    if not text.isascii():  # upper case would make SS of ß, and I of ı
        raise InvalidSymbol(_malformed(text))
    as_typed = text.strip().replace("/", "-")
    upper = as_typed.upper()
    instrument = _read(as_typed) or _read(upper)
    if not _SYMBOL.fullmatch(upper) or (instrument is None and "/" in text):
        raise InvalidSymbol(_malformed(text))
    return instrument or Instrument(SymbolKind.OTHER, upper)


def symbol_of(instrument: Instrument) -> str:
    """The spelling under which an instrument is tracked and stored."""
    if instrument.kind is SymbolKind.OTHER:
        return instrument.root
    for template in _NOTATIONS[instrument.kind]:
        symbol = instrument.spelled(template)
        if _read(symbol) == instrument:
            return symbol
    return instrument.spelled(_NOTATIONS[instrument.kind][0])


def spellings(symbol: str) -> tuple[str, ...]:
    """All upper-case spellings that mean this symbol, under which it may have been stored."""
    instrument = parse_instrument(symbol)
    written = [instrument.spelled(t) for t in _NOTATIONS.get(instrument.kind, ())]
    if instrument.kind is SymbolKind.FOREIGN:
        written.append(symbol.replace("-", "."))
    same = (text for text in written if text.isupper() and parse_instrument(text) == instrument)
    return tuple(dict.fromkeys((symbol, *same)))


def _read(text: str) -> Instrument | None:
    if len(text) < _SHORTEST_PAIR and text.isalpha() and text.isupper():
        return Instrument(SymbolKind.COMMON, text)
    return read(text, _NOTATIONS, QUOTES)


def read(
    text: str, notations: Mapping[SymbolKind, tuple[str, ...]], quotes: Collection[str]
) -> Instrument | None:
    """What a text names by a table of notations; None if none of them fits.

    Args:
        text: In the case of the notation.
        notations: Kind → templates with {root} and {suffix}, in the order in which they are tried.
        quotes: The quote currencies that there are.
    """
    for kind, templates in notations.items():
        for template in templates:
            match = _pattern(kind, template, frozenset(quotes)).fullmatch(text)
            if match is None or (kind is SymbolKind.FOREIGN and text in _US_CLASSES):
                continue
            root, suffix = match["root"], match.groupdict().get("suffix", "")
            if kind is SymbolKind.FOREIGN:
                root = root.replace(".", "-")
            return Instrument(kind, root, suffix)
    return None


@lru_cache(maxsize=256)
def _pattern(kind: SymbolKind, template: str, quotes: frozenset[str]) -> re.Pattern[str]:
    root, suffix = "[A-Z0-9]+", "[A-Z]"
    if kind is SymbolKind.FOREIGN:
        root, suffix = r"[A-Z0-9]+(?:[.\-][A-Z0-9]+)*", "|".join(sorted(EXCHANGES))
    elif template == "X:{root}-{suffix}":
        suffix = "[A-Z0-9]{2,6}"
    elif kind is SymbolKind.PAIR:
        joined = "}{" in template
        suffix = "|".join(sorted(quotes if joined else quotes | _SEPARATED_QUOTES))
    regex = re.escape(template).replace(r"\{root\}", f"(?P<root>{root})")
    return re.compile(regex.replace(r"\{suffix\}", f"(?P<suffix>{suffix})"))


def _malformed(text: str) -> str:
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    return (
        f"malformed symbol {shown!r}: use letters, digits, '.' and '-', "
        "for crypto with the prefix 'X:' (AAPL, BRK.B, BACpL, VOD.L, X:BTCUSD)"
    )
