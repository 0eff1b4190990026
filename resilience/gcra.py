"""The schedule of a rate limiter: pure integer arithmetic, no clock, no lock.

The generic cell rate algorithm (ITU-T I.371). Its unit of time is 1/rate ns, in which one permit
lasts exactly `interval` ns, so that nothing drifts. With the theoretical arrival time TAT, a
request for n at time t has TAT' = max(TAT, t) + n·interval and may go at
max(t, TAT' - burst·interval): a token bucket without a refill step.
"""

from __future__ import annotations

from collections import deque


class Ticket:
    """n permits from the moment `slot` on (ns), if `granted`; `limit` is the latest slot."""

    __slots__ = ("end", "granted", "limit", "n", "slot")

    def __init__(self, n: int, slot: int, end: int, limit: int | None, granted: bool) -> None:
        self.n, self.slot, self.end, self.limit, self.granted = n, slot, end, limit, granted


class Schedule:
    """Slots for permits, first come first served. All times are monotonic ns.

    strict: also at most `rate` in any interval, by a log of the last interval's slots.
    keep: give a ticket for permits granted at once, too, so that they can be given back.
    """

    def __init__(
        self, rate: int, interval: int, burst: int, strict: bool, keep: bool, now: int
    ) -> None:
        self._rate, self._interval, self._strict = rate, interval, strict
        self._keep = keep or strict
        self._tolerance = burst * interval
        self._tat = now * rate
        self.paused = now
        self.pending: deque[Ticket] = deque()
        self._log: deque[Ticket] = deque()  # strict: a ticket per permit

    def reserve(self, n: int, now: int, patience: int | None) -> Ticket | None:
        """None: granted now, nothing to remember (unless `keep` is set). Else a ticket."""
        start = now if now > self.paused else self.paused
        if self._strict:
            start = self._opening(n, start)
        begin = start * self._rate
        end = (self._tat if self._tat > begin else begin) + n * self._interval
        slot = start
        if end - self._tolerance > begin:
            slot = -((self._tolerance - end) // self._rate)  # rounded up
        if patience is not None and slot - now > patience:
            return Ticket(n, slot, end, None, False)
        self._tat = end
        if slot <= now and not self._keep:
            return None
        ticket = Ticket(n, slot, end, None if patience is None else now + patience, True)
        self._remember(ticket, now)
        return ticket

    def cancel(self, ticket: Ticket) -> bool:
        """Undo the latest reservation; an earlier one stays spent, as others are timed by it."""
        if not ticket.granted or ticket.end != self._tat:
            return False
        self._tat -= ticket.n * self._interval
        if self.pending and self.pending[-1] is ticket:
            self.pending.pop()
        while self._log and self._log[-1] is ticket:
            self._log.pop()
        return True

    def pause(self, now: int, until: int) -> bool:
        """Grant nothing before `until`; False if that is so already.

        Pending tickets move as a whole, so that they don't all become due at once.
        """
        running = max(now, self.paused)
        if until <= running:
            return False
        self.prune(now)
        if self.pending:
            delay = until - running
            self._tat += delay * self._rate
            for ticket in self.pending:
                ticket.slot += delay
                ticket.end += delay * self._rate
        self.paused = until
        return True

    def tokens(self, now: int) -> int:
        """Permits that are free at `now`, a pause aside."""
        free = (self._tolerance - max(0, self._tat - now * self._rate)) // self._interval
        if self._strict:
            self._opening(1, now)
            free = min(free, self._rate - len(self._log))
        return max(0, free)

    def prune(self, now: int) -> None:
        """Forget pending tickets whose slot has come."""
        while self.pending and self.pending[0].slot <= now:
            self.pending.popleft()

    def _remember(self, ticket: Ticket, now: int) -> None:
        if ticket.slot > now:
            self.prune(now)
            self.pending.append(ticket)
        if self._strict:
            self._log.extend([ticket] * ticket.n)

    def _opening(self, n: int, start: int) -> int:
        """The first moment from `start` on whose interval before has room for n more."""
        log = self._log
        while log and log[0].slot <= start - self._interval:
            log.popleft()
        if log and log[-1].slot > start:  # a pause may have moved it beyond its own opening
            start = log[-1].slot
        over = len(log) + n - self._rate
        return max(start, log[over - 1].slot + self._interval) if over > 0 else start
