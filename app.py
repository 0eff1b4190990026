"""The dashboard: page set-up and navigation. The pages live in `enrichment/dashboard/`."""

from pathlib import Path

import streamlit as st

import enrichment.dashboard
from enrichment.dashboard import auth, times

# Puts the account and the time zone beside the page's title instead of above it.
LAYOUT = """<style>
.stMainBlockContainer { padding-top: 4.5rem; padding-bottom: 4rem; }
.st-key-head { position: relative; z-index: 1; }
@media (min-width: 640px) {
    .st-key-head { margin: 0 0 -4.25rem auto; width: fit-content; }
}
</style>"""

st.set_page_config(
    page_title="market-enrichment",
    page_icon=Path(enrichment.dashboard.__file__).with_name("icon.png"),
    layout="wide",
    menu_items={"About": "market-enrichment fills a market-data warehouse every night."},
)

auth.require_sign_in()
pages = Path(enrichment.dashboard.__file__).parent / "pages"
page = st.navigation(
    [
        st.Page(pages / "overview.py", title="Overview", icon=":material/home:", default=True),
        st.Page(pages / "jobs.py", title="Jobs", icon=":material/list_alt:"),
        st.Page(pages / "symbols.py", title="Symbols", icon=":material/candlestick_chart:"),
        st.Page(pages / "quality.py", title="Data quality", icon=":material/verified:"),
        st.Page(pages / "resilience.py", title="Resilience", icon=":material/shield:"),
        st.Page(pages / "operations.py", title="Operations", icon=":material/engineering:"),
    ],
    position="top",
)
with st.container(key="head", horizontal=True, horizontal_alignment="right"):
    auth.account_menu()
    times.local_time_toggle()
    st.html(LAYOUT)
page.run()
