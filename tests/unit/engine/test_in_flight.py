"""What a worker has at hand: how far ahead it claims, and what it lets go of."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, replace
from uuid import UUID

from enrichment.domain.model import Task
from enrichment.engine.in_flight import AHEAD_SECONDS, MOST_AHEAD, Hand
from tests.helpers.fakes import TASK


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def tasks(count: int, first: int = 0) -> list[Task]:
    return [replace(TASK, symbol=f"S{n}") for n in range(first, first + count)]


def finish(hand: Hand, done: list[Task]) -> None:
    hand.take(done)
    for task in done:
        hand.begin(task)
        hand.drop(task)


def test_at_first_one_item_is_claimed_for_each_thread() -> None:
    hand = Hand(5, Clock())
    assert hand.claim_capacity() == 5
    hand.take(tasks(5))
    assert hand.claim_capacity() == 0


def test_items_that_take_long_are_not_claimed_ahead() -> None:
    clock = Clock()
    hand = Hand(2, clock)
    finish(hand, tasks(2))
    clock.now += 1.0
    assert hand.claim_capacity() == 2


def test_quick_items_are_claimed_ahead_as_many_as_begin_within_the_next_moment() -> None:
    clock = Clock()
    hand = Hand(2, clock)
    finish(hand, tasks(30))
    clock.now += AHEAD_SECONDS
    assert hand.claim_capacity() == 32
    mine = tasks(32)
    hand.take(mine)
    for task in mine[:2]:
        hand.begin(task)
    assert hand.claim_capacity() == 0
    for task in mine[2:16]:
        hand.drop(mine[int(task.symbol[1:]) - 2])
        hand.begin(task)
    assert hand.claim_capacity() == 0
    hand.drop(mine[14])
    hand.begin(mine[16])
    assert hand.claim_capacity() == 15  # half of those ahead have begun


def test_nobody_claims_ahead_without_bounds() -> None:
    clock = Clock()
    hand = Hand(1, clock)
    finish(hand, tasks(5000))
    clock.now += AHEAD_SECONDS
    assert hand.claim_capacity() == 1 + MOST_AHEAD


def test_an_item_that_is_being_stored_leaves_its_thread_to_another() -> None:
    hand = Hand(1, Clock())
    (task,) = tasks(1)
    hand.take([task])
    hand.begin(task)
    hand.leave(task)
    assert (hand.busy, hand.claim_capacity()) == (0, 1)
    assert hand.steps() == {task: "claimed"}
    assert hand.left_after(0.0) == [task]
    hand.drop(task)
    assert hand.left_after(0.0) == []


def test_what_no_thread_has_begun_can_be_given_back() -> None:
    clock = Clock()
    hand = Hand(1, clock)
    begun, waiting, late = tasks(3)
    futures: dict[Task, Future[None]] = {task: Future() for task in (begun, waiting, late)}
    hand.take([begun, waiting])
    for task in (begun, waiting):
        hand.await_thread(task, futures[task])
    futures[begun].set_running_or_notify_cancel()
    hand.begin(begun)
    clock.now += 8.0
    hand.take([late])
    hand.await_thread(late, futures[late])
    assert hand.unbegun(5.0) == [waiting]
    assert futures[waiting].cancelled()
    assert hand.unbegun(0.0) == [late]
    assert hand.steps() == {begun: "claimed"}


def test_an_item_at_work_for_too_long_is_not_vouched_for() -> None:
    clock = Clock()
    hand = Hand(2, clock)
    hung, fresh = tasks(2)
    hand.take([hung, fresh])
    hand.begin(hung)
    clock.now += 61.0
    hand.begin(fresh)
    hand.note(fresh, "fetch 1d")
    assert hand.steps(at_most=60.0) == {fresh: "fetch 1d"}


def test_a_job_has_ended_here_when_its_last_item_goes() -> None:
    hand = Hand(2, Clock())
    first, second = tasks(2)
    other = replace(first, job_id=UUID(int=9))
    hand.take([first, second, other])
    hand.drop(first)
    assert not hand.ended_a_job()
    hand.drop(other)
    assert hand.ended_a_job()
    assert not hand.ended_a_job()
    hand.drop(second)
    assert hand.ended_a_job()
