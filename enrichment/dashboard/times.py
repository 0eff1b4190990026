"""Times in UTC, or in the browser's time zone when the user has switched to it."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pandas as pd
import streamlit as st

from enrichment.domain.model import Timeframe

LOCAL_TIME = "local-time"  # the toggle's key, also in the URL
UTC = ZoneInfo("UTC")


def local_time_toggle() -> None:
    """The toggle, kept from page to page and in the URL."""
    st.toggle(
        "Local time",
        key=LOCAL_TIME,
        bind="query-params",
        help=f"Times in your browser's time zone, {browser_zone().key}, instead of UTC",
    )


def browser_zone() -> ZoneInfo:
    """The browser's time zone; UTC if it names none that is known here."""
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def display_zone() -> ZoneInfo:
    """The time zone in which this session shows times."""
    return browser_zone() if st.session_state.get(LOCAL_TIME) else UTC


def format_time(at: datetime, form: str = "%Y-%m-%d %H:%M", *, with_zone: bool = True) -> str:
    """A timezone-aware time in the session's zone, followed by the zone's name.

    Args:
        at: The time.
        form: A `strftime` format.
        with_zone: False where the zone is named elsewhere.
    """
    return f"{at.astimezone(display_zone()):{form}{' %Z' if with_zone else ''}}"


def bar_time(start: datetime | None, timeframe: str) -> str:
    """The start of a bar: a date for daily and weekly bars, in every zone; else a time."""
    if start is None:
        return "–"
    if not Timeframe(timeframe).intraday:
        return f"{start.astimezone(UTC):%Y-%m-%d}"
    return format_time(start)


def to_display_zone(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its timezone-aware columns in the session's zone, for Plotly, which draws
    wall-clock times.
    """
    aware = [name for name, kind in frame.dtypes.items() if isinstance(kind, pd.DatetimeTZDtype)]
    return frame.assign(**{str(name): frame[name].dt.tz_convert(display_zone()) for name in aware})
