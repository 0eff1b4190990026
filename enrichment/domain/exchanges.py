"""Exchanges by the suffix of a symbol: their calendar, time zone and currency.

A stock without a suffix trades in the United States. Calendars are those of `exchange_calendars`.

>>> exchange_of("AAPL").mic, exchange_of("BRK.B").mic, exchange_of("7203.T").timezone
('XNYS', 'XNYS', 'Asia/Tokyo')
>>> exchange_of("VOD.L").currency  # London quotes in pence
'GBp'
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Exchange:
    """Where a stock or ETF trades."""

    mic: str  # ISO 10383 code, the name of its calendar
    timezone: str
    currency: str  # in which prices and dividends are quoted
    extended: bool = False  # whether trading before the open and after the close counts, too


NEW_YORK = Exchange("XNYS", "America/New_York", "USD")
NEW_YORK_EXTENDED = replace(NEW_YORK, extended=True)

# Suffix of a symbol, as Yahoo writes it → its exchange. Stocks of others are not served: without
# a calendar and a time zone their bars would get wrong dates.
BY_SUFFIX: dict[str, Exchange] = {
    "L": Exchange("XLON", "Europe/London", "GBp"),
    "T": Exchange("XTKS", "Asia/Tokyo", "JPY"),
    "DE": Exchange("XETR", "Europe/Berlin", "EUR"),
    "F": Exchange("XFRA", "Europe/Berlin", "EUR"),
    "TO": Exchange("XTSE", "America/Toronto", "CAD"),
    "AX": Exchange("XASX", "Australia/Sydney", "AUD"),
    "PA": Exchange("XPAR", "Europe/Paris", "EUR"),
    "AS": Exchange("XAMS", "Europe/Amsterdam", "EUR"),
    "BR": Exchange("XBRU", "Europe/Brussels", "EUR"),
    "MI": Exchange("XMIL", "Europe/Rome", "EUR"),
    "MC": Exchange("XMAD", "Europe/Madrid", "EUR"),
    "LS": Exchange("XLIS", "Europe/Lisbon", "EUR"),
    "VI": Exchange("XWBO", "Europe/Vienna", "EUR"),
    "IR": Exchange("XDUB", "Europe/Dublin", "EUR"),
    "HE": Exchange("XHEL", "Europe/Helsinki", "EUR"),
    "SW": Exchange("XSWX", "Europe/Zurich", "CHF"),
    "ST": Exchange("XSTO", "Europe/Stockholm", "SEK"),
    "OL": Exchange("XOSL", "Europe/Oslo", "NOK"),
    "CO": Exchange("XCSE", "Europe/Copenhagen", "DKK"),
    "WA": Exchange("XWAR", "Europe/Warsaw", "PLN"),
    "HK": Exchange("XHKG", "Asia/Hong_Kong", "HKD"),
    "KS": Exchange("XKRX", "Asia/Seoul", "KRW"),
    "TW": Exchange("XTAI", "Asia/Taipei", "TWD"),
    "SI": Exchange("XSES", "Asia/Singapore", "SGD"),
    "BO": Exchange("XBOM", "Asia/Kolkata", "INR"),
    "SS": Exchange("XSHG", "Asia/Shanghai", "CNY"),
    "NZ": Exchange("XNZE", "Pacific/Auckland", "NZD"),
    "SA": Exchange("BVMF", "America/Sao_Paulo", "BRL"),
    "MX": Exchange("XMEX", "America/Mexico_City", "MXN"),
    "JO": Exchange("XJSE", "Africa/Johannesburg", "ZAc"),
    "IS": Exchange("XIST", "Europe/Istanbul", "TRY"),
    "PR": Exchange("XPRA", "Europe/Prague", "CZK"),
    "BD": Exchange("XBUD", "Europe/Budapest", "HUF"),
    "IC": Exchange("XICE", "Atlantic/Reykjavik", "ISK"),
    "RG": Exchange("XRIS", "Europe/Riga", "EUR"),
    "TL": Exchange("XTAL", "Europe/Tallinn", "EUR"),
    "VS": Exchange("XLIT", "Europe/Vilnius", "EUR"),
    "SR": Exchange("XSAU", "Asia/Riyadh", "SAR"),
    "JK": Exchange("XIDX", "Asia/Jakarta", "IDR"),
    "BK": Exchange("XBKK", "Asia/Bangkok", "THB"),
    "KL": Exchange("XKLS", "Asia/Kuala_Lumpur", "MYR"),
    "PS": Exchange("XPHS", "Asia/Manila", "PHP"),
    "BA": Exchange("XBUE", "America/Argentina/Buenos_Aires", "ARS"),
    "SN": Exchange("XSGO", "America/Santiago", "CLP"),
    "SG": Exchange("XSTU", "Europe/Berlin", "EUR"),
    "DU": Exchange("XDUS", "Europe/Brussels", "EUR"),
    "HM": Exchange("XHAM", "Europe/Brussels", "EUR"),
}
# Exchanges with the sessions of another one that has a calendar.
BY_SUFFIX |= {
    suffix: BY_SUFFIX[other]
    for suffix, other in {
        "SZ": "SS",  # Shenzhen
        "NS": "BO",  # National Stock Exchange of India
        "KQ": "KS",  # KOSDAQ
        "TWO": "TW",  # Taipei Exchange
        "V": "TO",  # TSX Venture, NEO and Canadian Securities Exchange
        "NE": "TO",
        "CN": "TO",
        "BE": "HM",  # Berlin, Hanover, Munich
        "HA": "HM",
        "MU": "HM",
        "TI": "MI",  # EuroTLX
        "NX": "PA",  # Euronext
        "XA": "AX",  # Cboe Australia
    }.items()
}

EXCHANGES = {exchange.mic: exchange for exchange in (NEW_YORK, *BY_SUFFIX.values())}


def exchange_of(symbol: str) -> Exchange:
    """The exchange of a stock or ETF; share classes such as BRK.B are no suffixes of exchanges."""
    _, dot, suffix = symbol.rpartition(".")
    return BY_SUFFIX.get(suffix, NEW_YORK) if dot else NEW_YORK
