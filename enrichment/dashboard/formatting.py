"""Identifiers, figures and durations as text."""

from __future__ import annotations

from datetime import datetime, timedelta

from enrichment.domain.model import is_simulated
from enrichment.domain.plurals import rounded_down
from enrichment.vendors.registry import VENDORS


def label(identifier: str) -> str:
    """The text for an identifier such as a state."""
    return identifier.replace("_", " ")


def percent(value: float | None) -> str:
    """Rounded down, but not to 0."""
    if value is None:
        return "–"
    return "< 0.1 %" if 0.0 < value < 0.1 else f"{rounded_down(value, 1)} %"


def seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def age(then: datetime, now: datetime) -> str:
    minutes = int((now - then) / timedelta(minutes=1))
    if minutes < 1:
        return "just now"
    if minutes < 120:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 48 * 60 else f"{minutes // 1440} days ago"


def time_until(then: datetime, now: datetime) -> str:
    minutes = max(0, int((then - now) / timedelta(minutes=1)))
    return f"{minutes // 60} h {minutes % 60:02} min"


def provider_text(symbol: str, source: str | None) -> str:
    """Where a series comes from, as the tables show it."""
    if source is None:
        return "–"
    shown = VENDORS.source_text(symbol, source)
    return f"{shown} (simulated)" if is_simulated(symbol) else shown
