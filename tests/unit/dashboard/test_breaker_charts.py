"""The breakers' states over time."""

from __future__ import annotations

import pandas as pd

from enrichment.dashboard.charts import breakers

NIGHT = pd.Timestamp("2024-03-01T01:30:00", tz="UTC")


def test_an_interval_ends_with_the_next_transition_of_the_same_breaker() -> None:
    seconds = pd.Timedelta(seconds=1)
    transitions = pd.DataFrame(
        {
            "at": [NIGHT + 5 * seconds, NIGHT, NIGHT + 2 * seconds],
            "name": ["polygon", "polygon", "yahoo"],
            "worker": "w",
            "from_state": ["open", "closed", "closed"],
            "to_state": ["half_open", "open", "open"],
            "reason": ["probe", "failures", None],
        }
    )
    intervals = breakers.state_intervals(transitions, NIGHT + 60 * seconds)
    polygon = intervals[intervals["name"] == "polygon · w"]
    assert list(polygon["state"]) == ["open", "half_open"]
    took = (polygon["end"] - polygon["start"]).dt.total_seconds()
    assert list(took) == [5.0, 55.0]
    names = {trace.name for trace in breakers.breaker_timeline(intervals).data}
    assert names == {"open", "half open"}
