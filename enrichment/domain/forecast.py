"""When work that vendors' quotas limit will be done, from what is left of it and the recent pace.

>>> polygon = VendorWork("polygon", 100, recent_requests=50, recent_seconds=600, per_minute=5)
>>> round(polygon.seconds_left())
1200
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta

_PRIOR_SECONDS = 180.0  # of an undisturbed quota, by which little that was seen is weighted


@dataclass(frozen=True, slots=True)
class VendorWork:
    """Requests to one vendor that are left, and how fast they were sent lately."""

    vendor: str
    requests_left: float
    recent_requests: int
    recent_seconds: float  # in which these were sent
    per_minute: int | None = None  # the vendor's quota; None for none
    blocked_seconds: float | None = 0.0  # until it may be asked again; None: it is not known
    best_per_minute: float | None = None  # that it has answered in this run; None: nothing yet

    @property
    def pace(self) -> float | None:
        """Requests a minute to be expected; None if nothing is known of it."""
        if self.per_minute is None:
            return 60 * self.recent_requests / self.recent_seconds if self.recent_requests else None
        seconds = self.recent_seconds + _PRIOR_SECONDS
        expected = self.recent_requests + self.per_minute / 60 * _PRIOR_SECONDS
        return min(float(self.per_minute), 60 * expected / seconds)

    @property
    def best_pace(self) -> float | None:
        """Requests a minute if nothing disturbs the vendor any more."""
        paces = [self.best_per_minute or self.per_minute, self.pace]
        best = max((pace for pace in paces if pace), default=None)
        return best if best is None or self.per_minute is None else min(best, self.per_minute)

    def seconds_left(self, *, at_best: bool = False) -> float | None:
        """Until the last request, at the present pace or the best; None if it can't be told.

        A vendor without a quota of which nothing was asked yet is taken to answer at once.
        """
        if self.requests_left <= 0:
            return 0.0
        if self.blocked_seconds is None:
            return None
        pace = self.best_pace if at_best else self.pace
        return self.blocked_seconds + (60 * self.requests_left / pace if pace else 0.0)


def longest(seconds: Iterable[float | None]) -> float | None:
    """The longest of the times; None if one of them can't be told, or there is none."""
    known: Sequence[float | None] = list(seconds)
    return None if not known or None in known else max(s for s in known if s is not None)


def deadline_after(moment: datetime, deadline: time) -> datetime:
    """The first moment at or after this one with that time of day, both UTC.

    >>> from datetime import UTC
    >>> str(deadline_after(datetime(2024, 3, 1, 22, tzinfo=UTC), time(4)))
    '2024-03-02 04:00:00+00:00'
    """
    at = datetime.combine(moment.date(), deadline, moment.tzinfo)
    return at if at >= moment else at + timedelta(days=1)
