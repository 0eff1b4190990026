"""Parts of a page that rerun by themselves, and how current their figures are."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import streamlit as st

from enrichment.dashboard.data import cache
from enrichment.dashboard.services import silent_since
from enrichment.dashboard.times import format_time
from enrichment.domain.errors import EnrichmentError

REFRESH_SECONDS = 2


def guarded(render: Callable[[], object]) -> None:
    """Render a part of a page, or a message if the database can't be reached."""
    try:
        render()
    except EnrichmentError:
        st.error(
            "**The database does not answer.** This page recovers by itself once the database is "
            "back; no stored data is lost. `enrichment doctor` shows details.",
            icon=":material/cloud_off:",
        )


def auto_refresh(render: Callable[[], object]) -> None:
    """Render a part of a page every two seconds."""
    st.fragment(lambda: guarded(render), run_every=REFRESH_SECONDS)()


def refresh_on_change(render: Callable[[], object], inputs: Callable[[], object]) -> None:
    """Render a part with input fields, and rerun the page only when its data changes.

    Args:
        render: Draws the part.
        inputs: Reads what the part depends on; compared with `==` every two seconds.
    """
    rendered = _read(inputs)
    guarded(render)

    def rerun_on_change() -> None:
        if _read(inputs) != rendered:
            st.rerun()

    st.fragment(rerun_on_change, run_every=REFRESH_SECONDS)()


def _read(inputs: Callable[[], object]) -> object:
    try:
        return inputs()
    except EnrichmentError:
        return None


def refreshed_badge(at: datetime) -> None:
    """When the figures were read, or why they are stale: no database, or no worker alive."""
    if cache.is_last_good():
        _stale_badge(at, "the database does not answer, these are the last known figures")
    elif (silent := silent_since()) is not None:
        _stale_badge(at, f"no worker has reported since {format_time(silent)}")
    else:
        st.badge(f"Refreshed {_to_the_second(at)}", icon=":material/schedule:", color="gray")


def _stale_badge(at: datetime, reason: str) -> None:
    st.badge(
        f"Stale · refreshed {_to_the_second(at)} · {reason}",
        icon=":material/history_toggle_off:",
        color="orange",
    )


def _to_the_second(at: datetime) -> str:
    return format_time(at, "%Y-%m-%d %H:%M:%S")
