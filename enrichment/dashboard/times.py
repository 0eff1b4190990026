"""Times as people read them: in UTC, or in their browser's zone where they chose so."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pandas as pd
import streamlit as st

LOCAL = "local-time"  # the toggle's key, also in the URL
UTC = ZoneInfo("UTC")


def choice() -> None:
    """The toggle, for all pages: it stays on from page to page, and in the URL."""
    st.toggle(
        "Local time",
        key=LOCAL,
        bind="query-params",
        help=f"Times in your browser's zone, {browser_zone().key}, rather than in UTC",
    )


def browser_zone() -> ZoneInfo:
    """The zone of the browser; UTC where it names none that is known here."""
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def zone() -> ZoneInfo:
    """The zone that this session shows times in."""
    return browser_zone() if st.session_state.get(LOCAL) else UTC


def moment(at: datetime, form: str = "%Y-%m-%d %H:%M", *, named: bool = True) -> str:
    """A timezone-aware time in the session's zone, with the zone's name unless the place has it."""
    return f"{at.astimezone(zone()):{form}{' %Z' if named else ''}}"


def local(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its timezone-aware columns in the session's zone, for charts: Plotly draws
    the wall clock of what it is given.
    """
    aware = [name for name, kind in frame.dtypes.items() if isinstance(kind, pd.DatetimeTZDtype)]
    return frame.assign(**{str(name): frame[name].dt.tz_convert(zone()) for name in aware})


def ago(then: datetime, now: datetime) -> str:
    minutes = int((now - then) / timedelta(minutes=1))
    if minutes < 1:
        return "just now"
    if minutes < 120:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 48 * 60 else f"{minutes // 1440} days ago"
