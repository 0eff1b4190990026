"""What every page does alike: acting, staying calm without a database, tables, saying of when the
figures are.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pandas as pd
import streamlit as st

from enrichment.errors import EnrichmentError

REFRESH_SECONDS = 2
ROW_PIXELS = 35
MOST_PIXELS = 560


def act(what: Callable[[], object], done: str) -> None:
    """Run a command from a button's callback and say what came of it."""
    try:
        what()
        st.toast(done, icon=":material/check:")
    except EnrichmentError as exc:
        st.toast(str(exc), icon=":material/error:")
    st.cache_data.clear()


def calmly(part: Callable[[], object]) -> None:
    """Show a part of a page, or that the database is away, never a trace."""
    try:
        part()
    except EnrichmentError:
        st.error(
            "**The database does not answer.** The figures return by themselves once it does; "
            "nothing is lost meanwhile. `enrichment doctor` says more.",
            icon=":material/cloud_off:",
        )


def live(part: Callable[[], object]) -> None:
    """Show a part that moves by itself."""
    st.fragment(lambda: calmly(part), run_every=REFRESH_SECONDS)()


def as_of(moment: datetime) -> None:
    st.caption(f"data as of {moment:%Y-%m-%d %H:%M:%S} UTC")


def nothing(what: str) -> None:
    """What stands where there is nothing to show yet."""
    st.info(what, icon=":material/info:")


def table(
    rows: list[dict[str, Any]] | pd.DataFrame, columns: dict[str, Any] | None = None, *, key: str
) -> None:
    """Rows as a table that can be sorted, searched and downloaded as CSV."""
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows)
    times = {
        name: st.column_config.DatetimeColumn(
            f"{name} (UTC)", format="YYYY-MM-DD HH:mm:ss", timezone="UTC"
        )
        for name in frame.columns
        if isinstance(frame[name].dtype, pd.DatetimeTZDtype)
    }
    st.dataframe(
        frame,
        hide_index=True,
        height=min(ROW_PIXELS * (len(frame) + 1) + 3, MOST_PIXELS),
        column_config={**times, **(columns or {})},
        key=key,
    )


def reason_of(key: str) -> str:
    """What was typed into the reason field of this key."""
    return str(st.session_state.get(key, "")).strip()


def with_reason(
    label: str,
    question: str,
    do: Callable[[str], None],
    *,
    key: str,
    disabled: bool = False,
) -> None:
    """A button behind a question, which acts only once a reason is given; the audit keeps it."""
    with st.popover(label, icon=":material/gavel:", disabled=disabled):
        st.markdown(question)
        st.text_input("Reason, kept in the audit", key=f"{key}-reason", max_chars=500)
        given = reason_of(f"{key}-reason")
        st.button(
            f"{label}: yes",
            key=f"{key}-yes",
            type="primary",
            disabled=disabled or not given,
            on_click=lambda: do(reason_of(f"{key}-reason")),
            help=None if given else "Give a reason and press Enter first",
        )


def ago(then: datetime, now: datetime) -> str:
    minutes = int((now - then) / timedelta(minutes=1))
    if minutes < 1:
        return "just now"
    if minutes < 120:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 48 * 60 else f"{minutes // 1440} days ago"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
