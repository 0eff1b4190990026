"""Job charts: the threads of a Gantt chart, and what each figure shows."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enrichment.dashboard.charts import jobs as job_charts

NIGHT = pd.Timestamp("2024-03-01T01:30:00", tz="UTC")


def as_json(figure: Any) -> dict[str, Any]:
    return dict(json.loads(figure.to_json()))


def items(*spans: tuple[float, float], worker: str = "w") -> pd.DataFrame:
    """Symbols S0, S1, …; spans: when each started and ended, in seconds after NIGHT."""
    return pd.DataFrame(
        {
            "symbol": [f"S{n}" for n in range(len(spans))],
            "worker": worker,
            "status": "completed",
            "thread": pd.Series([None] * len(spans), dtype="Int64"),
            "begun_at": [NIGHT + pd.Timedelta(seconds=start) for start, _ in spans],
            "ended_at": [NIGHT + pd.Timedelta(seconds=end) for _, end in spans],
        }
    )


def test_without_recorded_threads_a_span_is_on_the_first_free_row() -> None:
    rows = job_charts.stack_spans(items((0, 10), (0, 3), (3, 5), (4, 6), (10, 12)))
    assert list(rows) == [1, 2, 2, 3, 1]


def test_rows_are_numbered_per_worker() -> None:
    both = pd.concat([items((0, 2)), items((0, 2), worker="v")], ignore_index=True)
    assert list(job_charts.stack_spans(both)) == [1, 1]


@settings(deadline=None)  # frames are slow on a busy machine
@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(1, 20)).map(lambda s: (s[0], s[0] + s[1])),
        min_size=1,
        max_size=30,
    )
)
def test_spans_of_a_row_do_not_overlap_and_rows_are_as_few_as_possible(
    spans: list[tuple[int, int]],
) -> None:
    rows = job_charts.stack_spans(items(*spans))
    for row in rows.unique():
        own = sorted(span for span, at in zip(spans, rows, strict=True) if at == row)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(own))
    most_at_once = max(sum(s <= start < e for s, e in spans) for start, _ in spans)
    assert rows.nunique() == most_at_once


def test_bars_are_as_long_as_the_items_took() -> None:
    (trace,) = as_json(job_charts.gantt(items((0, 10), (2, 2.5))))["data"]
    assert trace["text"] == ["S0", "S1"]
    assert pd.Series(job_charts.gantt(items((0, 10), (2, 2.5))).data[0].x).tolist() == [10_000, 500]


def test_the_band_shows_the_rolling_median_and_95th_percentile() -> None:
    jobs = pd.DataFrame(
        {
            "at": [NIGHT + pd.Timedelta(days=n) for n in range(30)],
            "seconds": [float(n) for n in range(30)],
            "kind": "scheduled",
        }
    )
    p95, p50, job = job_charts.durations(jobs).data
    assert p50.y[-1] == pytest.approx(19.5)  # of 10 … 29
    assert p95.y[-1] == pytest.approx(10 + 0.95 * 19)
    assert list(job.y) == list(range(30))


def test_an_axis_of_one_day_has_room_for_two_weeks() -> None:
    days = pd.DataFrame({"date": [NIGHT.floor("D")], "successful": [9], "failed": [1]})
    first, last = as_json(job_charts.outcomes_by_day(days))["layout"]["xaxis"]["range"]
    assert pd.Timestamp(last) - pd.Timestamp(first) == pd.Timedelta(days=14)


def lanes(frame: pd.DataFrame) -> list[str]:
    return list(as_json(job_charts.gantt(frame))["layout"]["yaxis"]["categoryarray"][::-1])


def test_lanes_are_the_recorded_threads_in_numerical_order() -> None:
    used = items(*[(0, 1)] * 12).assign(thread=range(12, 0, -1))
    assert lanes(used) == [f"w · thread {number}" for number in range(1, 13)]


def test_spans_without_a_thread_are_on_lanes_that_say_so() -> None:
    spans = items((0, 2), (1, 3), (0, 4)).assign(thread=pd.Series([None, None, 1], dtype="Int64"))
    unknown = [f"w · thread not recorded, row {number}" for number in (1, 2)]
    assert lanes(spans) == ["w · thread 1", *unknown]


def history(count: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "label": [f"03-{day + 1:02} 01:30:00" for day in range(count)],
            "successful": [10 - day % 3 for day in range(count)],
            "failed": [day % 3 for day in range(count)],
            "seconds": [1.5 * day for day in range(count)],
            "kind": ["scheduled"] * count,
        }
    )


def test_outcomes_are_stacked_per_job() -> None:
    figure = as_json(job_charts.job_outcomes(history(5)))
    assert [bar["name"] for bar in figure["data"]] == ["successful", "failed"]
    assert figure["layout"]["barmode"] == "stack"
    assert figure["layout"]["yaxis"]["title"]["text"] == "symbols"
    assert "symbols failed" in figure["data"][1]["hovertemplate"]


def test_an_axis_of_one_job_has_room_for_more() -> None:
    figure = as_json(job_charts.job_outcomes(history(1)))
    assert figure["layout"]["xaxis"]["range"] == [-0.5, job_charts.MIN_JOBS - 0.5]
    many = as_json(job_charts.job_outcomes(history(28)))
    assert many["layout"]["xaxis"]["range"] == [-0.5, 27.5]
