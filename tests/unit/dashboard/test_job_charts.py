"""Figures over time, by their JSON."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from enrichment.dashboard.charts import jobs as job_charts

NIGHT = pd.Timestamp("2024-03-01T01:30:00", tz="UTC")


def drawn(figure: Any) -> dict[str, Any]:
    return dict(json.loads(figure.to_json()))


def items(*spans: tuple[float, float], worker: str = "w") -> pd.DataFrame:
    """Symbols S0, S1 … that ran from and to these seconds of the night."""
    return pd.DataFrame(
        {
            "symbol": [f"S{n}" for n in range(len(spans))],
            "worker": worker,
            "status": "completed",
            "started_at": [NIGHT + pd.Timedelta(seconds=start) for start, _ in spans],
            "completed_at": [NIGHT + pd.Timedelta(seconds=end) for _, end in spans],
        }
    )


def test_a_symbol_takes_the_first_thread_that_is_free() -> None:
    placed = job_charts.lanes(items((0, 10), (0, 3), (3, 5), (4, 6), (10, 12)))
    assert list(placed) == ["w · 1", "w · 2", "w · 2", "w · 3", "w · 1"]


def test_each_worker_has_threads_of_its_own() -> None:
    both = pd.concat([items((0, 2)), items((0, 2), worker="v")], ignore_index=True)
    assert list(job_charts.lanes(both)) == ["w · 1", "v · 1"]


@given(
    st.lists(
        st.tuples(st.integers(0, 50), st.integers(1, 20)).map(lambda s: (s[0], s[0] + s[1])),
        min_size=1,
        max_size=30,
    )
)
def test_nothing_overlaps_on_a_thread_and_no_thread_is_wasted(spans: list[tuple[int, int]]) -> None:
    lanes = job_charts.lanes(items(*spans))
    for lane in lanes.unique():
        own = sorted(span for span, at in zip(spans, lanes, strict=True) if at == lane)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(own))
    busiest = max(sum(s <= start < e for s, e in spans) for start, _ in spans)
    assert lanes.nunique() == busiest


def test_bars_are_as_long_as_the_symbols_took() -> None:
    (trace,) = drawn(job_charts.gantt(items((0, 10), (2, 2.5))))["data"]
    assert trace["text"] == ["S0", "S1"]
    assert pd.Series(job_charts.gantt(items((0, 10), (2, 2.5))).data[0].x).tolist() == [10_000, 500]


def test_a_spell_ends_with_the_next_change_of_the_same_breaker() -> None:
    seconds = pd.Timedelta(seconds=1)
    changes = pd.DataFrame(
        {
            "at": [NIGHT + 5 * seconds, NIGHT, NIGHT + 2 * seconds],
            "name": ["polygon", "polygon", "yahoo"],
            "worker": "w",
            "from_state": ["open", "closed", "closed"],
            "to_state": ["half_open", "open", "open"],
            "reason": ["probe", "failures", None],
        }
    )
    spells = job_charts.breaker_states(changes, NIGHT + 60 * seconds)
    polygon = spells[spells["name"] == "polygon · w"]
    assert list(polygon["state"]) == ["open", "half_open"]
    took = (polygon["end"] - polygon["start"]).dt.total_seconds()
    assert list(took) == [5.0, 55.0]
    names = {trace["name"] for trace in drawn(job_charts.breaker_timeline(spells))["data"]}
    assert names == {"open", "half open"}


def test_the_band_is_the_median_and_the_95th_percentile_of_the_jobs_before() -> None:
    jobs = pd.DataFrame(
        {
            "at": [NIGHT + pd.Timedelta(days=n) for n in range(30)],
            "duration_seconds": [float(n) for n in range(30)],
            "kind": "scheduled",
        }
    )
    p95, p50, job = job_charts.durations(jobs).data
    assert p50.y[-1] == pytest.approx(19.5)  # of 10 … 29
    assert p95.y[-1] == pytest.approx(10 + 0.95 * 19)
    assert list(job.y) == list(range(30))


def test_one_day_is_no_wall() -> None:
    days = pd.DataFrame({"date": [NIGHT.floor("D")], "successful": [9], "failed": [1]})
    first, last = drawn(job_charts.outcomes_by_day(days))["layout"]["xaxis"]["range"]
    assert pd.Timestamp(last) - pd.Timestamp(first) == pd.Timedelta(days=14)


def test_threads_stand_in_the_order_of_their_numbers() -> None:
    figure = drawn(job_charts.gantt(items(*[(0, 1)] * 12)))
    shown = figure["layout"]["yaxis"]["categoryarray"][::-1]
    assert shown == [f"w · {number}" for number in range(1, 13)]
