"""What a worker has at hand: how far ahead it claims, and what it lets go of."""

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


def finish(hand: InFlightItems, done: list[Task]) -> None:
    hand.add(done)
    for task in done:
        hand.start(task)
        hand.remove(task)


def test_at_first_one_item_is_claimed_for_each_thread() -> None:
    hand = InFlightItems(5, Clock())
    assert hand.claim_capacity() == 5
    hand.add(tasks(5))
    assert hand.claim_capacity() == 0


def test_items_that_take_long_are_not_claimed_ahead() -> None:
    clock = Clock()
    hand = InFlightItems(2, clock)
    finish(hand, tasks(2))
    clock.now += 1.0
    assert hand.claim_capacity() == 2


def test_quick_items_are_claimed_ahead_as_many_as_begin_within_the_next_moment() -> None:
    clock = Clock()
    hand = InFlightItems(2, clock)
    finish(hand, tasks(30))
    clock.now += PREFETCH_SECONDS
    assert hand.claim_capacity() == 32
    mine = tasks(32)
    hand.add(mine)
    for task in mine[:2]:
        hand.start(task)
    assert hand.claim_capacity() == 0
    for task in mine[2:16]:
        hand.remove(mine[int(task.symbol[1:]) - 2])
        hand.start(task)
    assert hand.claim_capacity() == 0
    hand.remove(mine[14])
    hand.start(mine[16])
    assert hand.claim_capacity() == 15  # half of those ahead have begun


def test_nobody_claims_ahead_without_bounds() -> None:
    clock = Clock()
    hand = InFlightItems(1, clock)
    finish(hand, tasks(5000))
    clock.now += PREFETCH_SECONDS
    assert hand.claim_capacity() == 1 + MAX_PREFETCH


def test_an_item_that_is_being_stored_leaves_its_thread_to_another() -> None:
    hand = InFlightItems(1, Clock())
    (task,) = tasks(1)
    hand.add([task])
    hand.start(task)
    hand.release_thread(task)
    assert (hand.busy, hand.claim_capacity()) == (0, 1)
    assert hand.steps() == {task: "claimed"}
    assert hand.wait_until_empty(0.0) == [task]
    hand.remove(task)
    assert hand.wait_until_empty(0.0) == []


def test_what_no_thread_has_begun_can_be_given_back() -> None:
    clock = Clock()
    hand = InFlightItems(1, clock)
    begun, waiting, late = tasks(3)
    futures: dict[Task, Future[None]] = {task: Future() for task in (begun, waiting, late)}
    hand.add([begun, waiting])
    for task in (begun, waiting):
        hand.attach_future(task, futures[task])
    futures[begun].set_running_or_notify_cancel()
    hand.start(begun)
    clock.now += 8.0
    hand.add([late])
    hand.attach_future(late, futures[late])
    assert hand.evict_unstarted(5.0) == [waiting]
    assert futures[waiting].cancelled()
    assert hand.evict_unstarted(0.0) == [late]
    assert hand.steps() == {begun: "claimed"}


def test_an_item_at_work_for_too_long_is_not_vouched_for() -> None:
    clock = Clock()
    hand = InFlightItems(2, clock)
    hung, fresh = tasks(2)
    hand.add([hung, fresh])
    hand.start(hung)
    clock.now += 61.0
    hand.start(fresh)
    hand.set_step(fresh, "fetch 1d")
    assert hand.steps(max_seconds=60.0) == {fresh: "fetch 1d"}


def test_a_job_has_ended_here_when_its_last_item_goes() -> None:
    hand = InFlightItems(2, Clock())
    first, second = tasks(2)
    other = replace(first, job_id=UUID(int=9))
    hand.add([first, second, other])
    hand.remove(first)
    assert not hand.job_drained()
    hand.remove(other)
    assert hand.job_drained()
    assert not hand.job_drained()
    hand.remove(second)
    assert hand.job_drained()
