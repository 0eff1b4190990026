"""The arithmetic of the rate limiter: slots for permits, without clock or lock.

>>> schedule = Schedule(rate=1, interval=10, burst=1, now=0)
>>> schedule.reserve(1, now=0, max_wait=None) is None  # granted at once
True
>>> waiting = schedule.reserve(1, now=4, max_wait=None)
>>> waiting.slot
10
>>> schedule.reserve(1, now=5, max_wait=None, priority=Priority.HIGH).slot, waiting.slot
(10, 20)
"""

from __future__ import annotations

from collections import deque

from resilience.priority import Priority


class Ticket:
    """A reservation of n permits, or its refusal.

    Attributes:
        n: Number of permits.
        slot: Time from which they may be used (ns). Until then a pause or a reservation of high
            priority may delay it.
        end: TAT after this reservation.
        limit: Latest slot that the caller accepts (ns); None for any.
        granted: False if nothing is reserved, or no longer.
        priority: With which it is reserved.
    """

    __slots__ = ("end", "granted", "limit", "n", "priority", "slot")

    def __init__(
        self, n: int, slot: int, end: int, limit: int | None, granted: bool, priority: Priority
    ) -> None:
        self.n, self.slot, self.end, self.limit, self.granted = n, slot, end, limit, granted
        self.priority = priority


class Schedule:
    """Slots for permits, first come first served within a priority. All times are monotonic ns.

    The generic cell rate algorithm (ITU-T I.371) in units of 1/rate ns, in which one permit lasts
    exactly `interval` ns, so that there is no rounding drift. With the theoretical arrival time
    TAT, a request for n permits at time t gives TAT' = max(TAT, t) + n·interval and is granted at
    max(t, TAT' - burst·interval): a token bucket without a refill step.

    A reservation of high priority is placed before all waiting ones of normal priority, which then
    are placed anew in their order, never earlier than before. One of them that would come later
    than its limit is dropped, so that its permits are not lost.

    Args:
        rate: Permits per interval.
        interval: Nanoseconds.
        burst: Permits granted at once after idling.
        normal_burst: The same for normal priority, at most `burst`, which is the default; a call
            for more permits than that may take them at once.
        strict: Also never more than `rate` in any interval, by a log of the last interval's slots.
        keep_tickets: Return a ticket for permits granted at once, too, so they can be cancelled.
        now: The current time.

    Attributes:
        paused: Time until which nothing is granted; in the past if it is not paused.
        pending: Tickets whose slot has not come, those of high priority first.
    """

    def __init__(
        self,
        rate: int,
        interval: int,
        burst: int,
        *,
        normal_burst: int | None = None,
        strict: bool = False,
        keep_tickets: bool = False,
        now: int,
    ) -> None:
        self._rate, self._interval, self._strict = rate, interval, strict
        self._keep_tickets = keep_tickets or strict
        self._tolerance = burst * interval
        self._normal_tolerance = (normal_burst or burst) * interval
        self._tat = self._settled_tat = now * rate  # the second without waiting normal tickets
        self.paused = now
        self.pending: deque[Ticket] = deque()
        self._log: deque[Ticket] = deque()  # strict only: one entry per permit

    def reserve(
        self, n: int, now: int, max_wait: int | None, priority: Priority = Priority.NORMAL
    ) -> Ticket | None:
        """Reserve n permits; nothing if the wait would exceed `max_wait`.

        Returns:
            None if they are granted at once and no tickets are kept.
        """
        overtaken: list[Ticket] = []
        if not self.pending:
            if not self._keep_tickets and now >= self.paused:  # the common case, without calls
                arrival = now * self._rate
                end = (self._tat if self._tat > arrival else arrival) + n * self._interval
                if end - self._normal_tolerance <= arrival:
                    self._tat = self._settled_tat = end
                    return None
        else:
            self.prune(now)
            overtaken = self._remove_normal() if priority is Priority.HIGH else []
        limit = None if max_wait is None else now + max_wait
        slot, end = self._next_slot(n, now, now, priority)
        granted = limit is None or slot <= limit
        ticket = None
        if not granted or slot > now or self._keep_tickets:
            ticket = Ticket(n, slot, end, limit, granted, priority)
        if granted:
            self._place(ticket, slot, end, now, priority)
        for delayed in overtaken:
            self._place_again(delayed, now)
        return ticket

    def record(self, n: int, now: int) -> None:
        """Count n permits that were granted by other means."""
        self.prune(now)
        overtaken = self._remove_normal()
        slot = max(now, self._log[-1].slot) if self._log else now
        end = max(self._tat, now * self._rate) + n * self._interval
        self._tat = self._settled_tat = end
        if self._strict:
            self._log.extend([Ticket(n, slot, end, None, True, Priority.HIGH)] * n)
        for delayed in overtaken:
            self._place_again(delayed, now)

    def cancel(self, ticket: Ticket) -> bool:
        """Undo the latest reservation. Returns False for others: later slots depend on them."""
        if not ticket.granted or ticket.end != self._tat:
            return False
        self._tat -= ticket.n * self._interval
        if self.pending and self.pending[-1] is ticket:
            self.pending.pop()
        if ticket.end == self._settled_tat:
            self._settled_tat = self._tat
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
        self._delay_pending(now, until - resume)
        self.paused = until
        return True

    def resume(self, now: int) -> bool:
        """End a pause; pending tickets come due earlier by what was left. False without a pause."""
        early = self.paused - now
        if early <= 0:
            return False
        self._delay_pending(now, -early)
        self.paused = now
        if self._strict:
            self._keep_to_the_rate()
        return True

    def tokens(self, now: int) -> int:
        """Permits that are free at `now`, not counting a pause."""
        free = (self._tolerance - max(0, self._tat - now * self._rate)) // self._interval
        if self._strict:
            self._prune_log(now)
            free = min(free, self._rate - len(self._log))
        return max(0, free)

    def prune(self, now: int) -> None:
        """Drop pending tickets whose slot has come."""
        while self.pending and self.pending[0].slot <= now:
            ticket = self.pending.popleft()
            self._settled_tat = max(self._settled_tat, ticket.end)

    def forget_pending(self) -> None:
        """Nobody waits for the pending tickets any more; their permits count as used."""
        self.pending.clear()
        self._settled_tat = self._tat

    def _next_slot(self, n: int, now: int, earliest: int, priority: Priority) -> tuple[int, int]:
        """The first possible slot of n more permits, and the TAT after them."""
        start = max(now, self.paused, earliest)
        if self._strict:
            self._prune_log(now)
            start = self._earliest_start(n, start)
        tolerance = self._tolerance
        if priority is Priority.NORMAL:
            tolerance = max(self._normal_tolerance, n * self._interval)
        arrival = start * self._rate
        end = (self._tat if self._tat > arrival else arrival) + n * self._interval
        if end - tolerance > arrival:
            return -((tolerance - end) // self._rate), end  # rounded up
        return start, end

    def _place(
        self, ticket: Ticket | None, slot: int, end: int, now: int, priority: Priority
    ) -> None:
        self._tat = end
        if priority is Priority.HIGH or slot <= now:
            self._settled_tat = end
        if ticket is None:
            return
        if slot > now:
            self.pending.append(ticket)
        if self._strict:
            self._log.extend([ticket] * ticket.n)

    def _remove_normal(self) -> list[Ticket]:
        """Take out the waiting tickets of normal priority; returns them in their order."""
        removed: deque[Ticket] = deque()
        while self.pending and self.pending[-1].priority is Priority.NORMAL:
            ticket = self.pending.pop()
            removed.appendleft(ticket)
            while self._log and self._log[-1] is ticket:
                self._log.pop()
        self._tat = self._settled_tat
        return list(removed)

    def _place_again(self, ticket: Ticket, now: int) -> None:
        slot, end = self._next_slot(ticket.n, now, ticket.slot, ticket.priority)
        ticket.slot, ticket.end = slot, end
        ticket.granted = ticket.limit is None or slot <= ticket.limit
        if ticket.granted:
            self._place(ticket, slot, end, now, ticket.priority)

    def _delay_pending(self, now: int, delay: int) -> None:
        self.prune(now)
        if not self.pending:
            return
        self._tat += delay * self._rate
        if self.pending[0].priority is Priority.HIGH:
            self._settled_tat += delay * self._rate
        for ticket in self.pending:
            ticket.slot += delay
            ticket.end += delay * self._rate

    def _keep_to_the_rate(self) -> None:
        """Delay the tickets that came too close to those before them, when a pause ended early."""
        log = list(self._log)
        for earlier, ticket in zip(log, log[self._rate :], strict=False):
            ticket.slot = max(ticket.slot, earlier.slot + self._interval)

    def _prune_log(self, now: int) -> None:
        while self._log and self._log[0].slot <= now - self._interval:
            self._log.popleft()

    def _earliest_start(self, n: int, start: int) -> int:
        """The first time from `start` on at which n more permits keep to the rate."""
        log = self._log
        if log and log[-1].slot > start:  # a pause may have delayed it
            start = log[-1].slot
        excess = len(log) + n - self._rate
        return max(start, log[excess - 1].slot + self._interval) if excess > 0 else start
