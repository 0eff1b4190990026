"""Sliding windows over the outcomes of calls, by count or by time.

>>> window = CountWindow(size=2)
>>> for failed in (True, False, False):
...     window.add(now=0, failed=failed, slow=False)
>>> window.total, window.failures
(2, 0)
"""

from __future__ import annotations

from collections import deque


class CountWindow:
    """The last `size` outcomes.

    Attributes:
        total: Number of outcomes in the window.
        failures: Number of failures among them.
        slow: Number of slow calls among them.
        saturated: Whether it is full and holds only fast successes.
    """

    __slots__ = ("_outcomes", "_size", "failures", "saturated", "slow", "total")

    def __init__(self, size: int) -> None:
        self.total = self.failures = self.slow = 0
        self.saturated = False
        self._size = size
        self._outcomes: deque[tuple[bool, bool]] = deque()

    def add(self, now: int, failed: bool, slow: bool) -> None:
        """Add an outcome; a full window drops its oldest one."""
        self._outcomes.append((failed, slow))
        self.failures += failed
        self.slow += slow
        if self.total < self._size:
            self.total += 1
        else:
            old_failed, old_slow = self._outcomes.popleft()
            self.failures -= old_failed
            self.slow -= old_slow
            self.saturated = not (self.failures or self.slow)

    def expire(self, now: int) -> None:
        """Do nothing: outcomes are dropped by count only."""


class TimeWindow:
    """The outcomes later than now - `span` (ns), with the attributes of CountWindow."""

    __slots__ = ("_entries", "_grain", "_span", "failures", "saturated", "slow", "total")

    def __init__(self, span: int) -> None:
        self.total = self.failures = self.slow = 0
        self.saturated = False
        # Outcomes within a thousandth of the span share an entry, which bounds the memory.
        self._span, self._grain = span, span // 1000
        self._entries: deque[list[int]] = deque()  # [first time, outcomes, failures, slow]

    def add(self, now: int, failed: bool, slow: bool) -> None:
        """Add an outcome of time `now` (ns)."""
        entries = self._entries
        if entries and now - entries[0][0] >= self._span:
            self.expire(now)
        if not entries or now - entries[-1][0] > self._grain:
            entries.append([now, 0, 0, 0])
        entry = entries[-1]
        entry[1] += 1
        self.total += 1
        if failed:
            entry[2] += 1
            self.failures += 1
        if slow:
            entry[3] += 1
            self.slow += 1

    def expire(self, now: int) -> None:
        """Drop the outcomes that are older than the span."""
        while self._entries and now - self._entries[0][0] >= self._span:
            _, total, failures, slow = self._entries.popleft()
            self.total -= total
            self.failures -= failures
            self.slow -= slow
