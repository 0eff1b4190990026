from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilience import (
    CircuitOpen,
    RateLimited,
    RetriesStopped,
    RetryPolicy,
    RetryScheduled,
    Sleeper,
    retry_after_of,
)


class Transient(Exception):
    pass


class Flaky:
    """Fails with each of `errors`, then returns `value`."""

    def __init__(self, *errors: BaseException, value: object = "ok") -> None:
        self.errors, self.value, self.calls = list(errors), value, 0

    def __call__(self) -> object:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.value

    async def later(self) -> object:
        return self()


@pytest.fixture
def make(time):
    def build(*args, **options):
        injectables = {**time.sleeping_injectables, "rng": lambda: 0.5, "jitter": "none"}
        return RetryPolicy("r", *args, **{**injectables, **options})

    return build


class ServerError(Exception):
    def __init__(self, retry_after: object) -> None:
        self.retry_after = retry_after


def test_max_retries_3_is_four_calls_with_delays_1_2_4(make, time):
    errors = [Transient(n) for n in range(9)]
    flaky = Flaky(*errors)
    with pytest.raises(Transient, match="3") as caught:
        make().execute(flaky)
    assert caught.value is errors[3]
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert (flaky.calls, time.slept) == (4, [1, 2, 4])


def test_no_retries_is_one_call(make):
    flaky = Flaky(Transient())
    with pytest.raises(Transient):
        make(0).execute(flaky)
    assert flaky.calls == 1


def test_delays_are_capped(make, time):
    make(9, 1, 5, 3).execute(Flaky(*[Transient()] * 5))
    assert time.slept == [1, 3, 5, 5, 5]


def test_an_overflowing_backoff_is_the_cap(make):
    policy = make()
    assert policy.backoff(1024) == 60  # 2.0**1024 raises OverflowError
    assert make(backoff_multiplier=10).backoff(10**6) == 60


@pytest.mark.parametrize(("jitter", "delay"), [("full", 2.5), ("equal", 3.75), ("none", 5)])
def test_jitter_is_drawn_after_the_cap(make, time, jitter, delay):
    make(1, 100, 5, jitter=jitter).execute(Flaky(Transient()))
    assert time.slept == [delay]


@given(retry=st.integers(0, 2000), draw=st.floats(0, 1, exclude_max=True))
def test_jittered_delays_stay_in_their_range(retry, draw):
    for jitter, least in (("full", 0.0), ("equal", 0.5)):
        policy = RetryPolicy("r", jitter=jitter, rng=lambda: draw)
        cap = policy.backoff(retry)
        assert least * cap <= policy._jittered_delay(retry) <= cap <= 60


def test_only_the_given_errors_are_retried(make):
    flaky = Flaky(ValueError("no"))
    with pytest.raises(ValueError, match="no"):
        make(retry_on=(Transient,)).execute(flaky)
    assert flaky.calls == 1
    policy = make(retry_on=lambda error: "again" in str(error))
    assert policy.execute(Flaky(ValueError("again"))) == "ok"


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_ctrl_c_is_not_retried(make, error):
    flaky = Flaky(error())
    with pytest.raises(error):
        make().execute(flaky)
    assert flaky.calls == 1


def test_ctrl_c_ends_a_sleep(make, time):
    def interrupt() -> None:
        raise KeyboardInterrupt

    time.on_sleep = interrupt
    with pytest.raises(KeyboardInterrupt):
        make().execute(Flaky(Transient()))


def test_cancellation_is_not_retried(make):
    flaky = Flaky(asyncio.CancelledError())

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await make().execute_async(flaky.later)

    asyncio.run(main())
    assert flaky.calls == 1


def test_retry_after_beats_the_cap(make, time):
    make(max_delay=5).execute(Flaky(ServerError(90)))
    assert time.slept == [90]


def test_retry_after_does_not_beat_the_deadline(make, time):
    with pytest.raises(ServerError):
        make(deadline=60).execute(Flaky(ServerError(90)))
    assert time.slept == []


def test_the_deadline_is_never_overshot(make, time):
    flaky = Flaky(*[Transient()] * 99)
    with pytest.raises(Transient):
        make(99, deadline=7).execute(flaky)
    assert time.slept == [1, 2]  # 3 s elapsed, and 4 more would reach the deadline
    assert time.ns < 7e9


def test_the_deadline_counts_the_calls_too(make, time):
    def slow() -> None:
        time.advance(3)
        raise Transient

    with pytest.raises(Transient):
        make(99, deadline=7.5).execute(slow)
    assert time.slept == [1]


def test_rejections_are_retried_only_if_configured(make, time):
    flaky = Flaky(CircuitOpen("b", 5.0))
    with pytest.raises(CircuitOpen):
        make().execute(flaky)
    assert make(retry_rejections=True).execute(Flaky(RateLimited("l", 5.0))) == "ok"
    assert time.slept == [5]
    with pytest.raises(CircuitOpen):
        make(retry_rejections=True, deadline=5).execute(Flaky(CircuitOpen("b", 5.0)))
    with pytest.raises(CircuitOpen):
        make(retry_rejections=True).execute(Flaky(CircuitOpen("b", None)))


def test_the_budget_throttles_retries(make, time):
    policy = make(1, 0, budget=2)
    for _ in range(2):
        policy.execute(Flaky(Transient()))  # each retry that succeeds returns a tenth
    flaky = Flaky(Transient())
    with pytest.raises(Transient):
        policy.execute(flaky)
    assert flaky.calls == 1
    assert policy.status().budget == 0.2
    for _ in range(8):
        policy.execute(Flaky())
    assert policy.execute(Flaky(Transient())) == "ok"


def test_the_budget_never_exceeds_its_size(make):
    policy = make(1, 0, budget=1)
    policy.execute(Flaky(Transient()))
    for _ in range(50):
        policy.execute(Flaky())
    assert policy.status().budget == 1


def test_retry_result(make, time):
    values = iter([None, None, "there"])
    assert make(retry_result=lambda value: value is None).execute(lambda: next(values)) == "there"
    assert make(2, retry_result=lambda value: value is None).execute(lambda: None) is None


def test_async_delays(make, time):
    flaky = Flaky(Transient(), Transient())
    assert asyncio.run(make().execute_async(flaky.later)) == "ok"
    assert time.slept == [1, 2]


def test_close_interrupts_a_sleeping_thread_which_raises_its_last_error():
    sleeper, sleeping, errors = Sleeper(), threading.Event(), []
    policy = RetryPolicy("r", 3, 3600, 3600, jitter="none", sleeper=sleeper)
    policy.on(lambda event: sleeping.set())

    def body() -> None:
        try:
            policy.execute(Flaky(Transient("mine"), Transient("other")))
        except Transient as error:
            errors.append(str(error))

    thread = threading.Thread(target=body)
    thread.start()
    assert sleeping.wait(5)
    sleeper.close()
    thread.join(5)
    assert errors == ["mine"]


def test_close_interrupts_a_sleeping_coroutine():
    sleeper = Sleeper()
    policy = RetryPolicy("r", 3, 3600, 3600, jitter="none", sleeper=sleeper)
    policy.on(lambda event: threading.Thread(target=sleeper.close).start())
    with pytest.raises(Transient, match="mine"):
        asyncio.run(policy.execute_async(Flaky(Transient("mine"), Transient("other")).later))


def test_events_and_status(make, time):
    policy, events = make(1), []
    policy.on(events.append)
    with pytest.raises(Transient):
        policy.execute(Flaky(*[Transient()] * 2))
    scheduled, stopped = events
    assert isinstance(scheduled, RetryScheduled)
    assert (scheduled.attempt, scheduled.delay) == (1, 1)
    assert isinstance(stopped, RetriesStopped)
    assert (stopped.attempt, stopped.reason) == (2, "attempts")
    status = policy.status()
    assert (status.retry_count, status.stopped_count, status.budget) == (1, 1, 99)
    policy.reset()
    assert policy.status().budget == 100


def test_a_huge_retry_after_is_capped():
    policy = RetryPolicy("r", deadline=60)
    with pytest.raises(ServerError):
        policy.execute(Flaky(ServerError(1e300)))
    sleeper = Sleeper()
    policy = RetryPolicy("r", sleeper=sleeper)
    sleeper.close()
    with pytest.raises(ServerError):
        policy.execute(Flaky(ServerError(1e300)))


def response_error(**headers: str) -> Exception:
    error = Exception()
    error.response = SimpleNamespace(headers={k.replace("_", "-"): v for k, v in headers.items()})
    return error


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (ServerError(3), 3.0),
        (ServerError("2.5"), 2.5),
        (ServerError(-3), 0.0),
        (ServerError(float("nan")), None),
        (ServerError(object()), None),
        (response_error(Retry_After="120"), 120.0),
        (response_error(retry_after="120"), 120.0),
        (response_error(Retry_After="Mon, 01 Jan 2024 00:01:30 GMT"), 90.0),
        (response_error(Retry_After="Mon, 01 Jan 2024 00:01:30 -0000"), 90.0),
        (response_error(Retry_After="Sun, 31 Dec 2023 00:00:00 GMT"), 0.0),
        (response_error(Retry_After="soon"), None),
        (response_error(Retry_After="inf"), None),
        (response_error(), None),
        (SimpleNamespace(response=None), None),
        (Transient(), None),
    ],
)
def test_retry_after_of(time, error, seconds):
    assert retry_after_of(error, time.wall) == seconds


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("max_retries", -1, "at least 0"),
        ("max_retries", 1.5, "whole number"),
        ("initial_delay", -1, "at least 0"),
        ("max_delay", float("nan"), "finite"),
        ("backoff_multiplier", 0, "above 0"),
        ("jitter", "some", "one of full, equal, none"),
        ("deadline", 0, "above 0"),
        ("budget", -1, "at least 0"),
    ],
)
def test_the_constructor_says_what_is_allowed(make, option, value, allowed):
    with pytest.raises(ValueError, match=f"{option} must be .*{allowed}"):
        make(**{option: value})
