import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from enrichment.pipeline.market_days import cheapest_days

FIRST = np.datetime64("2024-01-01", "us")
DAY = np.timedelta64(1, "D")


@given(
    st.sets(st.integers(0, 40), max_size=25), st.lists(st.integers(-3, 45), max_size=40).map(sorted)
)
def test_no_other_number_of_days_costs_less(sessions: set[int], needs: list[int]) -> None:
    ordered = sorted(sessions)

    def requests(days: int) -> int:
        whole = ordered[len(ordered) - days :]
        return days + sum(any(s >= need and s not in whole for s in ordered) for need in needs)

    chosen = cheapest_days(FIRST + np.array(needs, int) * DAY, FIRST + np.array(ordered, int) * DAY)
    assert (
        chosen.tolist()
        == (FIRST + np.array(ordered, int) * DAY)[len(ordered) - len(chosen) :].tolist()
    )
    best = min(map(requests, range(len(ordered) + 1)))
    assert requests(len(chosen)) == best
    assert len(chosen) == 0 or requests(len(chosen) - 1) > best  # no more days than it takes
