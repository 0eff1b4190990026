"""Data quality: scores over time and now, missing bars, and vendor corrections."""

from __future__ import annotations

from dataclasses import asdict

import pandas as pd
import streamlit as st

from enrichment.dashboard.charts import quality
from enrichment.dashboard.components import (
    SCORE,
    WIDE_TEXT,
    empty_state,
    load_more,
    row_limit,
    table,
)
from enrichment.dashboard.data.cache import cached_read
from enrichment.dashboard.data.quality import series_frame
from enrichment.dashboard.formatting import label
from enrichment.dashboard.refresh import auto_refresh, refreshed_badge
from enrichment.dashboard.services import services
from enrichment.warehouse.read_models.audit_log import CorrectedValue
from enrichment.warehouse.read_models.quality_all import DayOfQuality, GapsOfMonth, SeriesQuality

CORRECTIONS = 200
SCORES = 2000
LOWEST_SCORES = 20


@cached_read
def read_quality() -> tuple[
    list[DayOfQuality], list[SeriesQuality], list[GapsOfMonth], pd.Timestamp
]:
    """Scores by day, series by score (lowest first), gaps by month, and when it was read."""
    overview = services().reader.quality_all
    return overview.days(), overview.worst(SCORES), overview.gaps(), pd.Timestamp.now(tz="UTC")


@cached_read
def read_corrections(limit: int) -> list[CorrectedValue]:
    return services().reader.audit_log.corrections(limit)


def quality_sections() -> None:
    days, series, gaps, now = read_quality()
    corrections = read_corrections(row_limit("corrections-limit", CORRECTIONS))
    refreshed_badge(now.to_pydatetime())
    if not series:
        empty_state("No series has been scored in the last week.")
    else:
        score_charts(days, series)
        lowest_scores(series[:LOWEST_SCORES])
    missing_bars(gaps)
    vendor_corrections(corrections)


def score_charts(days: list[DayOfQuality], series: list[SeriesQuality]) -> None:
    left, right = st.columns(2)
    with left:
        st.subheader("Score by day")
        frame = pd.DataFrame([asdict(day) for day in days])
        st.plotly_chart(quality.trend(frame), key="trend")
    with right:
        st.subheader("Series by score")
        scores = pd.Series([one.score for one in series])
        st.plotly_chart(quality.distribution(scores), key="distribution")
        if len(series) == SCORES:
            st.caption(f"the {SCORES} lowest scores")


def lowest_scores(lowest: list[SeriesQuality]) -> None:
    st.subheader(f"Components of the {len(lowest)} lowest scores")
    frame = series_frame(lowest)
    left, right = st.columns(2)
    with left:
        st.plotly_chart(quality.components(frame), key="components")
    with right:
        rows = frame.assign(series=frame["name"], why=frame["reasons"].map("; ".join))
        columns = {"score": SCORE, "why": WIDE_TEXT}
        table(rows[["series", "score", "status", "why"]], columns, key="lowest")


def missing_bars(gaps: list[GapsOfMonth]) -> None:
    st.subheader("Missing bars")
    if not gaps:
        st.success("No open gaps.", icon=":material/check_circle:")
        return
    frame = series_frame(gaps)
    st.plotly_chart(quality.gap_map(frame), key="gaps")
    with st.expander("Missing bars as a table"):
        table(frame[["name", "month", "missing"]], key="missing")


def vendor_corrections(corrections: list[CorrectedValue]) -> None:
    st.subheader("Vendor corrections")
    if not corrections:
        empty_state("No vendor has corrected a stored bar yet.")
        return
    rows = [
        {
            "corrected": value.corrected_at,
            "series": f"{value.symbol} {value.timeframe}",
            "bar": value.ts,
            "field": value.field,
            "old": value.old_value,
            "new": value.new_value,
            "reason": label(value.reason),
            "provider": value.source,
        }
        for value in corrections
    ]
    table(rows, key="corrections")
    load_more("corrections-limit", CORRECTIONS, len(rows))


st.title("Data quality")
auto_refresh(quality_sections)
