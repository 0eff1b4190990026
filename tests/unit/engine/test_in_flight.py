"""What a worker has at items: how far ahead it claims, and what it lets go of."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, replace
from uuid import UUID

from enrichment.domain.model import Task
from enrichment.engine.in_flight import MAX_PREFETCH, PREFETCH_SECONDS, InFlightItems
from tests.helpers.fakes import TASK


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def tasks(count: int, first: int = 0) -> list[Task]:
    return [replace(TASK, symbol=f"S{n}") for n in range(first, first + count)]


def finish(items: InFlightItems, finished: list[Task]) -> None:
    items.add(finished)
    for task in finished:
        items.start(task)
        items.remove(task)


def test_the_first_claim_is_one_item_per_thread() -> None:
    items = InFlightItems(5, clock=Clock())
    assert items.claim_capacity() == 5
    items.add(tasks(5))
    assert items.claim_capacity() == 0


def test_slow_items_are_not_prefetched() -> None:
    clock = Clock()
    items = InFlightItems(2, clock=clock)
    finish(items, tasks(2))
    clock.now += 1.0
    assert items.claim_capacity() == 2


def test_quick_items_are_prefetched_at_the_rate_they_finish() -> None:
    clock = Clock()
    items = InFlightItems(2, clock=clock)
    finish(items, tasks(30))
    clock.now += PREFETCH_SECONDS
    assert items.claim_capacity() == 32
    claimed = tasks(32)
    items.add(claimed)
    for task in claimed[:2]:
        items.start(task)
    assert items.claim_capacity() == 0
    for task in claimed[2:16]:
        items.remove(claimed[int(task.symbol[1:]) - 2])
        items.start(task)
    assert items.claim_capacity() == 0
    items.remove(claimed[14])
    items.start(claimed[16])
    assert items.claim_capacity() == 15  # half of the prefetched items have started


def test_the_prefetch_is_bounded() -> None:
    clock = Clock()
    items = InFlightItems(1, clock=clock)
    finish(items, tasks(5000))
    clock.now += PREFETCH_SECONDS
    assert items.claim_capacity() == 1 + MAX_PREFETCH


def test_an_item_being_stored_frees_its_thread() -> None:
    items = InFlightItems(1, clock=Clock())
    (task,) = tasks(1)
    items.add([task])
    items.start(task)
    items.release_thread(task)
    assert (items.busy, items.claim_capacity()) == (0, 1)
    assert items.steps() == {task: "claimed"}
    assert items.wait_until_empty(0.0) == [task]
    items.remove(task)
    assert items.wait_until_empty(0.0) == []


def test_unstarted_items_can_be_evicted() -> None:
    clock = Clock()
    items = InFlightItems(1, clock=clock)
    started, waiting, late = tasks(3)
    futures: dict[Task, Future[None]] = {task: Future() for task in (started, waiting, late)}
    items.add([started, waiting])
    for task in (started, waiting):
        items.attach_future(task, futures[task])
    futures[started].set_running_or_notify_cancel()
    items.start(started)
    clock.now += 8.0
    items.add([late])
    items.attach_future(late, futures[late])
    assert items.evict_unstarted(5.0) == [waiting]
    assert futures[waiting].cancelled()
    assert items.evict_unstarted(0.0) == [late]
    assert items.steps() == {started: "claimed"}


def test_a_hung_item_has_no_step_to_renew() -> None:
    clock = Clock()
    items = InFlightItems(2, clock=clock)
    hung, fresh = tasks(2)
    items.add([hung, fresh])
    items.start(hung)
    clock.now += 61.0
    items.start(fresh)
    items.set_step(fresh, "fetch 1d")
    assert items.steps(max_seconds=60.0) == {fresh: "fetch 1d"}


def test_a_job_is_drained_when_its_last_item_is_removed() -> None:
    items = InFlightItems(2, clock=Clock())
    first, second = tasks(2)
    other = replace(first, job_id=UUID(int=9))
    items.add([first, second, other])
    items.remove(first)
    assert not items.job_drained()
    items.remove(other)
    assert items.job_drained()
    assert not items.job_drained()
    items.remove(second)
    assert items.job_drained()


def test_reserved_threads_are_for_what_a_person_asked_for_while_others_hold_the_threads() -> None:
    items = InFlightItems(2, 4, clock=Clock())
    clicks = [replace(task, interactive=True) for task in tasks(4)]
    items.add(clicks[:2])
    assert items.reserved_capacity() == 0  # the threads are held by the same kind
    for click in clicks[:2]:
        assert not items.reserve(click)
        items.remove(click)
    night = [replace(task, symbol=f"N{task.symbol}") for task in tasks(2)]
    items.add(night)
    assert (items.claim_capacity(), items.reserved_capacity()) == (0, 2)
    items.add(clicks)
    assert [items.reserve(task) for task in (*night, *clicks)] == [False] * 2 + [True] * 2 + [
        False
    ] * 2
    items.remove(clicks[0])
    assert items.reserved_capacity() == 1
