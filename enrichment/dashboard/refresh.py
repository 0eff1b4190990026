"""Parts of a page that are drawn again when their data changes, and how current the page is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.runtime.scriptrunner_utils.script_requests import RerunData

from enrichment.dashboard.data import cache
from enrichment.dashboard.data.cache import live_read
from enrichment.dashboard.services import services
from enrichment.dashboard.times import format_time
from enrichment.domain.errors import EnrichmentError

REFRESH_SECONDS = 2
DRAWN = "drawn"  # in the session state: section → its inputs when it was drawn
_UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Section:
    """A part of a page."""

    key: str
    render: Callable[[], object]
    inputs: Callable[[], object]
    """Reads what the section shows; it is drawn again when this differs by `==`.

    Not of a class that the page itself defines: each run of its script defines another one."""


@live_read
def silent_since() -> datetime | None:
    """The newest heartbeat if no worker is alive; None if one is, or none ever was."""
    return services().reader.silent_since()


def guarded(render: Callable[[], object]) -> bool:
    """Render a part of a page, or a message if the database can't be reached; whether it could."""
    try:
        render()
    except EnrichmentError:
        st.error(
            "**The database does not answer.** This page recovers by itself once the database is "
            "back; no stored data is lost. `enrichment doctor` shows details.",
            icon=":material/cloud_off:",
        )
        return False
    return True


def show(*sections: Section) -> None:
    """How current the page is, then its sections, kept current.

    Their inputs are read every two seconds; sections whose inputs have changed are drawn again.
    """
    st.session_state[DRAWN] = {}
    st.fragment(lambda: _refresh(sections), run_every=REFRESH_SECONDS)()
    for section in sections:
        _draw(section)


def _draw(section: Section) -> None:
    def draw() -> None:
        inputs = _read(section.inputs)
        drawn = guarded(section.render)
        st.session_state[DRAWN][section.key] = inputs if drawn else _UNREADABLE

    st.fragment(draw, key=section.key)()


def _refresh(sections: Sequence[Section]) -> None:
    cache.begin_refresh()
    silent = _read(silent_since)
    inputs = {section.key: _read(section.inputs) for section in sections}
    refreshed_badge(silent if isinstance(silent, datetime) else None)
    drawn = st.session_state[DRAWN]
    changed = [key for key, value in inputs.items() if key in drawn and drawn[key] != value]
    if changed:
        _draw_again(changed)


def _draw_again(keys: Sequence[str]) -> None:
    """Rerun these sections after the current run.

    `st.rerun` accepts keys of fragments in callbacks of widgets only, since elsewhere it would end
    the current run; the request that it makes is the same.
    """
    context = get_script_run_ctx()
    if context is None or context.script_requests is None:
        return
    context.script_requests.request_rerun(
        RerunData(
            query_string=context.query_string,
            page_script_hash=context.page_script_hash,
            fragment_id_queue=context.fragment_storage.resolve_target(keys),
            is_fragment_scoped_rerun=True,
            cached_message_hashes=context.cached_message_hashes,
            context_info=context.context_info,
        )
    )


def _read(inputs: Callable[[], object]) -> object:
    try:
        return inputs()
    except EnrichmentError:
        return _UNREADABLE


def refreshed_badge(silent: datetime | None) -> None:
    """When the figures were current, or why they are stale: no database, or no worker alive."""
    at = cache.refreshed_at()
    if at is None:
        return
    refreshed = format_time(at, "%Y-%m-%d %H:%M:%S")
    if cache.is_last_good():
        reason = "the database does not answer, these are the last known figures"
    elif silent is not None:
        reason = f"no worker has reported since {format_time(silent)}"
    else:
        st.badge(f"Refreshed {refreshed}", icon=":material/schedule:", color="gray")
        return
    st.badge(
        f"Stale · refreshed {refreshed} · {reason}",
        icon=":material/history_toggle_off:",
        color="orange",
    )
