from __future__ import annotations

import asyncio
import os
import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from resilience import Bulkhead, BulkheadFull, CallRejected, SlotOverrun, remaining
from resilience.bulkhead import _Call
from tests.helpers.waiting import until


class Signal:
    """A threading.Event whose `wait` calls a function of the test instead of blocking."""

    during_wait = staticmethod(lambda timeout: None)

    def __init__(self) -> None:
        self.is_set = False

    def set(self) -> None:
        self.is_set = True

    def wait(self, timeout: float | None = None) -> bool:
        Signal.during_wait(timeout)
        return self.is_set


@pytest.fixture
def make(time, monkeypatch):
    def build(max_concurrent=1, timeout=10, **options):
        return Bulkhead(
            "k", max_concurrent, timeout, **{**time.injectables, "event": Signal, **options}
        )

    monkeypatch.setattr(Signal, "during_wait", time.advance)
    return build


@pytest.fixture
def occupy():
    """Occupies a slot in another thread; the returned function frees it."""
    frees = []

    def take(bulkhead: Bulkhead):
        inside, leave = threading.Event(), threading.Event()

        def body() -> None:
            inside.set()
            leave.wait(10)

        thread = threading.Thread(target=bulkhead.execute, args=(body,))
        thread.start()
        assert inside.wait(5)

        def free(*_: object) -> None:
            leave.set()
            thread.join(5)

        frees.append(free)
        return free

    yield take
    for free in frees:
        free()


def test_status_in_and_after_a_call(make):
    bulkhead = make(2)
    inside = bulkhead.execute(bulkhead.status).as_dict()
    assert list(inside)[:5] == [
        "name",
        "max_concurrent",
        "active_count",
        "available_slots",
        "rejected_count",
    ]
    assert (inside["active_count"], inside["available_slots"]) == (1, 1)
    assert bulkhead.status().active_count == 0


def test_a_call_that_waits_until_its_timeout_is_rejected(make, time, occupy):
    bulkhead, events = make(), []
    bulkhead.on(events.append)
    occupy(bulkhead)
    with pytest.raises(BulkheadFull, match="no slot was free in time"):
        bulkhead.execute(int)
    assert time.ns == 10e9
    status = bulkhead.status()
    assert (status.rejected_count, status.waiting_count, status.active_count) == (1, 0, 1)
    assert [type(event) for event in events] == [CallRejected]


def test_the_wait_counts_towards_the_timeout(make, time, occupy, monkeypatch):
    bulkhead = make()
    free = occupy(bulkhead)
    monkeypatch.setattr(Signal, "during_wait", lambda timeout: (time.advance(4), free()))
    assert bulkhead.execute(remaining) == 6


def test_a_slot_freed_at_the_timeout_is_used(make, time, occupy, monkeypatch):
    bulkhead = make()
    free = occupy(bulkhead)
    monkeypatch.setattr(Signal, "set", lambda self: None)
    monkeypatch.setattr(Signal, "during_wait", lambda timeout: (time.advance(timeout), free()))
    assert bulkhead.execute(int) == 0
    assert bulkhead.status().active_count == 0


def test_calls_that_time_out_leak_no_slot(make, occupy):
    bulkhead = make()
    free = occupy(bulkhead)
    for _ in range(20):
        with pytest.raises(BulkheadFull):
            bulkhead.execute(int)
    free()
    assert bulkhead.execute(bulkhead.status).active_count == 1
    assert bulkhead.status().available_slots == 1


def test_a_slot_given_to_a_call_that_has_just_timed_out_is_freed(make, occupy, monkeypatch):
    bulkhead, timed_out = make(), []
    free = occupy(bulkhead)
    monkeypatch.setattr(Signal, "during_wait", timed_out.append)

    class Slots(set):
        def discard(self, call: object) -> None:
            super().discard(call)
            if timed_out:
                timed_out.clear()
                free()  # the other call ends at this moment

    bulkhead._active = Slots(bulkhead._active)
    with pytest.raises(BulkheadFull):
        bulkhead.execute(int)
    assert bulkhead.status().active_count == 0


def test_ctrl_c_while_waiting_leaks_no_slot(make, occupy, monkeypatch):
    bulkhead = make()
    free = occupy(bulkhead)

    def interrupt(timeout: float) -> None:
        free()  # the slot is freed at this moment
        raise KeyboardInterrupt

    monkeypatch.setattr(Signal, "during_wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bulkhead.execute(int)
    assert bulkhead.status().active_count == bulkhead.status().waiting_count == 0
    assert bulkhead.execute(int) == 0


def test_an_error_frees_the_slot(make):
    bulkhead = make()
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error):
            bulkhead.execute(throw, error())
    assert bulkhead.status().active_count == 0


def throw(error: BaseException) -> None:
    raise error


def test_waiting_calls_get_slots_in_order_of_arrival(occupy):
    bulkhead, order = Bulkhead("k", 1, 30), []
    free = occupy(bulkhead)
    threads = []
    for number in range(5):
        thread = threading.Thread(target=bulkhead.execute, args=(order.append, number))
        thread.start()
        threads.append(thread)
        until(lambda n=number: bulkhead.status().waiting_count == n + 1)
    free()
    for thread in threads:
        thread.join(5)
    assert order == [0, 1, 2, 3, 4]


def test_many_threads_never_exceed_the_limit(in_threads):
    bulkhead, active, counts = Bulkhead("k", 3, 30), [], []

    def work() -> None:
        active.append(1)
        counts.append(len(active))
        threading.Event().wait(0.0001)
        active.pop()

    def client() -> None:
        for _ in range(50):
            bulkhead.execute(work)

    assert in_threads(8, client) == [None] * 8
    assert max(counts) <= 3
    status = bulkhead.status()
    assert (status.active_count, status.waiting_count, status.rejected_count) == (0, 0, 0)


def test_max_queue(make, occupy):
    bulkhead = make(max_queue=0)
    occupy(bulkhead)
    with pytest.raises(BulkheadFull, match="0 calls are waiting"):
        bulkhead.execute(int)


def test_a_nested_call_on_a_full_bulkhead_is_an_error(make, time):
    bulkhead = make(2)

    def nested(depth: int) -> int:
        return depth if depth == 0 else bulkhead.execute(nested, depth - 1)

    assert bulkhead.execute(nested, 1) == 0
    with pytest.raises(BulkheadFull, match="nested"):
        bulkhead.execute(nested, 2)
    assert time.ns == 0
    assert bulkhead.status().active_count == 0


def test_an_overrun_is_counted_and_keeps_its_slot(make, time):
    bulkhead, events = make(), []
    bulkhead.on(events.append)

    def overrun() -> float | None:
        time.advance(15)
        status = bulkhead.status()
        assert (status.active_count, status.overdue_count) == (1, 1)
        return remaining()

    assert bulkhead.execute(overrun) == 0
    assert bulkhead.status().overrun_count == 1
    assert [(type(e), e.seconds) for e in events] == [(SlotOverrun, 5)]
    bulkhead.reset()
    assert bulkhead.status().overrun_count == 0


def test_remaining_is_the_least_of_nested_timeouts(make):
    outer, inner = make(timeout=5), make(timeout=20)
    assert remaining() is None
    assert outer.execute(lambda: (inner.execute(remaining), remaining())) == (5, 5)
    assert inner.execute(lambda: (outer.execute(remaining), remaining())) == (5, 20)
    assert remaining() is None


def test_async_slots_wait_and_time_out():
    bulkhead = Bulkhead("k", 1, 0.02)

    async def hold(gate: asyncio.Event) -> float | None:
        await gate.wait()
        return remaining()

    async def main() -> None:
        gate = asyncio.Event()
        first = asyncio.create_task(bulkhead.execute_async(hold, gate))
        await asyncio.sleep(0)
        with pytest.raises(BulkheadFull):
            await bulkhead.execute_async(hold, gate)
        gate.set()
        assert await first == 0

    asyncio.run(main())
    assert bulkhead.status().active_count == bulkhead.status().waiting_count == 0


def test_async_waiting_calls_get_slots_and_cancelled_ones_leave_the_queue():
    bulkhead = Bulkhead("k", 1, 30)

    async def main() -> list[int]:
        gate, order = asyncio.Event(), []

        async def work(number: int) -> None:
            await gate.wait()
            order.append(number)

        tasks = [asyncio.create_task(bulkhead.execute_async(work, n)) for n in range(4)]
        await asyncio.sleep(0)
        assert bulkhead.status().waiting_count == 3
        tasks[1].cancel()
        gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        return order

    assert asyncio.run(main()) == [0, 2, 3]
    assert bulkhead.status().active_count == 0


def test_async_nesting_and_tasks_that_outlive_their_parent():
    bulkhead = Bulkhead("k", 1, 30)

    async def child(gate: asyncio.Event) -> tuple[float | None, float | None]:
        await gate.wait()

        async def inside() -> float | None:
            return remaining()

        return remaining(), await bulkhead.execute_async(inside)

    async def parent(gate: asyncio.Event) -> asyncio.Task:
        with pytest.raises(BulkheadFull, match="nested"):
            await bulkhead.execute_async(asyncio.sleep, 0)
        return asyncio.create_task(child(gate))

    async def main() -> None:
        gate = asyncio.Event()
        task = await bulkhead.execute_async(parent, gate)
        gate.set()
        orphaned, own = await task
        assert orphaned is None
        assert 0 < own <= 30

    asyncio.run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_frees_the_slots_of_other_threads(occupy):
    bulkhead = Bulkhead("k", 1, 30)
    occupy(bulkhead)
    bulkhead._lock.acquire()  # as if another thread held it at the time of the fork
    child = os.fork()
    if child == 0:
        os._exit(0 if bulkhead.execute(lambda: bulkhead.status().active_count) == 1 else 1)
    bulkhead._lock.release()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        ("max_concurrent", 0, "at least 1"),
        ("timeout", 0, "above 0"),
        ("timeout", -5, "above 0"),
        ("max_queue", -1, "at least 0"),
    ],
)
def test_the_constructor_says_what_is_allowed(make, option, value, allowed):
    with pytest.raises(ValueError, match=f"{option} must be .*{allowed}"):
        make(**{option: value})


class Machine(RuleBasedStateMachine):
    """Calls that enter, wait, time out and leave in any order; no slot is lost."""

    def __init__(self, time) -> None:
        super().__init__()
        self.bulkhead = Bulkhead("m", 2, 10, **time.injectables)
        self.inside: list[_Call] = []
        self.waiting: list[_Call] = []

    @rule()
    def enter(self) -> None:
        call = _Call(self.bulkhead, 10**12, None)
        if self.bulkhead._enter(call) or self.bulkhead._enqueue(call, lambda: None):
            self.inside.append(call)
        else:
            self.waiting.append(call)

    @rule(index=st.integers(0, 5))
    def leave(self, index: int) -> None:
        if self.inside:
            self.bulkhead._leave(self.inside.pop(index % len(self.inside)))
            self.promote()

    @rule(index=st.integers(0, 5))
    def time_out(self, index: int) -> None:
        if self.waiting:
            self.bulkhead._leave(self.waiting.pop(index % len(self.waiting)))

    def promote(self) -> None:
        if self.waiting:  # the first in the queue
            assert self.bulkhead.has_slot(self.waiting[0])
            self.inside.append(self.waiting.pop(0))

    @invariant()
    def slots_add_up(self) -> None:
        status = self.bulkhead.status()
        assert status.active_count == len(self.inside) <= 2
        assert status.waiting_count == len(self.waiting)
        assert not self.waiting or len(self.inside) == 2


def test_the_bulkhead_as_a_state_machine(new_time):
    run_state_machine_as_test(
        lambda: Machine(new_time()),
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None),
    )
