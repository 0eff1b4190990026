"""Data quality: scores over time and now, findings and missing bars, and vendor corrections."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd
import streamlit as st

from enrichment.dashboard.charts import quality
from enrichment.dashboard.components import (
    EXACT,
    SCORE,
    WIDE_TEXT,
    empty_state,
    load_more,
    row_limit,
    table,
)
from enrichment.dashboard.data.cache import cached_read
from enrichment.dashboard.data.quality import QualityData, read_quality, series_frame
from enrichment.dashboard.formatting import label
from enrichment.dashboard.navigation import open_selected_series, select_series
from enrichment.dashboard.refresh import Section, show
from enrichment.dashboard.services import services
from enrichment.dashboard.times import bar_time
from enrichment.domain.model import Timeframe
from enrichment.domain.plurals import counted
from enrichment.domain.statuses import FindingKind, GapCause
from enrichment.pipeline.validation import CHECKS
from enrichment.warehouse.read_models.audit_log import CorrectedValue
from enrichment.warehouse.read_models.findings import (
    Filter,
    FindingsPage,
    Flag,
    MissingBar,
    RejectedBar,
)

CORRECTIONS = 200
FINDINGS = 200
LOWEST_SCORES = 20
GAP_SERIES = 20
LISTS = {
    FindingKind.FLAGS: "Flags",
    FindingKind.QUARANTINE: "Rejected bars",
    FindingKind.GAPS: "Missing bars",
}


@cached_read
def read_corrections(limit: int) -> tuple[list[CorrectedValue], int]:
    """The newest corrections, and how many there are."""
    audit_log = services().reader.audit_log
    return audit_log.corrections(limit), audit_log.count_corrections()


@cached_read
def read_findings(kind: FindingKind, limit: int, which: Filter) -> FindingsPage[Any]:
    return services().reader.findings.of_kind(kind, limit, which)


def quality_data() -> QualityData:
    return read_quality(
        row_limit("lowest-limit", LOWEST_SCORES), row_limit("gaps-limit", GAP_SERIES)
    )


def shown_findings() -> FindingsPage[Any]:
    """Those that the filters select."""
    state = st.session_state
    which = Filter(timeframe=state.get("finding-timeframe"), kind=state.get("finding-kind"))
    return read_findings(selected_list(), row_limit("findings-limit", FINDINGS), which)


def finding_inputs() -> object:
    page = shown_findings()
    return page.rows, page.total


def selected_list() -> FindingKind:
    return FindingKind(st.session_state.get("finding-list") or FindingKind.FLAGS)


def corrected_values() -> tuple[list[CorrectedValue], int]:
    return read_corrections(row_limit("corrections-limit", CORRECTIONS))


def quality_sections() -> None:
    data = quality_data()
    if not data.lowest:
        empty_state("No series has been scored in the last week.")
    else:
        score_charts(data)
        lowest_scores(data)
    missing_bars(data)


def score_charts(data: QualityData) -> None:
    left, right = st.columns(2)
    with left:
        st.subheader("Score by day")
        frame = pd.DataFrame([asdict(day) for day in data.days])
        st.plotly_chart(quality.trend(frame), key="trend")
        st.caption("Of the series that were enriched on the day; others are left out.")
    with right:
        st.subheader("Series by score")
        st.plotly_chart(quality.distribution(pd.Series(data.scores)), key="distribution")
        unscored = max(0, data.series - len(data.scores))
        st.caption(
            f"{len(data.scores):,} of {counted(data.series, 'series', 'series')}; "
            f"{unscored:,} have had no score in the last week and are left out."
        )


def lowest_scores(data: QualityData) -> None:
    lowest = data.lowest
    st.subheader(f"Components of the {len(lowest)} lowest scores")
    frame = series_frame(lowest)
    left, right = st.columns(2)
    with left:
        st.plotly_chart(quality.components(frame), key="components")
    with right:
        rows = frame.assign(series=frame["name"], why=[one.cause for one in lowest])
        columns = {"score": SCORE, "why": WIDE_TEXT}
        table(
            rows[["series", "score", "status", "why"]],
            columns,
            key="lowest",
            on_select=lambda row: select_series(lowest[row].symbol, lowest[row].timeframe),
        )
        load_more("lowest-limit", LOWEST_SCORES, len(lowest), len(data.scores), "the lowest")


def missing_bars(data: QualityData) -> None:
    st.subheader("Missing bars by month")
    if not data.gaps:
        st.success("No open gaps.", icon=":material/check_circle:")
        return
    frame = series_frame(data.gaps)
    st.plotly_chart(quality.gap_map(frame), key="gaps")
    with st.expander("Missing bars by month as a table"):
        table(frame[["name", "month", "missing"]], key="missing")
    shown = frame["name"].nunique()
    load_more("gaps-limit", GAP_SERIES, shown, data.series_with_gaps, "series with most gaps:")


def finding_filters() -> None:
    """Which findings are listed."""
    st.subheader("Flagged, rejected and missing bars")
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.segmented_control(
            "List",
            list(LISTS),
            default=FindingKind.FLAGS,
            key="finding-list",
            format_func=LISTS.__getitem__,
        )
        kinds = [cause.value for cause in GapCause] if kind == FindingKind.GAPS else list(CHECKS)
        name = "Cause" if kind == FindingKind.GAPS else "Check"
        st.selectbox(name, kinds, None, label, key="finding-kind", placeholder="any", width=220)
        timeframes = [timeframe.value for timeframe in Timeframe]
        st.selectbox(
            "Timeframe", timeframes, None, key="finding-timeframe", placeholder="any", width=140
        )


def finding_table() -> None:
    """The findings of all symbols; a row opens its symbol."""
    open_selected_series()
    finding_filters()
    page = shown_findings()
    if not page.rows:
        empty_state("No bar matches.")
        return
    rows = page.rows
    table(
        [finding_row(row) for row in rows],
        {"why": WIDE_TEXT},
        key=f"findings-{selected_list()}",
        on_select=lambda row: select_series(rows[row].symbol, rows[row].timeframe),
    )
    load_more("findings-limit", FINDINGS, len(rows), page.total)


def finding_row(row: Flag | RejectedBar | MissingBar) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "symbol": row.symbol,
        "timeframe": row.timeframe,
        "bar": bar_time(row.timestamp, row.timeframe),
    }
    if isinstance(row, MissingBar):
        shown |= {"cause": label(row.cause), "why": row.error, "attempts": row.attempts}
    else:
        shown |= {"check": row.check, "why": row.detail}
    if isinstance(row, Flag):
        shown["severity"] = row.severity
    if isinstance(row, RejectedBar):
        shown |= {"provider": row.source, "as sent": str(dict(row.bar))}
    return {**shown, "found": row.found_at}


def vendor_corrections() -> None:
    corrections, total = corrected_values()
    st.subheader("Vendor corrections")
    if not corrections:
        empty_state("No vendor has corrected a stored bar yet.")
        return
    rows = [
        {
            "corrected": value.corrected_at,
            "series": f"{value.symbol} {value.timeframe}",
            "bar": bar_time(value.ts, value.timeframe),
            "field": value.field,
            "old": value.old_value,
            "new": value.new_value,
            "reason": label(value.reason),
            "provider": value.source,
        }
        for value in corrections
    ]
    table(rows, {"old": EXACT, "new": EXACT}, key="corrections")
    load_more("corrections-limit", CORRECTIONS, len(rows), total)


st.title("Data quality")
show(
    Section("quality", quality_sections, quality_data),
    Section("vendor-corrections", vendor_corrections, corrected_values),
    Section("findings", finding_table, finding_inputs),
)
