"""The dashboard: page set-up and navigation. The pages live in `enrichment/dashboard/`."""

from pathlib import Path

import streamlit as st

import enrichment.dashboard
from enrichment.dashboard import access

st.set_page_config(
    page_title="market-enrichment",
    page_icon=Path(enrichment.dashboard.__file__).with_name("icon.png"),
    layout="wide",
    menu_items={"About": "market-enrichment fills a market-data warehouse every night."},
)

access.gate()
pages = Path(enrichment.dashboard.__file__).parent / "pages"
st.navigation(
    [
        st.Page(pages / "overview.py", title="Overview", icon=":material/home:", default=True),
        st.Page(pages / "jobs.py", title="Jobs", icon=":material/list_alt:"),
        st.Page(pages / "symbols.py", title="Symbols", icon=":material/candlestick_chart:"),
        st.Page(pages / "quality.py", title="Data quality", icon=":material/verified:"),
        st.Page(pages / "resilience.py", title="Resilience", icon=":material/shield:"),
        st.Page(pages / "operations.py", title="Operations", icon=":material/engineering:"),
    ],
    position="top",
).run()
