"""How each vendor spells a symbol.

The suffixes of US securities are Nasdaq's table "CQS symbol convention" (columns CQS and CMS) and,
for Yahoo, what its pages show; quotes of pairs are those of the vendors' own examples.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.domain.errors import UnknownSymbol
from enrichment.domain.symbols import EXCHANGES, FIAT, parse_symbol
from enrichment.vendors.spelling import (
    SPELLINGS,
    substituted_quote,
    symbol_at,
    vendor_spelling,
)

NONE = "-"
TABLE = [
    "symbol      polygon     alpaca      yahoo       binance     coinbase",
    "AAPL        AAPL        AAPL        AAPL        -           -",
    "BRK.B       BRK.B       BRK.B       BRK-B       -           -",
    "MKC.V       MKC.V       MKC.V       MKC-V       -           -",
    "BACpL       BACpL       BAC.PRL     BAC-PL      -           -",
    "TYp         TYp         TY.PR       TY-P        -           -",
    "OXY.WS      OXY.WS      OXY.WS      OXY-WT      -           -",
    "TDW.WS.A    TDW.WS.A    TDW.WSA     TDW-WTA     -           -",
    "GRP.U       GRP.U       GRP.U       GRP-UN      -           -",
    "CELGr       CELGr       CELG.RT     CELG-RI     -           -",
    "POSTw       POSTw       POST.WI     POST-WI     -           -",
    "VOD.L       -           -           VOD.L       -           -",
    "7203.T      -           -           7203.T      -           -",
    "BRK-B.TO    -           -           BRK-B.TO    -           -",
    "BT-A.L      -           -           BT-A.L      -           -",
    "VNM.VN      -           -           -           -           -",
    "X:BTCUSD    X:BTCUSD    BTC/USD     BTC-USD     BTCUSDT     BTC-USD",
    "X:BTC-USD   X:BTCUSD    BTC/USD     BTC-USD     BTCUSDT     BTC-USD",
    "X:BTCUSDT   X:BTCUSD    BTC/USDT    BTC-USD     BTCUSDT     BTC-USDT",
    "X:ETHUSDC   -           ETH/USDC    -           ETHUSDC     ETH-USDC",
    "X:BTCEUR    X:BTCEUR    -           BTC-EUR     BTCEUR      BTC-EUR",
    "X:BTCGBP    X:BTCGBP    -           BTC-GBP     BTCGBP      BTC-GBP",
    "X:UNIUSD    X:UNIUSD    UNI/USD     UNI7083-USD UNIUSDT     UNI-USD",
    "X:SUIUSDT   X:SUIUSD    SUI/USDT    SUI20947-USD SUIUSDT    SUI-USDT",
    "X:ETHBTC    X:ETHBTC    ETH/BTC     ETH-BTC     ETHBTC      ETH-BTC",
    "X:ETHDAI    -           -           -           ETHDAI      ETH-DAI",
    "X:USDTUSD   X:USDTUSD   USDT/USD    USDT-USD    -           USDT-USD",
    "X:BTCKRW    X:BTCKRW    -           BTC-KRW     -           -",
    "X:BTC-FDUSD -           -           -           BTCFDUSD    -",
]
VENDORS = TABLE[0].split()[1:]
ROWS = [
    (row.split()[0], *pair)
    for row in TABLE[1:]
    for pair in zip(VENDORS, row.split()[1:], strict=True)
]


@pytest.mark.parametrize(("symbol", "vendor", "spelling"), ROWS)
def test_spellings(symbol: str, vendor: str, spelling: str) -> None:
    if spelling == NONE:
        with pytest.raises(UnknownSymbol, match=f"^{vendor} "):
            vendor_spelling(vendor, symbol)
        return
    assert vendor_spelling(vendor, symbol) == spelling
    substituted = substituted_quote(vendor, symbol)
    expected = symbol if substituted is None else symbol.removesuffix(substituted[0])
    assert symbol_at(vendor, spelling) == parse_symbol(
        expected if substituted is None else expected + substituted[1]
    )


ROOT = st.from_regex(r"[A-Z]{1,5}", fullmatch=True)
US = st.builds(
    str.__add__,
    ROOT,
    st.sampled_from(["", "p", "r", "w", ".U", ".WS", ".WS.A", ".A", ".B", "pA", "pL", "-T", "-V"]),
)
FOREIGN = st.builds("{}.{}".format, ROOT, st.sampled_from(sorted(EXCHANGES)))
PAIR = st.builds(
    "X:{}-{}".format,
    ROOT,
    st.sampled_from([*sorted(FIAT), "USDT", "USDC", "FDUSD", "BTC", "ETH", "BNB"]),
)


@given(US | FOREIGN | PAIR, st.sampled_from(sorted(SPELLINGS)))
def test_every_spelling_is_read_back(text: str, vendor: str) -> None:
    symbol = parse_symbol(text)
    try:
        spelling = vendor_spelling(vendor, symbol)
    except UnknownSymbol:
        return
    back = symbol_at(vendor, spelling)
    assert back is not None
    assert vendor_spelling(vendor, back) == spelling
    if substituted_quote(vendor, symbol) is None:
        assert back == symbol


def test_a_pair_without_a_quote_currency_is_not_asked_for() -> None:
    with pytest.raises(UnknownSymbol, match="without a quote currency"):
        vendor_spelling("binance", "X:BTC")


def test_a_vendor_without_a_table_is_asked_for_symbols_as_they_are() -> None:
    assert vendor_spelling("elsewhere", "BRK.B") == "BRK.B"
    assert substituted_quote("elsewhere", "X:BTCUSD") is None
