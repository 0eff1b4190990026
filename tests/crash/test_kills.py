"""A worker killed outright at every step of its work: what it left undone is done once by the next.

A seed decides everything: where and how often workers are killed, at which of their items, with how
many threads, symbols and timeframes, and whether the next worker is there before the last kill.
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
    """What a seed decides. The first worker dies at `step`; where later ones do is drawn anew."""

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


def test_whatever_is_killed_the_effect_is_that_of_one_run(
    harness: CrashHarness, undisturbed: SeriesFingerprints, history: History
) -> None:
    job = harness.trigger(history.symbols, ",".join(history.timeframes))
    draw = random.Random(-1 - history.seed)
    for number in range(1, history.kills + 1):
        doomed = _start_doomed(harness, history.step if number == 1 else None, draw)
        doomed.wait_until_stopped()
        if history.at_once and number == history.kills:
            _start_rescuer(harness)
        doomed.kill()
    killed, held = harness.database_time(), harness.owned_items("doomed")
    if not history.at_once:
        _start_rescuer(harness)
    harness.until_closed(job)
    expected = {
        key: value
        for key, value in undisturbed.items()
        if key[0] in history.symbols and key[1] in history.timeframes
    }
    assert_exactly_once(harness, job, expected)
    _assert_recovered_in_time(harness, killed, held)


def _start_doomed(harness: CrashHarness, step: str | None, draw: random.Random) -> StartedWorker:
    """A worker that will stop at a point that it is bound to get to."""
    left = len(harness.unfinished_symbols())
    step = (step or draw.choice(STEPS)) if left else "closing"
    item = 1 if step == "closing" else draw.randint(1, left)
    return harness.start("doomed", threads=draw.randint(1, 3), step=step, item=item)


def _start_rescuer(harness: CrashHarness) -> StartedWorker:
    rescuer = harness.start("rescuer", threads=2)
    until(
        lambda: harness.rows("SELECT 1 FROM workers WHERE worker_id LIKE 'rescuer%'"),
        "the rescuer registers",
    )
    return rescuer


def _assert_recovered_in_time(
    harness: CrashHarness, killed: datetime, held: dict[str, int]
) -> None:
    """What the dead worker held was claimed again, and the job closed, soon after the leases ended.

    All moments are the database's. The wait counts from the kill, or from the moment when there is
    somebody to notice it.
    """
    ((there,),) = harness.rows(
        "SELECT greatest(:killed, started_at) FROM workers WHERE worker_id LIKE 'rescuer%'",
        killed=killed,
    )
    longest = timedelta(seconds=LEASE + HEARTBEAT + GRACE_SECONDS)
    for symbol, fence in held.items():
        ((again,),) = harness.rows(
            "SELECT min(at) FROM item_history"
            " WHERE symbol = :symbol AND status = 'in_progress' AND fence > :fence",
            symbol=symbol,
            fence=fence,
        )
        assert again - there <= longest
    if not held:
        ((closed,),) = harness.rows("SELECT max(at) FROM job_history WHERE state = 'completed'")
        assert closed - there <= longest
