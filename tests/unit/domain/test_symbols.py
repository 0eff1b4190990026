"""Symbols: one spelling for each, whatever was typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.domain.errors import InvalidSymbol
from enrichment.domain.symbols import parse_symbol, spellings


@pytest.mark.parametrize(
    ("symbol", "typed"),
    [
        ("AAPL", "AAPL aapl"),
        ("BRK.B", "BRK.B brk.b BRK-B BRK/B"),
        ("BACpL", "BACpL BAC-PL bac-pl BAC.PL BAC/PL BAC.PRL BAC-PRL"),
        ("TYp", "TYp TY-P TY.P"),
        ("USBpA", "USBpA USB-PA USB/PA USB.PRA"),
        ("PSApR", "PSApR PSA-PR PSA.PRR"),
        ("OXY.WS", "OXY.WS OXY-WT oxy-ws OXY/WS"),
        ("TDW.WS.A", "TDW.WS.A TDW-WTA TDW.WSA TDW/WS/A"),
        ("GRP.U", "GRP.U GRP-UN GRP/U"),
        ("CELGr", "CELGr CELG-RI CELG.RT"),
        ("POSTw", "POSTw POST-WI POST.WI"),
        ("MKC.V", "MKC.V MKC-V mkc/v"),
        ("VOD.L", "VOD.L vod.l"),
        ("7203.T", "7203.T"),
        ("BNP.PA", "BNP.PA"),
        ("BRK-B.TO", "BRK-B.TO brk.b.to"),
        ("BT-A.L", "BT-A.L BT.A.L"),
        ("X:BTCUSD", "X:BTCUSD x:btcusd X:BTC-USD BTC-USD btc/usd BTCUSD X:BTC/USD"),
        ("X:BTCUSDT", "X:BTCUSDT BTC-USDT BTCUSDT"),
        ("X:ETHBTC", "X:ETHBTC ETH-BTC ETH/BTC"),
        ("X:SHIBUSD", "X:SHIBUSD SHIB-USD"),
        ("X:BNTUSD", "X:BNTUSD BNT/USD"),
        ("X:USDTUSD", "X:USDTUSD USDT-USD"),
        ("X:BTC-TUSD", "X:BTC-TUSD BTC/TUSD"),
        ("X:SIM1USD", "X:SIM1USD"),
        ("C:EURUSD", "C:EURUSD"),
    ],
)
def test_spellings_of_one_instrument_are_one_symbol(symbol: str, typed: str) -> None:
    assert {text: parse_symbol(f" {text} ") for text in typed.split()} == dict.fromkeys(
        typed.split(), symbol
    )
    assert parse_symbol(symbol) == symbol


@pytest.mark.parametrize(
    "text",
    ["", " ", "A B", "../etc", "A" * 25, "Z:BTC", "AAPL;", "É", ".A", "X:", "A/../B", "A" * 1_000],
)
def test_malformed_symbols(text: str) -> None:
    with pytest.raises(InvalidSymbol, match="malformed symbol") as raised:
        parse_symbol(text)
    assert len(str(raised.value)) < 250


def test_what_was_stored_in_upper_case_before() -> None:
    assert spellings("BRK.B") == ("BRK.B", "BRK-B")
    assert "X:BTC-USD" in spellings("X:BTCUSD")
    assert spellings("AAPL") == ("AAPL",)
    assert "BACPL" not in spellings("BACpL")  # it may be another ticker


@given(st.from_regex(r"([XC]:)?[A-Za-z0-9][A-Za-z0-9.\-/]{0,14}", fullmatch=True))
def test_a_symbol_is_its_own_spelling(text: str) -> None:
    try:
        symbol = parse_symbol(text)
    except InvalidSymbol:
        return
    assert parse_symbol(symbol) == symbol
    assert all(parse_symbol(spelling) == symbol for spelling in spellings(symbol))


@pytest.mark.parametrize(
    "text", ["ß", "ı", "ﬁ", "STRAßE", "X:BTCUSDﬁ", "ＡＡＰＬ", "AAPL\u00a0", "ſ"]
)
def test_letters_beyond_ascii_are_refused(text: str) -> None:
    with pytest.raises(InvalidSymbol):
        parse_symbol(text)
