"""Resilience patterns across processes: shared quotas, statuses and commands in Postgres."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, text

from enrichment.domain.errors import InvalidRequest, UnknownLimiter
from enrichment.services import health
from enrichment.services.commands import Commands
from enrichment.warehouse.database import Database
from enrichment.warehouse.read_models.dto import PatternStatus
from enrichment.warehouse.read_models.facade import ReadModels
from enrichment.warehouse.resilience_state import ResilienceStore, SharedLimits
from resilience import (
    Limit,
    Priority,
    RateLimited,
    RateLimiter,
    Reservation,
    ResilienceManager,
    init_resilience_manager,
)
from resilience.schedule import Schedule, Ticket
from tests.helpers.waiting import until

NAME = "polygon_api"
FIVE_A_MINUTE = Limit(5, 60.0, 5, 5, strict=True)


def reserve_ten(url: str, results: multiprocessing.Queue[int]) -> None:
    """In a process of its own: make ten reservations that may not wait."""
    db = Database(url, pool_size=1)
    limits = SharedLimits(db)
    answers = [limits.reserve(NAME, FIVE_A_MINUTE, 1, Priority.NORMAL, 0.0) for _ in range(10)]
    db.close()
    results.put(sum(answer.granted for answer in answers))


def reader(db: Database) -> ReadModels:
    return ReadModels(db)


def manager_of(db: Database, worker: str) -> ResilienceManager:
    store = ResilienceStore(db, worker)
    return init_resilience_manager(publisher=store, commands=store)


def published(db: Database, worker: str) -> PatternStatus | None:
    """The status of the worker's only pattern."""
    patterns = [p for p in reader(db).resilience() if p.worker_id == worker]
    return patterns[0] if patterns else None


def state(db: Database, worker: str) -> str | None:
    pattern = published(db, worker)
    return None if pattern is None else pattern.state


def fail() -> None:
    raise OSError("the vendor is down")


def test_four_processes_share_a_quota_of_five_a_minute(db: Database, db_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[int] = context.Queue()
    processes = [context.Process(target=reserve_ten, args=(db_url, results)) for _ in range(4)]
    for process in processes:
        process.start()
    granted = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
        process.close()
    results.close()
    results.join_thread()
    assert sum(granted) == 5


def test_reservations_wait_in_order_and_too_long_a_wait_reserves_nothing(db: Database) -> None:
    limits, steady = SharedLimits(db), Limit(60, 60.0, 2, 2, strict=False)
    waits = [limits.reserve("steady", steady, 1, Priority.NORMAL, None).wait for _ in range(5)]
    assert waits[:2] == [0.0, 0.0]
    for wait, expected in zip(waits[2:], (1.0, 2.0, 3.0), strict=True):
        assert expected - 0.5 < wait <= expected
    rejected = limits.reserve("steady", steady, 1, Priority.NORMAL, 0.5)
    assert not rejected.granted
    assert 3.0 < rejected.wait <= 4.0
    assert limits.reserve("steady", steady, 1, Priority.NORMAL, None).wait <= 4.0


def test_strict_permits_of_any_interval_never_exceed_the_rate(db: Database) -> None:
    limits = SharedLimits(db)
    waits = [
        limits.reserve("strict", Limit(3, 60.0, 3, 3, True), 1, Priority.NORMAL, None).wait
        for _ in range(9)
    ]
    assert waits[:3] == [0.0, 0.0, 0.0]
    assert all(59.0 < wait <= 60.0 for wait in waits[3:6])
    assert all(119.0 < wait <= 120.0 for wait in waits[6:9])


def test_high_priority_takes_the_next_permit_of_those_that_wait(db: Database) -> None:
    limits = SharedLimits(db)
    limit = Limit(5, 60.0, 5, 1, strict=True)

    def reserve(priority: Priority, timeout: float | None = None) -> Reservation:
        return limits.reserve("lanes", limit, 1, priority, timeout)

    night = [reserve(Priority.NORMAL, 30.0) for _ in range(4)]
    assert [round(permit.wait) for permit in night] == [0, 12, 24, 36]
    assert [permit.granted for permit in night] == [True, True, True, False]
    clicks = [reserve(Priority.HIGH) for _ in range(5)]
    assert [round(click.wait) for click in clicks] == [0, 0, 0, 0, 60]
    assert all(click.ticket is None for click in clicks)
    assert not any(limits.confirm("lanes", p.ticket).granted for p in night[1:3] if p.ticket)
    assert round(reserve(Priority.NORMAL).wait) == 72


def test_a_reservation_that_high_priority_delays_is_confirmed_later(db: Database) -> None:
    limits = SharedLimits(db)
    limit = Limit(5, 60.0, 5, 1, strict=True)
    first, second, third = (
        limits.reserve("lanes", limit, 1, Priority.NORMAL, None) for _ in range(3)
    )
    for _ in range(4):
        assert limits.reserve("lanes", limit, 1, Priority.HIGH, None).wait == 0.0
    assert first.ticket is None
    for waiting, seconds in ((second, 60), (third, 72)):
        assert waiting.ticket is not None
        confirmed = limits.confirm("lanes", waiting.ticket)
        assert confirmed.granted
        assert round(confirmed.wait) == seconds


@pytest.fixture
def settable(db: Database) -> Iterator[Database]:
    """A database whose functions take clock_timestamp() from `clock.seconds`."""
    with db.begin() as conn:
        conn.execute(text("CREATE SCHEMA clock"))
        conn.execute(text("CREATE TABLE clock.reading AS SELECT 0.0::numeric AS seconds"))
        conn.execute(
            text(
                "CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS"
                " 'SELECT to_timestamp(0) + seconds * interval ''1 second'' FROM clock.reading'"
            )
        )
    other = Database(db.url.render_as_string(hide_password=False), pool_size=1)

    @event.listens_for(other.engine, "connect")
    def use_the_clock(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET search_path = clock, public, pg_catalog")
        connection.commit()

    yield other
    other.close()


@pytest.mark.parametrize("strict", [True, False])
def test_the_shared_arithmetic_is_that_of_each_process(settable: Database, strict: bool) -> None:
    """Random calls of both priorities, of one and of several permits, some with a timeout."""
    rng, limits = random.Random(int(strict)), SharedLimits(settable)
    limit = Limit(5, 60.0, 4, 2, strict=strict)
    second = 1_000_000
    schedule = Schedule(
        5, 60 * second, 4, normal_burst=2, strict=strict, keep_tickets=True, now=1000 * second
    )
    waiting: dict[int, Ticket] = {}
    now = 1000
    for _ in range(150):
        now += rng.choice([0, 0, 1, 5, 12, 40])
        with settable.begin() as conn:
            conn.execute(text("UPDATE clock.reading SET seconds = :now"), {"now": now})
        due = [n for n, t in waiting.items() if t.slot <= now * second or rng.random() < 0.3]
        for number in due:
            confirmed, ticket = limits.confirm("v", number), waiting.pop(number)
            assert confirmed.granted == ticket.granted
            if ticket.granted:
                assert round(confirmed.wait * second) == max(0, ticket.slot - now * second)
                if confirmed.wait:
                    waiting[number] = ticket
        n, priority = rng.choice([1, 1, 1, 2, 3]), rng.choice(list(Priority))
        timeout = rng.choice([None, None, 0.0, 30.0])
        expected = schedule.reserve(
            n, now * second, None if timeout is None else round(timeout * second), priority
        )
        assert expected is not None
        reserved = limits.reserve("v", limit, n, priority, timeout)
        assert reserved.granted == expected.granted
        assert round(reserved.wait * second) == expected.slot - now * second
        if reserved.ticket is not None:
            waiting[reserved.ticket] = expected


def test_without_its_store_a_limiter_is_degraded_to_its_local_limit() -> None:
    unreachable = Database("postgresql://nobody@127.0.0.1:1/none", pool_size=1)
    limiter = RateLimiter("alone", 5, 60, 5, strict=True, shared=SharedLimits(unreachable))
    assert [limiter.allow_request() for _ in range(7)] == [True] * 5 + [False] * 2
    assert limiter.status().as_dict()["shared"] == "degraded"


def test_a_shared_limiter_rejects_with_the_wait(db: Database) -> None:
    limiter = RateLimiter("named", 5, 60, 5, strict=True, shared=SharedLimits(db))
    for _ in range(5):
        limiter.acquire(timeout=0)
    with pytest.raises(RateLimited) as raised:
        limiter.acquire(timeout=0)
    assert raised.value.retry_after is not None
    assert 59 < raised.value.retry_after <= 60
    assert limiter.status().as_dict()["shared"] == "ok"


def test_statuses_and_transitions_are_published_in_order(db: Database) -> None:
    manager = manager_of(db, "w1")
    breaker = manager.register_circuit_breaker(NAME, minimum_calls=2, window_size=2)
    until(lambda: state(db, "w1") == "closed")
    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            breaker.execute(fail)
    until(lambda: state(db, "w1") == "open")
    breaker.reset()
    until(lambda: state(db, "w1") == "closed")
    manager.close()
    changes = [(t.from_state, t.to_state) for t in reversed(reader(db).transitions())]
    assert changes == [("closed", "open"), ("open", "closed")]
    pattern = published(db, "w1")
    assert pattern is not None
    fields = {"name", "state", "failure_count", "success_count", "failure_rate", "opened_at"}
    assert fields <= set(pattern.status)


def test_an_old_row_is_stale(db: Database) -> None:
    manager = manager_of(db, "w1")
    manager.register_circuit_breaker(NAME)
    until(lambda: published(db, "w1") is not None)
    manager.close()
    pattern = published(db, "w1")
    assert pattern is not None
    assert not pattern.stale
    with db.begin() as conn:
        conn.execute(text("UPDATE resilience_state SET updated_at = now() - interval '16 s'"))
    pattern = published(db, "w1")
    assert pattern is not None
    assert pattern.stale
    assert pattern.age_seconds > 15


def test_an_override_reaches_every_worker_and_survives_restarts(db: Database) -> None:
    first, second = manager_of(db, "w1"), manager_of(db, "w2")
    breakers = [m.register_circuit_breaker(NAME) for m in (first, second)]
    until(lambda: state(db, "w2") == "closed")
    commands = Commands(db)
    commands.override_breaker(NAME, "force_open", actor="test", reason="vendor maintenance")
    until(lambda: all(b.status().state == "open" for b in breakers), seconds=2.0)
    first.close()
    second.close()
    restarted = manager_of(db, "w3")
    breaker = restarted.register_circuit_breaker(NAME)
    until(lambda: breaker.status().state == "open", seconds=2.0)
    commands.override_breaker(NAME, "reset", actor="test")
    until(lambda: breaker.status().state == "closed", seconds=2.0)
    restarted.close()
    with db.begin() as conn:
        audited = conn.execute(
            text("SELECT action, target, reason FROM operator_actions ORDER BY id")
        ).all()
    assert [tuple(row) for row in audited] == [
        ("breaker_force_open", NAME, "vendor maintenance"),
        ("breaker_reset", NAME, None),
    ]


def test_a_limiters_pause_is_shown_and_ended_in_every_worker(db: Database) -> None:
    commands = Commands(db)
    manager = manager_of(db, "w")
    limiter = manager.register_rate_limiter(NAME, 5, 60, 5)
    limiter.pause(3000)
    until(lambda: reader(db).night().limiters, "the pause is published")
    night = reader(db).night()
    (issue,) = [one for one in health.assess(night).issues if "enrichment limiter" in one]
    assert f"'enrichment limiter {NAME} reset'" in issue
    with pytest.raises(UnknownLimiter, match=NAME):
        commands.reset_limiter("nasdaq_api", actor="test")
    commands.reset_limiter(NAME, actor="test", reason="the vendor is back")
    until(limiter.allow_request, "the pause has ended")
    assert limiter.status().paused_until is None
    manager.close()


def test_an_invalid_override_lists_what_is_allowed(db: Database) -> None:
    commands = Commands(db)
    with pytest.raises(InvalidRequest, match="no worker has run"):
        commands.override_breaker("nasdaq_api", "reset", actor="test")
    with pytest.raises(InvalidRequest, match="force_open, disable, reset"):
        commands.override_breaker(NAME, "explode", actor="test")


def test_a_publisher_without_a_database_does_not_affect_calls() -> None:
    unreachable = Database("postgresql://nobody@127.0.0.1:1/none", pool_size=1)
    manager = manager_of(unreachable, "w1")
    breaker = manager.register_circuit_breaker(NAME)
    assert breaker.execute(len, "abc") == 3
    manager.close()
