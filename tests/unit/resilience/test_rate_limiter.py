from __future__ import annotations

import asyncio
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from resilience import (
    CallRejected,
    Limit,
    LimiterPaused,
    LimiterResumed,
    Priority,
    RateLimited,
    RateLimiter,
    Reservation,
    SharedLimitChanged,
    Sleeper,
    waiting_up_to,
    with_priority,
)
from resilience.schedule import Schedule, Ticket

HIGH, NORMAL = Priority.HIGH, Priority.NORMAL


@pytest.fixture
def make(time):
    def build(rate=5, interval=60, burst=5, **options):
        return RateLimiter("l", rate, interval, burst, **{**time.sleeping_injectables, **options})

    return build


def take_all(limiter: RateLimiter) -> int:
    count = 0
    while limiter.allow_request():
        count += 1
    return count


def test_a_burst_then_the_rate(make, time):
    limiter = make()
    assert take_all(limiter) == 5
    time.advance(11.999)
    assert not limiter.allow_request()
    time.advance(0.001)
    assert take_all(limiter) == 1


def test_there_is_no_rounding_drift_after_many_refills(make, time):
    limiter = make(interval=60.1)
    for _ in range(2000):
        assert take_all(limiter) == 5
        for _ in range(601):
            time.advance(0.1)
    third = make(rate=3, interval=1, burst=3)  # a third of a second is no whole number of ns
    for _ in range(2000):
        assert take_all(third) == 3
        time.advance(1)


def test_idling_adds_no_more_than_the_burst_and_keeps_what_was_taken(make, time):
    limiter = make()
    time.advance(1e6)
    assert limiter.allow_request(4)
    assert limiter.status().tokens == 1
    time.advance(0.001)
    assert limiter.status().tokens == 1
    assert take_all(limiter) == 1


def test_strict_never_admits_more_than_the_rate_in_any_interval(make, time):
    loose, strict = make(), make(strict=True)
    granted = []
    for _ in range(61):
        granted.append((take_all(loose), take_all(strict)))
        time.advance(1)
    assert (
        sum(a for a, _ in granted[:60]) == 9
    )  # a token bucket can grant nearly twice the rate in 60 s
    assert sum(b for _, b in granted[:60]) == 5
    assert granted[60][1] == 5


def test_strict_bounds_the_burst_by_the_rate(make):
    limiter = make(burst=150, strict=True)
    assert take_all(limiter) == 5
    with pytest.raises(ValueError, match="n must be from 1 to 5"):
        limiter.allow_request(6)


def test_a_block_may_wait_longer_than_the_limiter_does(make, time):
    limiter = make(max_wait=5)
    take_all(limiter)
    with pytest.raises(RateLimited), waiting_up_to(11):
        limiter.execute(time.wall)
    with waiting_up_to(12):
        limiter.execute(time.wall)
    assert time.slept == [12]
    with pytest.raises(RateLimited):
        limiter.execute(time.wall)


def test_acquire_sleeps_as_long_as_it_must(make, time):
    limiter = make()
    for _ in range(7):
        limiter.acquire()
    assert time.slept == [12, 12]


def test_an_acquire_that_would_wait_too_long_fails_at_once_and_reserves_nothing(make, time):
    limiter = make()
    take_all(limiter)
    for _ in range(10):
        with pytest.raises(RateLimited) as caught:
            limiter.acquire(timeout=11.9)
        assert (caught.value.name, caught.value.retry_after) == ("l", 12)
    assert not time.slept
    time.advance(12)
    assert limiter.allow_request()


def test_reservations_are_served_in_order(make, time):
    limiter = make(rate=1, interval=1, burst=1)
    events, sleeping = [], []
    limiter.acquire()

    def second_call_while_the_first_sleeps() -> None:
        if not sleeping:
            sleeping.append(True)
            assert not limiter.allow_request()  # it does not overtake the waiting call
            with pytest.raises(RateLimited) as caught:
                limiter.acquire(timeout=1.5)
            assert caught.value.retry_after == 2
            events.append("second rejected")

    time.on_sleep = second_call_while_the_first_sleeps
    limiter.acquire()
    assert (events, time.slept) == (["second rejected"], [1])


def test_an_interrupted_wait_cancels_its_reservation(make, time):
    limiter = make()
    take_all(limiter)

    def interrupt() -> None:
        raise KeyboardInterrupt

    time.on_sleep = interrupt
    for _ in range(10):
        with pytest.raises(KeyboardInterrupt):
            limiter.acquire()
    time.advance(12)
    assert limiter.allow_request()


def test_a_shorter_pause_does_not_end_a_longer_one(make, time):
    limiter, events = make(), []
    limiter.on(events.append)
    limiter.pause(30)
    limiter.pause(10)
    assert not limiter.allow_request()
    assert limiter.status().as_dict()["paused_until"] == "2024-01-01T00:00:30Z"
    with pytest.raises(RateLimited) as caught:
        limiter.acquire(timeout=29)
    assert caught.value.retry_after == 30
    limiter.acquire()
    assert time.slept == [30]
    assert limiter.status().paused_until is None
    paused = [event for event in events if isinstance(event, LimiterPaused)]
    assert [event.seconds for event in paused] == [30]


def test_a_pause_of_any_length_is_shown(make):
    limiter = make(interval=1e-12)
    limiter.pause(1e300)
    assert limiter.status().paused_until.year > 2050


def test_a_pause_is_ended_early_and_what_was_granted_still_counts(make, time):
    limiter, events = make(rate=2, interval=10, burst=2, strict=True), []
    limiter.on(events.append)
    assert limiter.allow_request()
    limiter.pause(1000)
    time.advance(1)
    limiter.resume()
    assert limiter.status().paused_until is None
    assert [limiter.allow_request() for _ in range(2)] == [True, False]
    limiter.resume()
    assert [type(event) for event in events].count(LimiterResumed) == 1


def test_after_a_pause_there_is_no_more_than_a_burst(make, time):
    limiter = make(rate=1, interval=1, burst=3)
    limiter.pause(100)
    for _ in range(3):
        limiter.acquire()
    assert time.ns == 100e9
    limiter.acquire()
    assert time.ns == 101e9


def test_a_pause_delays_waiting_calls_and_rejects_those_beyond_their_timeout(make, time):
    limiter = make(rate=1, interval=1, burst=1)
    limiter.acquire()
    time.on_sleep = lambda: limiter.pause(50) if len(time.slept) == 1 else None
    limiter.acquire()
    assert time.slept == [1, 50]
    time.on_sleep = lambda: limiter.pause(50)
    with pytest.raises(RateLimited):
        limiter.acquire(timeout=5)


def test_execute_waits_at_most_max_wait(make, time):
    limiter = make(max_wait=1)
    assert [limiter.execute(int, "7") for _ in range(5)] == [7] * 5
    with pytest.raises(RateLimited):
        limiter.execute(int)


def test_async(make, time):
    async def double(x: int) -> int:
        return 2 * x

    async def main() -> list[int]:
        return [await limiter.execute_async(double, n) for n in range(6)]

    limiter = make()
    assert asyncio.run(main()) == [0, 2, 4, 6, 8, 10]
    assert time.slept == [12]


@pytest.mark.parametrize("n", [0, -1, 6])
def test_n_out_of_range(make, n):
    limiter = make()
    for call in (limiter.allow_request, limiter.acquire):
        with pytest.raises(ValueError, match="n must be from 1 to 5"):
            call(n)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"rate": 0}, "rate must be a whole number of at least 1"),
        ({"rate": -1}, "rate must be"),
        ({"rate": 0.5}, "rate must be a whole number"),
        ({"interval": 0}, "interval must be a finite number above 0"),
        ({"burst": 0}, "burst must be"),
        ({"max_wait": -1}, "max_wait must be a finite number at least 0"),
    ],
)
def test_the_constructor_says_what_is_allowed(make, options, allowed):
    with pytest.raises(ValueError, match=allowed):
        make(**options)


def test_negative_times_are_rejected(make):
    limiter = make()
    with pytest.raises(ValueError, match="timeout must be"):
        limiter.acquire(timeout=-1)
    with pytest.raises(ValueError, match="seconds must be"):
        limiter.pause(-1)


def test_threads_get_no_more_than_the_burst(make, in_threads):
    limiter = make(rate=1, interval=3600, burst=100)
    counts = in_threads(8, lambda: take_all(limiter))
    assert sum(counts) == 100
    assert limiter.status().granted_count == 100


def test_close_interrupts_a_waiting_thread():
    class ObservedSleeper(Sleeper):
        def sleep(self, seconds: float) -> bool:
            waiting.set()
            return super().sleep(seconds)

    waiting, sleeper, errors = threading.Event(), ObservedSleeper(), []
    limiter = RateLimiter("real", 1, 3600, 1, sleeper=sleeper)
    limiter.acquire()

    def wait() -> None:
        try:
            limiter.acquire()
        except RateLimited as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert waiting.wait(5)
    sleeper.close()
    thread.join(5)
    assert len(errors) == 1
    assert limiter.status().waiting == 0


def test_rejections_are_counted_and_notified(make):
    limiter, events = make(), []
    limiter.on(events.append)
    take_all(limiter)
    assert limiter.status().rejected_count == 1
    rejections = [(type(e), e.kind, e.retry_after) for e in events]
    assert rejections == [(CallRejected, "rate_limiter", 12)]
    limiter.reset()
    assert take_all(limiter) == 5


class FakeStore:
    def __init__(self, *answers: Reservation | Exception) -> None:
        self.answers, self.requests = list(answers), []

    def reserve(self, *request: object) -> Reservation:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    confirm = reserve


def test_the_store_decides_about_a_shared_limit(make, time):
    store = FakeStore(Reservation(True, 0.0), Reservation(True, 3.0), Reservation(False, 9.0))
    limiter = make(shared=store)
    assert limiter.status().shared == "ok"
    limiter.acquire()
    limiter.acquire(2)
    assert time.slept == [3]
    with pytest.raises(RateLimited) as caught:
        limiter.acquire(timeout=4)
    assert caught.value.retry_after == 9
    limit = Limit(rate=5, interval=60, burst=5, normal_burst=5, strict=False)
    assert store.requests[1] == ("l", limit, 2, Priority.NORMAL, None)
    assert store.requests[2][-1] == 4
    assert limiter.status().granted_count == 3


def test_rejections_of_the_store_take_no_local_permit(make):
    limiter = make(shared=FakeStore(*[Reservation(False, 1.0)] * 50, Reservation(True, 0.0)))
    assert [limiter.allow_request() for _ in range(51)].count(True) == 1


def test_without_the_store_the_local_limit_applies_and_is_degraded(make, time):
    store = FakeStore(OSError("down"), Reservation(True, 0.0))
    limiter, events = make(shared=store), []
    limiter.on(events.append)
    assert take_all(limiter) == 5
    assert limiter.status().shared == "degraded"
    assert len(store.requests) == 1  # an unavailable store is not called every time
    time.advance(60)
    assert limiter.allow_request()
    assert limiter.status().shared == "ok"
    changes = [event.shared for event in events if isinstance(event, SharedLimitChanged)]
    assert changes == ["degraded", "ok"]


def test_async_calls_reserve_from_the_store(make, time):
    limiter = make(shared=FakeStore(Reservation(True, 2.0)))
    asyncio.run(limiter.execute_async(asyncio.sleep, 0))
    assert time.slept == [2]


def test_a_delayed_ticket_of_the_store_is_waited_for_again(make, time):
    store = FakeStore(Reservation(True, 2.0, 7), Reservation(True, 3.0, 7), Reservation(True, 0.0))
    limiter = make(shared=store)
    limiter.acquire()
    assert time.slept == [2, 3]
    assert store.requests[1:] == [("l", 7), ("l", 7)]


def test_a_ticket_that_the_store_delays_beyond_its_timeout_is_rejected(make, time):
    limiter = make(shared=FakeStore(Reservation(True, 2.0, 7), Reservation(False, 4.0)))
    with pytest.raises(RateLimited) as caught:
        limiter.acquire(timeout=3)
    assert caught.value.retry_after == 4
    assert (limiter.status().rejected_count, limiter.status().waiting) == (1, 0)


def test_what_the_store_granted_counts_when_it_is_away(make, time):
    store = FakeStore(*[Reservation(True, 0.0)] * 3, OSError("down"))
    limiter = make(shared=store, strict=True)
    assert take_all(limiter) == 5
    time.advance(59.9)
    store.answers = [OSError("down")]
    assert not limiter.allow_request()


def test_a_pause_of_this_process_holds_calls_that_wait_for_the_store(make, time):
    store = FakeStore(Reservation(True, 2.0), Reservation(True, 0.0))
    limiter = make(shared=store)
    time.on_sleep = lambda: limiter.pause(50) if len(time.slept) == 1 else None
    limiter.acquire()
    assert time.slept == [2, 48]
    limiter.pause(50)
    with pytest.raises(RateLimited):
        limiter.acquire(timeout=5)


def test_a_call_of_high_priority_takes_the_next_permit(make, time):
    limiter = make(normal_burst=1, strict=True)
    starts: dict[str, float] = {}

    def click() -> None:
        time.on_sleep = lambda: None
        with with_priority(HIGH):
            starts["refused"] = not limiter.allow_request()
            limiter.acquire()
        starts["high"] = time.ns / 1e9

    for _ in range(5):
        limiter.acquire()
    assert time.ns == 48e9  # normal calls are spaced evenly
    time.on_sleep = click
    limiter.acquire(timeout=30)
    assert starts == {"refused": True, "high": 60.0}
    assert time.ns == 72e9


def test_a_waiting_call_that_is_delayed_beyond_its_timeout_is_rejected(make, time):
    limiter = make(normal_burst=1, strict=True)

    def click() -> None:
        time.on_sleep = lambda: None
        with with_priority(HIGH):
            limiter._reserve(1, None)

    for _ in range(5):
        limiter.acquire()
    time.on_sleep = click
    with pytest.raises(RateLimited) as caught:
        limiter.acquire(timeout=12)
    assert caught.value.retry_after == 12
    assert (limiter.status().granted_count, limiter.status().waiting) == (6, 0)
    limiter.acquire()
    assert time.ns == 72e9  # its permit was not lost


def test_an_early_end_of_a_pause_keeps_to_the_strict_rate(make, time):
    limiter = make(rate=2, interval=10, burst=2, strict=True)
    assert take_all(limiter) == 2
    limiter.pause(100)
    ticket = limiter._reserve(1, None)
    time.advance(1)
    limiter.resume()
    assert ticket.slot == 10e9


class Machine(RuleBasedStateMachine):
    """Reservations, cancellations and pauses in any order never break the bound."""

    rate, interval, burst = 3, 10, 4

    def __init__(self, time, strict: bool) -> None:
        super().__init__()
        self.time = time
        self.limiter = RateLimiter(
            "m",
            self.rate,
            self.interval,
            self.burst,
            normal_burst=2,
            strict=strict,
            **time.injectables,
        )
        self.max_permits = 3 if strict else 4
        self.strict = strict
        self.pending: list = []
        self.grants: list[int] = []  # one entry per permit, in ns

    @rule(n=st.integers(1, 3), priority=st.sampled_from(Priority))
    def try_now(self, n: int, priority: Priority) -> None:
        with with_priority(priority):
            if self.limiter.allow_request(n):
                self.grants += [self.time.ns] * n

    @rule(
        n=st.integers(1, 3),
        max_wait=st.sampled_from([None, 0, 5 * 10**9]),
        priority=st.sampled_from(Priority),
    )
    def reserve(self, n: int, max_wait: int | None, priority: Priority) -> None:
        with with_priority(priority):
            ticket = self.limiter._reserve(n, max_wait)
        if ticket is None:
            self.grants += [self.time.ns] * n
        elif ticket.granted:
            self.pending.append(ticket)
            self.collect()

    @rule(seconds=st.sampled_from([0.1, 1, 10 / 3, 10, 25]))
    def wait(self, seconds: float) -> None:
        target = self.time.ns + round(seconds * 1e9)
        while due := [t.slot for t in self.pending if t.slot <= target]:
            self.time.ns = max(self.time.ns, min(due))
            self.collect()
        self.time.ns = target

    @rule(index=st.integers(0, 5))
    def cancel(self, index: int) -> None:
        if self.pending:
            self.limiter._cancel(self.pending.pop(index % len(self.pending)))

    @rule(seconds=st.sampled_from([1, 7, 30]))
    def pause(self, seconds: float) -> None:
        self.limiter.pause(seconds)

    @rule()
    def resume(self) -> None:
        if self.strict:  # else a burst and what waited may come due together
            self.limiter.resume()
            self.collect()

    def collect(self) -> None:
        self.pending = [ticket for ticket in self.pending if ticket.granted]
        for ticket in [t for t in self.pending if t.slot <= self.time.ns]:
            self.pending.remove(ticket)
            self.grants += [self.time.ns] * ticket.n

    @invariant()
    def grants_stay_in_bounds(self) -> None:
        grants = self.grants
        for i, first in enumerate(grants):
            for j in range(i, len(grants)):
                # permits in [first, last] ≤ burst + rate · length, with slots rounded up to 1 ns
                length = grants[j] - first + 1
                allowed = self.max_permits * self.interval * 10**9 + self.rate * length
                assert (j - i + 1) * self.interval * 10**9 <= allowed
        if self.strict:
            for first, fourth in zip(grants, grants[self.rate :], strict=False):
                assert fourth - first >= self.interval * 10**9

    @invariant()
    def slots_keep_their_order(self) -> None:
        waiting = [ticket for ticket in self.pending if ticket.granted]
        for priority in Priority:
            slots = [ticket.slot for ticket in waiting if ticket.priority is priority]
            assert slots == sorted(slots)


@pytest.mark.parametrize("strict", [False, True])
def test_the_limiter_as_a_state_machine(new_time, strict):
    run_state_machine_as_test(
        lambda: Machine(new_time(), strict),
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None),
    )


@settings(deadline=None, max_examples=50)
@given(
    rate=st.integers(1, 1000),
    interval=st.floats(0.001, 1000),
    burst=st.integers(1, 20),
    idle=st.integers(0, 50),
)
def test_after_idling_exactly_the_burst_is_free(new_time, rate, interval, burst, idle):
    time = new_time()
    limiter = RateLimiter("l", rate, interval, burst, **time.injectables)
    take_all(limiter)
    time.advance(interval * (burst / rate + idle) + 1e-6)
    assert take_all(limiter) == burst


class Night:
    """A strict schedule, in which calls of both priorities wait without a timeout."""

    rate, interval = 5, 60

    def __init__(self) -> None:
        self.now, self.waiting, self.granted = 0, [], []
        self.schedule = Schedule(
            self.rate, self.interval, self.rate, normal_burst=1, strict=True, now=0
        )

    def call(self, priority: Priority) -> Ticket:
        ticket = self.schedule.reserve(1, self.now, None, priority)
        assert ticket is not None
        self.waiting.append(ticket)
        return ticket

    def advance(self, seconds: int) -> None:
        self.now += seconds
        due = [ticket for ticket in self.waiting if ticket.slot <= self.now]
        self.granted += sorted(due, key=lambda ticket: ticket.slot)
        self.waiting = [ticket for ticket in self.waiting if ticket.slot > self.now]

    def earliest_high(self) -> int:
        """When one more call of high priority must be served, from what is granted alone."""
        highs = [ticket.slot for ticket in self.waiting if ticket.priority is HIGH]
        taken = sorted([*(ticket.slot for ticket in self.granted), *highs])
        free = taken[-self.rate] + self.interval if len(taken) >= self.rate else self.now
        return max(self.now, free, *highs, 0)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(Priority)), max_size=60))
def test_high_priority_waits_only_behind_its_own_and_granted_permits(calls):
    night = Night()
    normals = []
    for seconds, priority in calls:
        night.advance(seconds)
        expected = night.earliest_high()
        ticket = night.call(priority)
        if priority is HIGH:
            assert ticket.slot == expected
        else:
            normals.append(ticket)
    night.advance(10_000)
    slots = [ticket.slot for ticket in night.granted]
    for first, sixth in zip(slots, slots[night.rate :], strict=False):
        assert sixth - first >= night.interval
    assert [t for t in night.granted if t.priority is NORMAL] == normals


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 600), max_size=10))
def test_calls_of_high_priority_cost_the_others_only_their_permits(clicks):
    undisturbed, night = Night(), Night()
    alone = [undisturbed.call(NORMAL) for _ in range(60)]
    delayed = [night.call(NORMAL) for _ in range(60)]
    for at in sorted(clicks):
        night.advance(at - night.now)
        assert night.call(HIGH).slot - at <= 12 * (1 + clicks.count(at) + 5 * (len(clicks) > 1))
    for one, its_delayed in zip(alone, delayed, strict=True):
        assert its_delayed.slot <= one.slot + 12 * len(clicks)
