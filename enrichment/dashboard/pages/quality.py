"""Data quality: which data can be trusted, and why the rest can't."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd
import streamlit as st

from enrichment.dashboard.charts import quality
from enrichment.dashboard.components import (
    auto_refresh,
    empty_state,
    load_more,
    refreshed_at,
    rows_shown,
    table,
)
from enrichment.dashboard.data.cache import cached_read
from enrichment.dashboard.services import services
from enrichment.warehouse.read_models.audit_log import CorrectedValue
from enrichment.warehouse.read_models.quality_all import DayOfQuality, GapsOfMonth, SeriesQuality

CORRECTIONS = 200
SCORED = 2000
WORST = 20


@cached_read
def read() -> tuple[list[DayOfQuality], list[SeriesQuality], list[GapsOfMonth], pd.Timestamp]:
    overview = services().reader.quality_overview
    return overview.days(), overview.worst(SCORED), overview.gaps(), pd.Timestamp.now(tz="UTC")


@cached_read
def corrected(limit: int) -> list[CorrectedValue]:
    return services().reader.journal.corrections(limit)


def page() -> None:
    """Scores over time and now, the worst series, gaps, corrections."""
    days, scored, gaps, now = read()
    corrections = corrected(rows_shown("corrected", CORRECTIONS))
    refreshed_at(now.to_pydatetime())
    if not scored:
        empty_state("No series has been scored within the last week.")
    else:
        scores(days, scored)
        worst(scored[:WORST])
    missing(gaps)
    restated(corrections)


def scores(days: list[DayOfQuality], scored: list[SeriesQuality]) -> None:
    left, right = st.columns(2)
    with left:
        st.subheader("Score by day")
        frame = pd.DataFrame([asdict(day) for day in days])
        st.plotly_chart(quality.trend(frame), key="trend")
    with right:
        st.subheader("Series by score")
        found = pd.Series([series.score for series in scored])
        st.plotly_chart(quality.distribution(found), key="distribution")
        if len(scored) == SCORED:
            st.caption(f"the {SCORED} lowest")


def worst(found: list[SeriesQuality]) -> None:
    st.subheader(f"What the lowest {len(found)} scores are made of")
    frame = pd.DataFrame([asdict(series) for series in found])
    frame["name"] = frame["symbol"] + " " + frame["timeframe"]
    left, right = st.columns(2)
    with left:
        st.plotly_chart(quality.components(frame), key="components")
    with right:
        rows = [
            {
                "series": f"{series.symbol} {series.timeframe}",
                "score": series.score,
                "status": series.status.replace("_", " "),
                "why": "; ".join(series.reasons),
            }
            for series in found
        ]
        score = st.column_config.ProgressColumn(format="%.3f", min_value=0.0, max_value=1.0)
        why = st.column_config.TextColumn(width="large")
        table(rows, {"score": score, "why": why}, key="worst")


def missing(gaps: list[GapsOfMonth]) -> None:
    st.subheader("Bars that are missing")
    if not gaps:
        st.success("No open gaps.", icon=":material/check_circle:")
        return
    frame = pd.DataFrame([asdict(gap) for gap in gaps])
    frame["name"] = frame["symbol"] + " " + frame["timeframe"]
    st.plotly_chart(quality.gap_map(frame), key="gaps")
    with st.expander("As a table"):
        table(frame[["name", "month", "missing"]], key="missing")


def restated(corrections: list[CorrectedValue]) -> None:
    st.subheader("What vendors restated")
    if not corrections:
        empty_state("No vendor has restated a stored bar yet.")
        return
    rows = [
        {
            "found": value.corrected_at,
            "series": f"{value.symbol} {value.timeframe}",
            "bar": value.ts,
            "field": value.field,
            "old": value.old_value,
            "new": value.new_value,
            "reason": value.reason.replace("_", " "),
            "source": value.source,
        }
        for value in corrections
    ]
    table(rows, key="corrections")
    load_more("corrected", CORRECTIONS, len(rows))


st.title("Data quality")
auto_refresh(page)
