from __future__ import annotations

import asyncio
import inspect
import json
import os
import pickle
import threading

import pytest

from resilience import (
    BreakerAction,
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    CircuitOpen,
    Mode,
    OperatorCommand,
    RateLimited,
    RateLimiter,
    RetryPolicy,
    StateChanged,
    WrongCallStyle,
    init_resilience_manager,
    remaining,
)
from resilience.publishing import StatusFeed


@pytest.fixture
def manager(time):
    manager = init_resilience_manager(**time.sleeping_injectables, rng=lambda: 1.0)
    yield manager
    manager.close()


class QuotaExceeded(Exception):
    retry_after = 30.0


def throw(error: BaseException) -> None:
    raise error


async def nothing() -> None:
    return None


PATTERNS = [CircuitBreaker, RateLimiter, RetryPolicy, Bulkhead]


def test_the_defaults_are_those_of_the_contract(manager):
    breaker = manager.register_circuit_breaker()
    assert breaker.name == "polygon_api"
    limiter = manager.register_rate_limiter().status()
    assert (limiter.name, limiter.rate, limiter.interval, limiter.burst) == (
        "api_client",
        100,
        60,
        150,
    )
    retry = manager.register_retry_policy()
    assert (retry.name, retry.max_retries) == ("enrichment_retry", 3)
    assert [retry.backoff(k) for k in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    bulkhead = manager.register_bulkhead()
    assert (bulkhead.name, bulkhead.max_concurrent) == ("enrichment_processor", 10)
    assert bulkhead.execute(remaining) == 300


def test_registering_an_equal_configuration_returns_the_same_object(manager):
    first = manager.register_circuit_breaker("vendor", window_size=20)
    assert manager.register_circuit_breaker("vendor", 0.5, recovery_timeout=60.0) is first
    assert manager.register_bulkhead("vendor") is manager.register_bulkhead("vendor", 10)


def test_a_conflict_names_both_configurations(manager):
    manager.register_rate_limiter("vendor", 5)
    with pytest.raises(ValueError, match=r"'vendor' is .*'rate': 5,.* conflict .*'rate': 6,"):
        manager.register_rate_limiter("vendor", 6)
    with pytest.raises(TypeError):
        manager.register_rate_limiter("vendor", unknown=1)
    with pytest.raises(ValueError, match="name must be"):
        manager.register_bulkhead("")


def test_all_status_is_json_and_reset_all_resets(manager):
    manager.register_circuit_breaker("a").force_open()
    manager.register_rate_limiter("b").pause(10)
    manager.register_retry_policy("c")
    manager.register_bulkhead("d")
    statuses = manager.all_status()
    values = json.loads(json.dumps([status.as_dict() for status in statuses]))
    assert [s["kind"] for s in values] == ["circuit_breaker", "rate_limiter", "retry", "bulkhead"]
    assert values[0]["state"] == "open"
    manager.reset_all()
    assert manager.all_status()[0].state == "closed"
    assert manager.all_status()[1].paused_until is None


def test_a_listener_receives_the_events_of_all_patterns(manager):
    names = []
    manager.register_circuit_breaker("early").on(throw)  # raises, without effect
    unsubscribe = manager.on(lambda event: names.append(event.name))
    manager.register_circuit_breaker("late").force_open()
    manager.register_circuit_breaker("early").force_open()
    unsubscribe()
    manager.reset_all()
    assert names == ["late", "early"]


def test_each_attempt_takes_a_permit_and_sleeping_takes_no_slot(manager, time):
    breaker = manager.register_circuit_breaker()
    limiter = manager.register_rate_limiter()
    bulkhead = manager.register_bulkhead()
    retry = manager.register_retry_policy()
    call = manager.pipeline(breaker=breaker, limiter=limiter, retry=retry, bulkhead=bulkhead)
    active, active_asleep = [], []
    time.on_sleep = lambda: active_asleep.append(bulkhead.status().active_count)

    def flaky() -> str:
        active.append(bulkhead.status().active_count)
        if len(active) < 3:
            raise OSError
        return "ok"

    assert call.execute(flaky) == "ok"
    assert (active, active_asleep) == ([1, 1, 1], [0, 0])
    assert limiter.status().granted_count == 3
    assert breaker.status().failure_count == 2


@pytest.mark.parametrize("inner", ["limiter", "bulkhead"])
def test_rejections_are_not_failures_and_are_not_retried(manager, time, inner):
    breaker = manager.register_circuit_breaker()
    limiter = manager.register_rate_limiter("l", 1, 60, 1, max_wait=0)
    bulkhead = manager.register_bulkhead("k", 1)
    retry = manager.register_retry_policy()
    patterns = {"limiter": limiter} if inner == "limiter" else {"bulkhead": bulkhead}
    call = manager.pipeline(breaker=breaker, retry=retry, **patterns)

    def rejected() -> None:
        for _ in range(20):
            with pytest.raises((RateLimited, BulkheadFull)):
                call.execute(int)

    (limiter if inner == "limiter" else bulkhead).execute(rejected)
    assert breaker.status().failure_count == 0
    assert time.slept == []


def test_an_open_breaker_takes_no_permit(manager):
    breaker, limiter = manager.register_circuit_breaker(), manager.register_rate_limiter()
    breaker.force_open()
    with pytest.raises(CircuitOpen):
        manager.pipeline(breaker=breaker, limiter=limiter).execute(int)
    assert limiter.status().granted_count == 0


def test_a_429_pauses_the_limiter_and_is_not_a_failure(manager, time):
    breaker = manager.register_circuit_breaker(ignore=(QuotaExceeded,))
    limiter = manager.register_rate_limiter()
    retry = manager.register_retry_policy()
    call = manager.pipeline(
        breaker=breaker,
        limiter=limiter,
        retry=retry,
        pause_on=lambda error: error.retry_after if isinstance(error, QuotaExceeded) else None,
    )
    errors = [QuotaExceeded(), OSError()]

    def vendor() -> float:
        if errors:
            raise errors.pop(0)
        return time.ns / 1e9

    assert call.execute(vendor) == 32  # 30 s as asked, then the backoff before the second retry
    assert breaker.status().failure_count == 1
    with pytest.raises(ValueError, match="needs a limiter"):
        manager.pipeline(breaker=breaker, pause_on=lambda error: 1)


def test_the_pipeline_works_for_coroutines_and_as_a_decorator(manager, time):
    call = manager.pipeline(
        breaker=manager.register_circuit_breaker(),
        limiter=manager.register_rate_limiter(),
        retry=manager.register_retry_policy(),
        bulkhead=manager.register_bulkhead(),
        pause_on=lambda error: 5.0,
    )
    attempts = []

    @call
    async def vendor(x: int, *, y: int = 1) -> int:
        """Doc."""
        attempts.append(x)
        if len(attempts) < 2:
            raise OSError
        return x + y

    assert inspect.iscoroutinefunction(vendor)
    assert (vendor.__name__, vendor.__doc__) == ("vendor", "Doc.")
    assert asyncio.run(vendor(1, y=2)) == 3
    assert manager.register_rate_limiter().status().granted_count == 2


@pytest.mark.parametrize("kind", PATTERNS)
def test_a_decorated_function_keeps_its_signature(kind):
    @kind("d")
    def add(x: int, y: int = 2) -> int:
        return x + y

    assert add(1) == 3
    assert str(inspect.signature(add)) == "(x: 'int', y: 'int' = 2) -> 'int'"

    @kind("d")
    async def add_async(x: int) -> int:
        return x + 1

    assert asyncio.run(add_async(1)) == 2


@pytest.mark.parametrize("kind", PATTERNS)
def test_the_wrong_kind_of_function_is_a_type_error_and_not_a_failure(kind):
    pattern = kind("w")
    for _ in range(9):
        with pytest.raises(TypeError, match="use execute_async"):
            pattern.execute(nothing)
        with pytest.raises(WrongCallStyle, match="use execute"):
            asyncio.run(pattern.execute_async(int))
    assert getattr(pattern.status(), "failure_count", 0) == 0


def test_errors_survive_pickling():
    for error in (
        CircuitOpen("b", 1.5, OSError("x")),
        RateLimited("l", 2.0),
        BulkheadFull("k", 3, "why"),
        WrongCallStyle("w"),
    ):
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        assert (str(copy), copy.name, copy.retry_after) == (
            str(error),
            error.name,
            error.retry_after,
        )
    assert str(CircuitOpen("b", 1.5)) == "circuit 'b' is open; retry in 1.5 s"


class FakeStore:
    """Keeps what is published; raises while it is `down`."""

    def __init__(self) -> None:
        self.down = False
        self.batches: list[tuple[tuple, tuple]] = []
        self.commands: list[OperatorCommand] = []
        self.published = threading.Event()

    def publish(self, snapshots, transitions) -> None:
        if self.down:
            raise OSError("database is down")
        self.batches.append((tuple(snapshots), tuple(transitions)))
        if transitions:
            self.published.set()

    def pending(self) -> list[OperatorCommand]:
        commands, self.commands = self.commands, []
        return commands

    def names(self) -> list[list[str]]:
        return [[snapshot.status.name for snapshot in batch] for batch, _ in self.batches]


@pytest.fixture
def feed(time):
    """A feed without its thread, its store, and a manager with two patterns."""
    store, manager = FakeStore(), init_resilience_manager(**time.sleeping_injectables)
    manager.register_circuit_breaker("a")
    manager.register_bulkhead("b")
    feed = StatusFeed(
        manager.all_status, store, store, manager.apply, clock=time, wall_clock=time.wall
    )
    manager.on(lambda e: feed._transitions.append(e) if isinstance(e, StateChanged) else None)
    return feed, store, manager


def test_changes_are_published_and_all_statuses_as_a_heartbeat(feed, time):
    feed, store, manager = feed
    feed.run_once()
    feed.run_once()
    assert store.names() == [["a", "b"]]
    manager.register_circuit_breaker("a").execute(int)
    time.advance(1)
    feed.run_once()
    assert store.names()[1:] == [["a"]]
    time.advance(4)
    feed.run_once()
    assert store.names()[2:] == [["a", "b"]]


def test_sequence_numbers_grow_also_across_restarts(feed, time):
    feed, store, manager = feed
    feed.run_once()
    time.advance(10)
    feed.run_once()
    numbers = [snapshot.sequence for batch, _ in store.batches for snapshot in batch]
    assert numbers == sorted(set(numbers))
    time.advance(1)
    restarted = StatusFeed(manager.all_status, store, None, print, clock=time, wall_clock=time.wall)
    restarted.run_once()
    assert store.batches[-1][0][0].sequence > max(numbers)


def test_what_an_unavailable_store_missed_is_published_later(feed, caplog):
    feed, store, manager = feed
    store.down = True
    manager.register_circuit_breaker("a").force_open()
    for _ in range(5):
        feed.run_once()
    assert len(caplog.records) == 1
    store.down = False
    feed.run_once()
    ((snapshots, transitions),) = store.batches
    assert [snapshot.status.name for snapshot in snapshots] == ["a", "b"]
    assert [(t.old, t.new) for t in transitions] == [("closed", "open")]


def test_operators_commands_are_executed(feed):
    feed, store, manager = feed
    breaker = manager.register_circuit_breaker("a")
    expected = {
        BreakerAction.FORCE_OPEN: Mode.FORCED_OPEN,
        BreakerAction.DISABLE: Mode.DISABLED,
        BreakerAction.RESET: Mode.AUTO,
    }
    for action, mode in expected.items():
        store.commands = [OperatorCommand("unknown", action), OperatorCommand("a", action)]
        feed.run_once()
        assert breaker.status().mode == mode
    assert store.batches[-1][0][0].status.mode == "auto"  # published in the same run


def test_the_daemon_starts_lazily_and_publishes_transitions_at_once():
    store = FakeStore()
    manager = init_resilience_manager(publisher=store)
    assert manager._feed._thread is None
    breaker = manager.register_circuit_breaker("a")
    assert manager._feed._thread.daemon
    breaker.force_open()
    assert store.published.wait(5)
    manager.register_bulkhead("b")
    manager.close()
    manager.close()
    assert "b" in store.names()[-1]
    assert breaker.status().state == "open"


def test_a_raising_publisher_does_not_affect_calls(caplog):
    store = FakeStore()
    store.down = True
    manager = init_resilience_manager(publisher=store)
    breaker = manager.register_circuit_breaker("a")
    breaker.force_open()
    breaker.reset()
    assert breaker.execute(int) == 0
    manager.close()


def test_without_a_publisher_there_is_no_thread(manager):
    manager.register_circuit_breaker().force_open()
    assert manager._feed._thread is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_publishes_and_registers():
    store = FakeStore()
    manager = init_resilience_manager(publisher=store)
    breaker = manager.register_circuit_breaker("a")
    manager._lock.acquire()
    breaker._lock.acquire()
    child = os.fork()
    if child == 0:
        store.published = threading.Event()
        manager.register_circuit_breaker("b")
        breaker.force_open()
        os._exit(0 if store.published.wait(5) else 1)
    breaker._lock.release()
    manager._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    manager.close()


def test_close_interrupts_the_retries_of_the_manager():
    manager = init_resilience_manager()
    retry = manager.register_retry_policy("r", 3, 3600, 3600, jitter="none")
    retry.on(lambda event: threading.Thread(target=manager.close).start())
    with pytest.raises(OSError, match="mine"):
        retry.execute(throw, OSError("mine"))
