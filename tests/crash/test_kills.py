"""Workers killed with SIGKILL at every step of their work: the next worker finishes, exactly once.

A seed decides where and how often workers are killed, at which of their items, with how many
threads, symbols and timeframes, and whether the next worker starts before the last kill.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from tests.helpers.crash_harness import (
    HEARTBEAT,
    LEASE,
    SYMBOLS,
    TIMEFRAMES,
    CrashHarness,
    SeriesFingerprints,
    StartedWorker,
    assert_exactly_once,
    until,
)
from tests.helpers.crash_worker import STEPS

GRACE_SECONDS = 2.0


@dataclass(frozen=True)
class History:
    """What a seed decides. The first worker is killed at `step`, later ones at random steps."""

    seed: int
    step: str
    symbols: tuple[str, ...]
    timeframes: tuple[str, ...]
    kills: int
    at_once: bool

    @classmethod
    def of(cls, seed: int) -> History:
        draw = random.Random(seed)
        return cls(
            seed,
            STEPS[seed % len(STEPS)],
            tuple(sorted(draw.sample(SYMBOLS, draw.randint(2, len(SYMBOLS))))),
            tuple(t for t in TIMEFRAMES if draw.random() < 0.6) or ("1d",),
            kills=draw.randint(1, 3),
            at_once=draw.random() < 0.5,
        )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "history" in metafunc.fixturenames:
        histories = [History.of(seed) for seed in range(metafunc.config.getoption("crash_seeds"))]
        metafunc.parametrize("history", histories, ids=lambda h: f"{h.step}-{h.seed}")


def test_the_effect_of_killed_workers_is_that_of_one_run(
    harness: CrashHarness, undisturbed: SeriesFingerprints, history: History
) -> None:
    job = harness.trigger(history.symbols, ",".join(history.timeframes))
    draw = random.Random(-1 - history.seed)
    for number in range(1, history.kills + 1):
        worker = _start_worker_to_kill(harness, history.step if number == 1 else None, draw)
        worker.wait_until_stopped()
        if history.at_once and number == history.kills:
            _start_replacement(harness)
        worker.kill()
    killed_at, owned = harness.database_time(), harness.owned_items("killed")
    if not history.at_once:
        _start_replacement(harness)
    harness.until_closed(job)
    expected = {
        key: value
        for key, value in undisturbed.items()
        if key[0] in history.symbols and key[1] in history.timeframes
    }
    assert_exactly_once(harness, job, expected)
    _assert_recovered_in_time(harness, killed_at, owned)


def _start_worker_to_kill(
    harness: CrashHarness, step: str | None, draw: random.Random
) -> StartedWorker:
    """A worker that stops at a step which it is certain to reach."""
    left = len(harness.unfinished_symbols())
    step = (step or draw.choice(STEPS)) if left else "closing"
    item = 1 if step == "closing" else draw.randint(1, left)
    return harness.start("killed", threads=draw.randint(1, 3), step=step, item=item)


def _start_replacement(harness: CrashHarness) -> StartedWorker:
    replacement = harness.start("replacement", threads=2)
    until(
        lambda: harness.rows("SELECT 1 FROM workers WHERE worker_id LIKE 'replacement%'"),
        "the replacement registers",
    )
    return replacement


def _assert_recovered_in_time(
    harness: CrashHarness, killed_at: datetime, owned: dict[str, int]
) -> None:
    """What the killed worker owned was claimed again, and the job closed, soon after its lease.

    All times are the database's. The wait counts from the kill or, if that is later, from the start
    of the worker that takes over.
    """
    ((there,),) = harness.rows(
        "SELECT greatest(:killed_at, started_at) FROM workers WHERE worker_id LIKE 'replacement%'",
        killed_at=killed_at,
    )
    longest = timedelta(seconds=LEASE + HEARTBEAT + GRACE_SECONDS)
    for symbol, fence in owned.items():
        ((again,),) = harness.rows(
            "SELECT min(at) FROM item_history"
            " WHERE symbol = :symbol AND status = 'in_progress' AND fence > :fence",
            symbol=symbol,
            fence=fence,
        )
        assert again - there <= longest
    if not owned:
        ((closed,),) = harness.rows("SELECT max(at) FROM job_history WHERE state = 'completed'")
        assert closed - there <= longest
