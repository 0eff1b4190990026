"""When values that all sessions share are read again."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from enrichment.dashboard.data.cache import CHECK_SECONDS, REREAD_SECONDS, SharedReads
from enrichment.domain.errors import DatabaseUnavailable
from enrichment.warehouse.read_models.changes import Changes


@dataclass
class FakeDatabase:
    """Counts checks and reads; `now` is the clock."""

    now: float = 0.0
    rows: int = 0
    checks: int = 0
    reads: int = 0
    away: bool = False
    at: datetime = field(default_factory=lambda: datetime(2024, 1, 1, tzinfo=UTC))

    def check(self) -> Changes:
        self.checks += 1
        if self.away:
            raise DatabaseUnavailable("away")
        return Changes(self.at, self.rows)

    def read(self) -> int:
        self.reads += 1
        return self.rows


@pytest.fixture
def db() -> FakeDatabase:
    return FakeDatabase()


@pytest.fixture
def shared(db: FakeDatabase) -> SharedReads:
    return SharedReads(db.check, clock=lambda: db.now)


def test_eight_sessions_share_checks_and_reads(db: FakeDatabase, shared: SharedReads) -> None:
    for _ in range(4):  # refreshes of every session, within one interval
        for _ in range(8):
            shared.read("rows", db.read)
        db.now += CHECK_SECONDS / 4
    assert (db.checks, db.reads) == (1, 1)


def test_nothing_is_read_until_a_table_has_changed(db: FakeDatabase, shared: SharedReads) -> None:
    shared.read("rows", db.read)
    for _ in range(int(REREAD_SECONDS / CHECK_SECONDS) - 1):
        db.now += CHECK_SECONDS
        shared.read("rows", db.read)
    assert db.reads == 1
    db.rows = 1
    assert shared.read("rows", db.read) == (0, False)
    db.now += CHECK_SECONDS
    assert shared.read("rows", db.read) == (1, False)


def test_a_value_is_read_again_after_a_while(db: FakeDatabase, shared: SharedReads) -> None:
    shared.read("rows", db.read)
    db.now += REREAD_SECONDS
    shared.read("rows", db.read)
    assert db.reads == 2


def test_a_live_value_is_read_after_every_check(db: FakeDatabase, shared: SharedReads) -> None:
    for _ in range(3):
        shared.read("rows", db.read, live=True)
        shared.read("rows", db.read, live=True)
        db.now += CHECK_SECONDS
    assert db.reads == 3


def test_a_command_makes_all_values_be_read_again(db: FakeDatabase, shared: SharedReads) -> None:
    shared.read("rows", db.read, epoch="a")
    shared.read("rows", db.read, epoch="b")
    assert db.reads == 2


def test_during_an_outage_the_last_value_is_returned(db: FakeDatabase, shared: SharedReads) -> None:
    shared.read("rows", db.read)
    db.away, db.now = True, CHECK_SECONDS
    assert shared.read("rows", db.read) == (0, True)
    assert shared.changes.at == db.at
    with pytest.raises(DatabaseUnavailable, match="away"):
        shared.read("others", db.read)
    assert db.checks == 2
    db.away, db.now = False, 2 * CHECK_SECONDS
    assert shared.read("others", db.read) == (0, False)


def test_a_database_that_hangs_counts_as_away_until_it_answers(db: FakeDatabase) -> None:
    answers = threading.Event()
    answers.set()

    def check() -> Changes:
        answers.wait(30)
        return db.check()

    shared = SharedReads(check, clock=lambda: db.now, patience=0.5)
    assert shared.read("rows", db.read) == (0, False)
    answers.clear()
    for _ in range(3):  # the first of them waits
        db.now += CHECK_SECONDS
        assert shared.read("rows", db.read) == (0, True)
    with pytest.raises(DatabaseUnavailable):
        shared.read("others", db.read)
    assert db.checks == 1  # only one check is under way, however many sessions ask
    db.rows = 7
    answers.set()
    while shared.read("rows", db.read)[1]:
        db.now += CHECK_SECONDS
    assert shared.read("rows", db.read) == (7, False)
