"""What many ask for is read once; what was changed here is read again."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from api.response_cache import ResponseCache


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
    read = ResponseCache(1.0, lambda: now[0]).cached(source)
    assert [read(), read()] == [1, 1]
    now[0] = 100.999
    assert read() == 1
    now[0] = 102.0
    assert read() == 2


def test_an_ageing_reading_is_given_while_it_is_renewed() -> None:
    now = [100.0]
    source = Source()
    read = ResponseCache(1.0, lambda: now[0]).cached(source)
    assert read() == 1
    source.gate.clear()
    now[0] = 101.0
    assert [read() for _ in range(8)] == [1] * 8
    source.gate.set()
    now[0] = 102.0  # the first is too old now: its successor is awaited, not read once more
    assert read() == 2


def test_a_change_is_seen_though_a_renewal_began_before_it() -> None:
    now = [100.0]
    source = Source()
    recent = ResponseCache(1.0, lambda: now[0])
    read = recent.cached(source)
    assert read() == 1
    source.gate.clear()
    now[0] = 101.0
    assert read() == 1
    with ThreadPoolExecutor(1) as pool:
        forgotten = pool.submit(recent.invalidate)
        source.gate.set()
        forgotten.result(10)
    assert read() == 3


def test_a_renewal_that_failed_is_made_up_for(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    source = Source()
    read = ResponseCache(1.0, lambda: now[0]).cached(source)
    assert read() == 1
    source.fails = True
    now[0] = 101.0
    assert read() == 1
    now[0] = 102.0
    with pytest.raises(RuntimeError):
        read()
    assert "not renewed" in caplog.text
    source.fails = False
    assert read() == 4


def test_what_was_changed_here_is_read_again() -> None:
    recent = ResponseCache(1.0, lambda: 0.0)
    first, second = recent.cached(Source()), recent.cached(Source())
    assert [first(), second()] == [1, 1]
    recent.invalidate()
    assert [first(), second(), first()] == [2, 2, 2]


def test_without_a_time_everybody_reads() -> None:
    read = ResponseCache(0).cached(Source())
    assert [read(), read()] == [1, 2]


def test_many_at_once_wait_for_one() -> None:
    source = Source()
    source.gate.clear()
    read = ResponseCache(1.0, lambda: 0.0).cached(source)
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(read) for _ in range(8)]
        source.gate.set()
        assert [answer.result(10) for answer in asked] == [1] * 8


def test_a_failure_is_nobody_elses() -> None:
    source = Source()
    source.fails = True
    read = ResponseCache(1.0, lambda: 0.0).cached(source)
    with pytest.raises(RuntimeError):
        read()
    source.fails = False
    assert read() == 2
