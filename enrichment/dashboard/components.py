"""What every page does alike: acting, staying calm without a database, tables, saying of when the
figures are.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from enrichment.dashboard import times
from enrichment.dashboard.data import cache
from enrichment.dashboard.services import silent_since
from enrichment.dashboard.times import ago as ago
from enrichment.dashboard.times import local as local
from enrichment.dashboard.times import moment as moment
from enrichment.domain.errors import EnrichmentError

REFRESH_SECONDS = 2
ROW_PIXELS = 35
MAX_TABLE_PIXELS = 560
GOOD, DOUBTFUL, BAD, NEUTRAL = "#2f9e6e", "#c9851b", "#d64550", "#7c8799"
COLOURS = {
    **dict.fromkeys(("healthy", "running", "completed", "ok", "closed"), GOOD),
    **dict.fromkeys(("warning", "stale", "pending", "half open", "partial", "retry"), DOUBTFUL),
    **dict.fromkeys(("error", "failed", "firing", "lost", "open", "forced open"), BAD),
}
MAX_COLOURED_ROWS = 150  # rows: styling more takes longer than reading them
COLOURED_COLUMNS = ["status", "state", "breaker"]


def run_command(what: Callable[[], object], done: str) -> None:
    """Run a command from a button's callback and say what came of it."""
    try:
        what()
        st.toast(done, icon=":material/check:")
    except EnrichmentError as exc:
        st.toast(str(exc), icon=":material/error:")
    st.cache_data.clear()


def guarded(part: Callable[[], object]) -> None:
    """Show a part of a page, or that the database is away, never a trace."""
    try:
        part()
    except EnrichmentError:
        st.error(
            "**The database does not answer.** The figures return by themselves once it does; "
            "nothing is lost meanwhile. `enrichment doctor` says more.",
            icon=":material/cloud_off:",
        )


def auto_refresh(part: Callable[[], object]) -> None:
    """Show a part that moves by itself."""
    st.fragment(lambda: guarded(part), run_every=REFRESH_SECONDS)()


def refresh_on_change(part: Callable[[], object], of: Callable[[], object]) -> None:
    """Show a part that people type into: it stands still until what it is made of changes.

    of: what the part is made of, to be compared; its reading is shared.
    """
    drawn = _reading(of)
    guarded(part)

    def watch() -> None:
        if _reading(of) != drawn:
            st.rerun()

    st.fragment(watch, run_every=REFRESH_SECONDS)()


def _reading(of: Callable[[], object]) -> object:
    try:
        return of()
    except EnrichmentError:
        return None


def refreshed_at(at: datetime) -> None:
    """Of when the figures are, and whether they stand still: the database is away, or nobody is
    at work.
    """
    if cache.is_last_good():
        _stale(at, "the database does not answer, these are the last figures it gave")
    elif (silent := silent_since()) is not None:
        _stale(at, f"no worker has reported since {moment(silent)}")
    else:
        st.badge(_of(at), icon=":material/schedule:", color="gray")


def _of(at: datetime) -> str:
    return f"data as of {moment(at, '%Y-%m-%d %H:%M:%S')}"


def _stale(at: datetime, why: str) -> None:
    st.badge(f"stale · {_of(at)} · {why}", icon=":material/history_toggle_off:", color="orange")


def empty_state(what: str) -> None:
    """What stands where there is nothing to show yet."""
    st.info(what, icon=":material/info:")


def table(
    rows: list[dict[str, Any]] | pd.DataFrame,
    columns: dict[str, Any] | None = None,
    *,
    key: str,
    on_pick: Callable[[int], object] | None = None,
) -> None:
    """Rows as a table that can be sorted, searched and downloaded as CSV.

    picked: told the number of the row that a reader has chosen.
    """
    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows)
    zone = times.zone().key
    moments = {
        name: st.column_config.DatetimeColumn(
            f"{name} ({zone})", format="YYYY-MM-DD HH:mm:ss", timezone=zone
        )
        for name in frame.columns
        if isinstance(frame[name].dtype, pd.DatetimeTZDtype)
    }
    fractions = {
        name: st.column_config.NumberColumn(format="%.5g")
        for name in frame.select_dtypes("float").columns
    }
    st.dataframe(
        _coloured(frame),
        hide_index=True,
        height=min(ROW_PIXELS * (len(frame) + 1) + 3, MAX_TABLE_PIXELS),
        column_config={**moments, **fractions, **(columns or {})},
        placeholder="–",
        key=key,
        on_select="ignore" if on_pick is None else partial(_pick, key, on_pick),
        selection_mode="single-row",
    )


def _pick(key: str, picked: Callable[[int], object]) -> None:
    for row in st.session_state[key]["selection"]["rows"]:
        picked(row)


def _coloured(frame: pd.DataFrame) -> Any:
    """The frame with the words of its states in their colour."""
    columns = frame.columns.intersection(COLOURED_COLUMNS)
    if columns.empty or not 0 < len(frame) <= MAX_COLOURED_ROWS:
        return frame
    return frame.style.map(lambda word: f"color: {COLOURS.get(word, NEUTRAL)}", subset=columns)


def paginator(names: int, size: int, what: str, *, key: str) -> int:
    """The number of the page to show, the first being 0; says which of how many `what` it has."""
    count = max(1, -(-names // size))
    if count == 1:
        return 0
    if (st.session_state.get(key) or 1) > count:
        del st.session_state[key]  # a narrower search has no such page
    with st.container(horizontal=True, vertical_alignment="center"):
        chosen = st.pagination(count, key=key) - 1
        st.caption(f"{what} {chosen * size + 1}–{min(names, (chosen + 1) * size)} of {names:,}")
    return chosen


def rows_shown(key: str, step: int) -> int:
    """How many rows of a list are wanted so far, newest first."""
    return int(st.session_state.get(key, step))


def load_more(key: str, step: int, rows: int) -> None:
    """The way to the rows before these, if there may be any."""
    wanted = rows_shown(key, step)

    def ask() -> None:
        st.session_state[key] = wanted + step

    if rows >= wanted:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f"the newest {rows:,}")
            st.button("Show older", icon=":material/history:", key=f"{key}-more", on_click=ask)


def reason_given(key: str) -> str:
    """What was typed into the reason field of this key."""
    return str(st.session_state.get(key, "")).strip()


def with_reason(
    label: str,
    question: str,
    do: Callable[[str], None],
    *,
    key: str,
    disabled: bool = False,
    icon: str = ":material/gavel:",
) -> None:
    """A button behind a question, which acts only once a reason is given; the audit keeps it."""

    def answered() -> None:
        do(reason_given(f"{key}-reason"))
        st.session_state[f"{key}-asked"] = False
        st.session_state[f"{key}-reason"] = ""

    with st.popover(label, icon=icon, disabled=disabled, key=f"{key}-asked", on_change="rerun"):
        st.markdown(question)
        st.text_input("Reason, kept in the audit", key=f"{key}-reason", max_chars=500)
        given = reason_given(f"{key}-reason")
        st.button(
            f"{label}: yes",
            key=f"{key}-yes",
            type="primary",
            disabled=disabled or not given,
            on_click=answered,
            help=None if given else "Give a reason and press Enter first",
        )


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} %"


def seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def decimal(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
