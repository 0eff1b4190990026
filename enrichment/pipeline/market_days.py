"""Which days of a whole market are fetched with one request each, in place of one a symbol.

Each daily series of a job needs the days from some moment on. The newest k days of the market cost
k requests, and serve all series that need nothing before them; each other series costs one.

>>> days = np.arange("2024-03-01", "2024-03-29", dtype="datetime64[D]").astype("datetime64[us]")
>>> needed_from = np.repeat(days[[0, -3]], [2, 500])  # two series are weeks behind
>>> cheapest_days(needed_from, days).astype("datetime64[D]").astype(str).tolist()
['2024-03-26', '2024-03-27', '2024-03-28']
"""

from __future__ import annotations

import numpy as np

from enrichment.domain.bars import Timestamps


def cheapest_days(needed_from: Timestamps, sessions: Timestamps) -> Timestamps:
    """The sessions to fetch whole so that all series together cost the fewest requests.

    Args:
        needed_from: Start of what each series needs, shape (n,).
        sessions: Starts of the market's ended sessions, ascending, from the earliest need on.

    Returns:
        The newest of the sessions; none if one request a series is not dearer.
    """
    needed = len(sessions) - np.searchsorted(sessions, needed_from)  # days of each series
    days = np.arange(len(sessions) + 1)
    singly = len(needed) - np.searchsorted(np.sort(needed), days, side="right")
    return sessions[len(sessions) - int((days + singly).argmin()) :]
