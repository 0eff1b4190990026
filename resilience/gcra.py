"""The schedule of a rate limiter: integer arithmetic without clock or lock.

The generic cell rate algorithm (ITU-T I.371) in units of 1/rate ns, in which one permit lasts
exactly `interval` ns, so that there is no rounding drift. With the theoretical arrival time TAT, a
request for n permits at time t gives TAT' = max(TAT, t) + n·interval and is granted at
max(t, TAT' - burst·interval): a token bucket without a refill step.

>>> schedule = Schedule(rate=1, interval=10, burst=1, strict=False, keep_tickets=False, now=0)
>>> schedule.reserve(1, now=0, max_wait=None) is None  # granted at once
True
>>> schedule.reserve(1, now=4, max_wait=None).slot
10
"""

from __future__ import annotations

from collections import deque


class Ticket:
    """A reservation of n permits, or its refusal.

    Attributes:
        n: Number of permits.
        slot: Time from which they may be used (ns).
        end: TAT after this reservation.
        limit: Latest slot that the caller accepts (ns); None for any.
        granted: False if nothing is reserved.
    """

    __slots__ = ("end", "granted", "limit", "n", "slot")

    def __init__(self, n: int, slot: int, end: int, limit: int | None, granted: bool) -> None:
        self.n, self.slot, self.end, self.limit, self.granted = n, slot, end, limit, granted


class Schedule:
    """Slots for permits, first come first served. All times are monotonic ns.

    Args:
        rate: Permits per interval.
        interval: Nanoseconds.
        burst: Permits granted at once after idling.
        strict: Also never more than `rate` in any interval, by a log of the last interval's slots.
        keep_tickets: Return a ticket for permits granted at once, too, so they can be cancelled.
        now: The current time.

    Attributes:
        paused: Time until which nothing is granted; in the past if it is not paused.
        pending: Tickets whose slot has not come.
    """

    def __init__(
        self, rate: int, interval: int, burst: int, strict: bool, keep_tickets: bool, now: int
    ) -> None:
        self._rate, self._interval, self._strict = rate, interval, strict
        self._keep_tickets = keep_tickets or strict
        self._tolerance = burst * interval
        self._tat = now * rate
        self.paused = now
        self.pending: deque[Ticket] = deque()
        self._log: deque[Ticket] = deque()  # strict only: one entry per permit

    def reserve(self, n: int, now: int, max_wait: int | None) -> Ticket | None:
        """Reserve n permits; nothing if the wait would exceed `max_wait`.

        Returns:
            None if they are granted at once and no tickets are kept.
        """
        start = now if now > self.paused else self.paused
        if self._strict:
            start = self._earliest_start(n, start)
        arrival = start * self._rate
        end = (self._tat if self._tat > arrival else arrival) + n * self._interval
        slot = start
        if end - self._tolerance > arrival:
            slot = -((self._tolerance - end) // self._rate)  # rounded up
        if max_wait is not None and slot - now > max_wait:
            return Ticket(n, slot, end, None, False)
        self._tat = end
        if slot <= now and not self._keep_tickets:
            return None
        ticket = Ticket(n, slot, end, None if max_wait is None else now + max_wait, True)
        self._add(ticket, now)
        return ticket

    def cancel(self, ticket: Ticket) -> bool:
        """Undo the latest reservation. Returns False for others: later slots depend on them."""
        if not ticket.granted or ticket.end != self._tat:
            return False
        self._tat -= ticket.n * self._interval
        if self.pending and self.pending[-1] is ticket:
            self.pending.pop()
        while self._log and self._log[-1] is ticket:
            self._log.pop()
        return True

    def pause(self, now: int, until: int) -> bool:
        """Grant nothing before `until`. Returns False if it is paused as long already.

        All pending tickets are delayed by the same time, so that they do not come due at once.
        """
        resume = max(now, self.paused)
        if until <= resume:
            return False
        self.prune(now)
        if self.pending:
            delay = until - resume
            self._tat += delay * self._rate
            for ticket in self.pending:
                ticket.slot += delay
                ticket.end += delay * self._rate
        self.paused = until
        return True

    def tokens(self, now: int) -> int:
        """Permits that are free at `now`, not counting a pause."""
        free = (self._tolerance - max(0, self._tat - now * self._rate)) // self._interval
        if self._strict:
            self._earliest_start(1, now)
            free = min(free, self._rate - len(self._log))
        return max(0, free)

    def prune(self, now: int) -> None:
        """Drop pending tickets whose slot has come."""
        while self.pending and self.pending[0].slot <= now:
            self.pending.popleft()

    def _add(self, ticket: Ticket, now: int) -> None:
        if ticket.slot > now:
            self.prune(now)
            self.pending.append(ticket)
        if self._strict:
            self._log.extend([ticket] * ticket.n)

    def _earliest_start(self, n: int, start: int) -> int:
        """The first time from `start` on at which n more permits keep to the rate."""
        log = self._log
        while log and log[0].slot <= start - self._interval:
            log.popleft()
        if log and log[-1].slot > start:  # a pause may have delayed it
            start = log[-1].slot
        excess = len(log) + n - self._rate
        return max(start, log[excess - 1].slot + self._interval) if excess > 0 else start
