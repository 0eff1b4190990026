from __future__ import annotations

import asyncio
import threading
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from resilience import CallRejected, CircuitBreaker, CircuitOpen, RateLimited, State, StateChanged


class Boom(Exception):
    pass


def boom(error: BaseException | None = None) -> None:
    raise error or Boom("boom")


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(Boom):
            breaker.execute(boom)


@pytest.fixture
def make(time):
    return lambda **options: CircuitBreaker("b", **{**time.injectables, **options})


@pytest.fixture
def opened(make, time):
    breaker = make()
    fail(breaker, 5)
    return breaker


def state(breaker: CircuitBreaker) -> str:
    return breaker.status().state


def test_it_passes_arguments_and_results(make):
    assert make().execute(divmod, 7, 2) == (3, 1)
    assert make().execute(dict, fn=1, self=2) == {"fn": 1, "self": 2}


def test_below_minimum_calls_it_never_opens(make):
    breaker = make()
    fail(breaker, 4)
    assert state(breaker) == "closed"
    fail(breaker)
    assert state(breaker) == "open"


def test_minimum_calls_is_bounded_by_the_window(make):
    breaker = make(window_size=3, minimum_calls=5)
    fail(breaker, 3)
    assert state(breaker) == "open"


def test_the_rate_is_compared_exactly(make):
    breaker = make(failure_threshold=0.55, minimum_calls=20)
    fail(breaker, 11)  # 11 / 20 is 0.55, although 0.55 · 20 > 11 in floats
    for _ in range(9):
        breaker.execute(int)
    assert state(breaker) == "open"


def test_a_success_can_open_it(make):
    breaker = make()
    fail(breaker, 4)
    assert breaker.execute(int) == 0  # 4 of 5
    assert state(breaker) == "open"


def test_the_count_window_drops_the_oldest_outcome(make):
    breaker = make(failure_threshold=0.5, window_size=4, minimum_calls=4)
    breaker.execute(int)
    fail(breaker)
    for _ in range(3):
        breaker.execute(int)
    fail(breaker)
    assert breaker.status().failure_rate == 0.25
    assert state(breaker) == "closed"


def test_a_full_window_of_successes_still_sees_failures(make):
    breaker = make(window_size=4, minimum_calls=4)
    for _ in range(50):
        breaker.execute(int)
    fail(breaker, 2)
    assert state(breaker) == "open"


def test_the_time_window_expires_outcomes_when_read(make, time):
    breaker = make(window_seconds=10)
    fail(breaker, 4)
    time.advance(9.999)
    assert breaker.status().failure_count == 4
    time.advance(0.001)
    assert breaker.status().failure_count == 0
    fail(breaker, 4)
    assert state(breaker) == "closed"


def test_the_time_window_is_bounded(make, time):
    breaker = make(window_seconds=10, failure_threshold=1.0)
    for _ in range(5000):
        breaker.execute(int)
        time.advance(0.0001)
    assert breaker.status().success_count == 5000
    assert len(breaker._window._entries) <= 1001


def test_the_call_that_opens_it_raises_its_own_error(make):
    breaker, last = make(), Boom("the last")
    fail(breaker, 4)
    with pytest.raises(Boom) as caught:
        breaker.execute(boom, last)
    assert caught.value is last


def test_the_rejection_has_the_wait_and_the_last_error(opened, time):
    time.advance(20)
    with pytest.raises(CircuitOpen) as caught:
        opened.execute(int)
    error = caught.value
    assert (error.name, error.retry_after) == ("b", 40)
    assert isinstance(error.last_error, Boom)
    assert opened.status().rejected_count == 1
    assert opened.status().retry_after == 40


def test_after_the_recovery_timeout_a_success_closes(opened, time):
    time.advance(60)
    assert state(opened) == "half_open"
    opened.execute(int)
    status = opened.status()
    assert status.state == "closed"
    assert (status.failure_count, status.success_count, status.opened_at) == (0, 0, None)


def test_a_failed_probe_reopens_for_another_timeout(opened, time):
    time.advance(60)
    fail(opened)
    time.advance(59.9)
    with pytest.raises(CircuitOpen):
        opened.execute(int)
    time.advance(0.1)
    opened.execute(int)
    assert state(opened) == "closed"


def test_half_open_admits_exactly_half_open_calls(make, time):
    breaker = make(half_open_calls=2)
    fail(breaker, 5)
    time.advance(60)

    def third() -> None:
        with pytest.raises(CircuitOpen):
            breaker.execute(int)

    breaker.execute(breaker.execute, third)
    assert state(breaker) == "closed"


def test_eight_threads_race_for_one_probe(opened, time, in_threads):
    time.advance(60)
    probing, finish = threading.Event(), threading.Barrier(8)

    def call() -> str:
        def probe() -> None:
            probing.set()
            finish.wait()

        try:
            opened.execute(probe)
        except CircuitOpen:
            finish.wait()
            return "rejected"
        return "probe"

    results = in_threads(8, call)
    assert probing.is_set()
    assert sorted(results) == ["probe"] + ["rejected"] * 7
    assert state(opened) == "closed"


@pytest.mark.parametrize("error", [RateLimited("l", 1.0), Boom("ignored")])
def test_ignored_errors_and_rejections_give_the_probe_back(make, time, error):
    breaker = make(ignore=lambda e: "ignored" in str(e))
    fail(breaker, 5)
    time.advance(60)
    with pytest.raises(type(error)):
        breaker.execute(boom, error)
    assert state(breaker) == "half_open"
    breaker.execute(int)
    assert state(breaker) == "closed"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_ctrl_c_propagates_unrecorded_and_gives_the_probe_back(make, time, error):
    breaker = make()
    with pytest.raises(error):
        breaker.execute(boom, error())
    assert breaker.status().failure_count == breaker.status().success_count == 0
    fail(breaker, 5)
    time.advance(60)
    with pytest.raises(error):
        breaker.execute(boom, error())
    breaker.execute(int)
    assert state(breaker) == "closed"


def test_cancellation_gives_the_probe_back(opened, time):
    async def main() -> None:
        task = asyncio.create_task(opened.execute_async(asyncio.Event().wait))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await opened.execute_async(asyncio.sleep, 0)

    time.advance(60)
    asyncio.run(main())
    assert state(opened) == "closed"


def test_a_probe_that_times_out_reopens(make, time):
    breaker = make(half_open_timeout=10)
    fail(breaker, 5)
    time.advance(60)

    def stuck() -> None:
        time.advance(9)
        with pytest.raises(CircuitOpen) as caught:
            breaker.execute(int)
        assert caught.value.retry_after == 1
        time.advance(1)
        assert state(breaker) == "open"
        time.advance(60)
        assert state(breaker) == "half_open"

    breaker.execute(stuck)  # returns in a later generation: dropped
    assert state(breaker) == "half_open"


def test_a_timed_out_probe_reopens_as_of_its_timeout(make, time):
    breaker = make(half_open_timeout=10)
    fail(breaker, 5)
    time.advance(60)
    breaker.execute(lambda: (time.advance(70), breaker.execute(int)))
    assert state(breaker) == "closed"


def test_a_late_success_does_not_close_an_open_breaker(make, time):
    breaker = make()
    breaker.execute(lambda: fail(breaker, 5))
    assert state(breaker) == "open"


def test_a_late_failure_does_not_reopen_a_closed_breaker(make, time):
    breaker = make()

    def late() -> None:
        fail(breaker, 5)
        time.advance(60)
        breaker.execute(int)
        raise Boom

    with pytest.raises(Boom):
        breaker.execute(late)
    assert breaker.status().failure_count == 0


def test_slow_calls_open_it(make, time):
    breaker = make(slow_call_seconds=2, slow_call_threshold=0.6)
    for seconds in (1.9, 1.9, 2, 2, 2):
        breaker.execute(time.advance, seconds)
    assert state(breaker) == "open"
    assert breaker.status().slow_count == 3


def test_a_slow_call_counts_in_a_saturated_window_and_a_slow_probe_reopens(make, time):
    breaker = make(slow_call_seconds=2, slow_call_threshold=0.5, window_size=2)
    for _ in range(9):
        breaker.execute(int)
    breaker.execute(time.advance, 2)
    assert state(breaker) == "open"
    time.advance(60)
    breaker.execute(time.advance, 2)
    assert state(breaker) == "open"


def test_record_and_record_result(make):
    breaker = make(record=(OSError,), record_result=lambda value: value is None)
    fail(breaker, 5)
    assert breaker.status().success_count == 5
    for _ in range(5):
        breaker.execute(lambda: None)
    assert state(breaker) == "open"


def test_a_predicate_that_raises_leaves_no_permit_taken(make, time):
    def broken(_: object) -> bool:
        raise Boom("predicate")

    breaker = make(ignore=broken)
    breaker.force_open()
    breaker.reset()
    with pytest.raises(Boom):
        breaker.execute(boom)
    breaker = make(half_open_calls=1, record_result=lambda value: value == "bad")
    for _ in range(5):
        breaker.execute(str, "bad")
    time.advance(60)
    assert breaker.execute(str, "good") == "good"
    assert state(breaker) == "closed"


def test_forced_open_survives_timers(make, time):
    breaker = make()
    breaker.force_open()
    time.advance(1e6)
    with pytest.raises(CircuitOpen) as caught:
        breaker.execute(int)
    assert caught.value.retry_after is None
    status = breaker.status()
    assert (status.state, status.mode) == ("open", "forced_open")
    breaker.reset()
    assert breaker.execute(int) == 0


def test_disabled_allows_every_call_and_records_nothing(opened, time):
    opened.disable()
    fail(opened, 50)
    status = opened.status()
    assert (status.state, status.mode, status.failure_count) == ("closed", "disabled", 0)


def test_status_has_wall_clock_times_and_a_fixed_order_of_fields(opened, time):
    time.advance(1)
    values = opened.status().as_dict()
    assert list(values)[:7] == [
        "name",
        "state",
        "failure_count",
        "success_count",
        "failure_rate",
        "last_failure_time",
        "opened_at",
    ]
    assert values["opened_at"] == values["last_failure_time"] == "2024-01-01T00:00:00Z"
    assert type(values["state"]) is str
    with pytest.raises(FrozenInstanceError):
        opened.status().name = "other"


def test_events(make, time):
    events: list[object] = []
    breaker = make()
    unsubscribe = breaker.on(events.append)
    fail(breaker, 5)
    with pytest.raises(CircuitOpen):
        breaker.execute(int)
    time.advance(60)
    breaker.execute(int)
    changes = [(e.old, e.new) for e in events if isinstance(e, StateChanged)]
    assert changes == [("closed", "open"), ("open", "half_open"), ("half_open", "closed")]
    generations = [e.generation for e in events if isinstance(e, StateChanged)]
    assert generations == sorted(set(generations))
    assert [e.retry_after for e in events if isinstance(e, CallRejected)] == [60]
    count = len(events)
    unsubscribe()
    unsubscribe()
    breaker.force_open()
    assert len(events) == count


def test_a_raising_listener_breaks_nothing_and_is_logged_once(make, caplog):
    breaker = make()
    breaker.on(boom)
    breaker.force_open()
    breaker.reset()
    assert breaker.execute(int) == 0
    assert len(caplog.records) == 1


def test_a_listener_may_call_the_breaker(make):
    breaker, states = make(), []
    breaker.on(lambda event: states.append(breaker.status().state))
    fail(breaker, 5)
    assert states == ["open"]


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("failure_threshold", 0, "above 0 and at most 1"),
        ("failure_threshold", 1.1, "at most 1"),
        ("failure_threshold", "x", "finite number"),
        ("recovery_timeout", 0, "above 0"),
        ("recovery_timeout", -1, "above 0"),
        ("recovery_timeout", float("inf"), "finite"),
        ("window_size", 0, "at least 1"),
        ("window_size", 2.5, "whole number"),
        ("window_seconds", 0, "above 0"),
        ("minimum_calls", 0, "at least 1"),
        ("half_open_calls", 0, "at least 1"),
        ("half_open_timeout", -1, "above 0"),
        ("slow_call_seconds", -1, "above 0"),
        ("slow_call_threshold", 0, "above 0"),
    ],
)
def test_the_constructor_says_what_is_allowed(make, option, value, allowed):
    with pytest.raises(ValueError, match=f"{option} must be .*{allowed}"):
        make(**{option: value})


class Machine(RuleBasedStateMachine):
    """Calls that start and end in any order, compared with the rules."""

    def __init__(self, time) -> None:
        super().__init__()
        self.time = time
        self.breaker = CircuitBreaker(
            "m", 0.5, 10, window_size=4, minimum_calls=2, half_open_calls=2, **time.injectables
        )
        self.running: list[tuple[tuple[int, int | None], int]] = []

    @rule()
    def begin(self) -> None:
        before = self.breaker.status().state
        try:
            permit = self.breaker._permit or self.breaker._acquire_permit()
        except CircuitOpen:
            assert before != State.CLOSED
        else:
            assert before != State.OPEN
            self.running.append((permit, self.breaker.status().generation))

    @rule(failed=st.sampled_from([True, False, None]), index=st.integers(0, 9))
    def end(self, failed: bool | None, index: int) -> None:
        if not self.running:
            return
        permit, generation = self.running.pop(index % len(self.running))
        before = self.breaker.status()
        self.breaker._finish(permit, 0, failed, Boom())
        if before.generation != generation:  # an outcome of an older generation is dropped
            assert self.breaker.status() == before
        elif failed and before.state is State.HALF_OPEN:
            assert self.breaker.status().state is State.OPEN

    @rule(seconds=st.sampled_from([0.5, 5.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.time.advance(seconds)

    @rule()
    def reset(self) -> None:
        self.breaker.reset()
        assert self.breaker.execute(int) == 0

    @invariant()
    def probes_are_bounded_and_not_leaked(self) -> None:
        status = self.breaker.status()
        mine = [permit for permit, generation in self.running if generation == status.generation]
        if status.state is State.HALF_OPEN:
            assert len(self.breaker._probes) == len(mine) <= 2
        else:
            assert not self.breaker._probes


def test_the_breaker_as_a_state_machine(new_time):
    run_state_machine_as_test(
        lambda: Machine(new_time()),
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None),
    )
