"""Leading from a row to the page that shows more of it."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

SYMBOLS_PAGE = Path(__file__).parent / "pages" / "symbols.py"
_TARGET = "open-series"


def select_series(symbol: str, timeframe: str) -> None:
    """Open the series on the page Symbols; for callbacks, which can't change the page."""
    st.session_state[_TARGET] = (symbol, timeframe)


def open_selected_series() -> None:
    """Go to the page Symbols if a series has been selected."""
    target = st.session_state.pop(_TARGET, None)
    if target is not None:
        symbol, timeframe = target
        st.session_state["symbol"], st.session_state["timeframe"] = symbol, timeframe
        st.switch_page(SYMBOLS_PAGE, query_params={"search": symbol})
