"""What many ask for is read once; what was changed here is read again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.recent import Recent


class Source:
    """Counts how often it is read; may be told to fail, or to wait."""

    def __init__(self) -> None:
        self.reads = 0
        self.fails = False
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self) -> int:
        self.reads += 1
        assert self.gate.wait(10)
        if self.fails:
            raise RuntimeError("no database")
        return self.reads


def test_a_reading_is_shared_until_it_is_too_old() -> None:
    now = [100.0]
    source = Source()
    read = Recent(1.0, lambda: now[0]).of(source)
    assert [read(), read()] == [1, 1]
    now[0] = 100.999
    assert read() == 1
    now[0] = 101.0
    assert read() == 2


def test_what_was_changed_here_is_read_again() -> None:
    recent = Recent(1.0, lambda: 0.0)
    first, second = recent.of(Source()), recent.of(Source())
    assert [first(), second()] == [1, 1]
    recent.forget()
    assert [first(), second(), first()] == [2, 2, 2]


def test_without_a_time_everybody_reads() -> None:
    read = Recent(0).of(Source())
    assert [read(), read()] == [1, 2]


def test_many_at_once_wait_for_one() -> None:
    source = Source()
    source.gate.clear()
    read = Recent(1.0, lambda: 0.0).of(source)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(read) for _ in range(8)]
        source.gate.set()
        assert [answer.result(10) for answer in asked] == [1] * 8


def test_a_failure_is_nobody_elses() -> None:
    source = Source()
    source.fails = True
    read = Recent(1.0, lambda: 0.0).of(source)
    with pytest.raises(RuntimeError):
        read()
    source.fails = False
    assert read() == 2
