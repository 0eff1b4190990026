"""Elements that the pages share: tables, selections, and buttons that ask for a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from enrichment.dashboard.auth import is_operator
from enrichment.dashboard.charts import theme
from enrichment.dashboard.formatting import label
from enrichment.dashboard.times import display_zone
from enrichment.domain.errors import EnrichmentError
from enrichment.domain.escape import for_csv, for_markdown, for_terminal

ROW_PIXELS = 35
MAX_TABLE_PIXELS = 560
MAX_COLOURED_ROWS = 150  # styling more rows takes longer than reading them
STATE_COLUMNS = ["status", "state", "breaker", "from_state", "to_state"]
SCORE = st.column_config.ProgressColumn(format="%.3f", min_value=0.0, max_value=1.0)
WIDE_TEXT = st.column_config.TextColumn(width="large")
BAR = st.column_config.TextColumn(width=150)
PROVIDER = st.column_config.TextColumn(width=200)
EXACT = st.column_config.NumberColumn(format="%.15g")  # prices and volumes: every digit
SECONDS = st.column_config.NumberColumn(format="%.2f")


def run_command(command: Callable[[], object], success: str) -> None:
    """Run a command in a button's callback; show `success`, or the error's message, as a toast."""
    try:
        command()
        st.toast(for_markdown(success), icon=":material/check:")
    except EnrichmentError as exc:
        st.toast(for_markdown(str(exc)), icon=":material/error:")
    st.cache_data.clear()


def empty_state(message: str) -> None:
    """A message in the place of data that does not exist yet."""
    st.info(message, icon=":material/info:")


def coloured(text: str, state: str) -> str:
    """Markdown for text in the colour of a state."""
    return f":{theme.MARKDOWN_COLOURS[theme.state_colour(state)]}[{text}]"


def select(title: str, options: Mapping[str, str], *, key: str, width: int | None = None) -> str:
    """A selectbox for options with an id and a label: returns the selected id, at first that of
    the first option, and keeps it in the session state under `key`.

    The browser reports a selection by its label. A label that has changed since then (a job's
    state, the time zone) would arrive as the value of the widget, so the id is kept apart from it.
    """
    widget, ids = f"{key}-select", list(options)

    def on_change() -> None:
        if st.session_state[widget] in ids:
            st.session_state[key] = st.session_state[widget]

    if st.session_state.get(key) not in ids:
        st.session_state[key] = ids[0]
    st.session_state[widget] = st.session_state[key]
    st.selectbox(
        title,
        ids,
        format_func=lambda option: options.get(option, option),
        key=widget,
        on_change=on_change,
        width=width or "stretch",
    )
    return str(st.session_state[key])


def table(
    rows: list[dict[str, Any]] | pd.DataFrame,
    columns: Mapping[str, Any] | None = None,
    *,
    key: str,
    on_select: Callable[[int], object] | None = None,
) -> None:
    """Rows as a table that can be sorted, searched and downloaded as CSV.

    States are shown as text in their colour.

    Args:
        rows: One dictionary per row, or a frame.
        columns: Column → its Streamlit configuration, if not the default.
        key: Of the table's session state.
        on_select: Called with the position of the selected row.
    """
    frame = _harmless(rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows))
    zone = display_zone().key
    times = {
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
        _with_state_labels(frame),
        hide_index=True,
        height=min(ROW_PIXELS * (len(frame) + 1) + 3, MAX_TABLE_PIXELS),
        column_config={**times, **fractions, **(columns or {})},
        placeholder="–",
        key=key,
        on_select="ignore" if on_select is None else partial(_selected, key, on_select),
        selection_mode="single-row",
    )


def _selected(key: str, on_select: Callable[[int], object]) -> None:
    for row in st.session_state[key]["selection"]["rows"]:
        on_select(row)


def _harmless(frame: pd.DataFrame) -> pd.DataFrame:
    """Without control characters, and without formulas for those who download it as CSV."""

    def shown(cell: object) -> object:
        return for_csv(for_terminal(cell)) if isinstance(cell, str) else cell

    texts = frame.select_dtypes(["object", "string"]).columns
    return frame.assign(**{str(name): frame[name].map(shown) for name in texts})


def _with_state_labels(frame: pd.DataFrame) -> Any:
    columns = frame.columns.intersection(STATE_COLUMNS)
    if columns.empty or frame.empty:
        return frame
    labels = {str(name): frame[name].map(label, na_action="ignore") for name in columns}
    labelled = frame.assign(**labels)
    if len(frame) > MAX_COLOURED_ROWS:
        return labelled
    css = frame[columns].map(lambda state: f"color: {theme.text_colour(state)}")
    return labelled.style.apply(lambda _: css, axis=None, subset=columns)


def paginator(count: int, page_size: int, noun: str, *, key: str) -> int:
    """A choice of pages, captioned like 'symbols 1–100 of 1,000'; the page's number, from 0."""
    pages = max(1, -(-count // page_size))
    if pages == 1:
        return 0
    if (st.session_state.get(key) or 1) > pages:
        del st.session_state[key]  # a narrower search has fewer pages
    with st.container(horizontal=True, vertical_alignment="center"):
        page = st.pagination(pages, key=key) - 1
        last = min(count, (page + 1) * page_size)
        st.caption(f"{noun} {page * page_size + 1}–{last} of {count:,}")
    return page


def row_limit(key: str, step: int) -> int:
    """How many rows of a list to read, newest first: `step`, and as many again per 'Load more'."""
    return int(st.session_state.get(key, step))


def load_more(
    key: str, step: int, rows: int, total: int | None = None, order: str = "the newest"
) -> None:
    """How many rows of a list are shown, and a button that raises its `row_limit`, if there may be
    more.

    Args:
        key: Of the row limit.
        step: Rows that are added.
        rows: Rows that are shown.
        total: Rows that there are, if that is known.
        order: Which of them are shown.
    """
    limit = row_limit(key, step)

    def raise_limit() -> None:
        st.session_state[key] = limit + step

    if total is not None and total <= rows:
        st.caption(f"{rows:,} of {total:,}")
    elif rows >= limit:
        of = "" if total is None else f" of {total:,}"
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f"{order} {rows:,}{of}")
            st.button(
                "Load more", icon=":material/history:", key=f"{key}-more", on_click=raise_limit
            )


def action_button(title: str, **options: Any) -> None:
    """A button that makes a change, for operators only; options are those of `st.button`."""
    if is_operator():
        st.button(title, **options)


def button_with_reason(
    title: str,
    explanation: str,
    action: Callable[[str], None],
    *,
    key: str,
    disabled: bool = False,
    icon: str = ":material/gavel:",
    preview: Callable[[], Sequence[str]] = tuple,
) -> None:
    """A button that asks for a reason, for the audit log, and calls the action with it.

    Like `action_button`, it is there for operators only. preview: sentences on what the action will
    do, read when the button's form is open.
    """
    if not is_operator():
        return
    reason_key = f"{key}-reason"

    def confirm() -> None:
        action(_reason(reason_key))
        st.session_state[f"{key}-open"] = False
        st.session_state[reason_key] = ""

    with st.popover(title, icon=icon, disabled=disabled, key=f"{key}-open", on_change="rerun"):
        st.markdown(explanation)
        if st.session_state.get(f"{key}-open"):
            sentences(preview())
        st.text_input("Reason (kept in the audit log)", key=reason_key, max_chars=500)
        reason = _reason(reason_key)
        st.button(
            f"Confirm: {title}",
            key=f"{key}-confirm",
            type="primary",
            disabled=disabled or not reason,
            on_click=confirm,
            help=None if reason else "Enter a reason first",
        )


def sentences(texts: Sequence[str]) -> None:
    """Small print, a line each."""
    for text in texts:
        st.caption(for_markdown(text))


def _reason(key: str) -> str:
    return str(st.session_state.get(key, "")).strip()
