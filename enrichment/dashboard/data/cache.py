"""Reads and figures that all sessions share, with the last good value during an outage.

Every two seconds at most, one of the sessions checks whether a table has changed. A value is read
again after a change, and every ten seconds in any case.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast
from uuid import uuid4

import streamlit as st

from enrichment.dashboard.services import services
from enrichment.domain.errors import DatabaseUnavailable
from enrichment.warehouse.read_models.changes import Changes

P = ParamSpec("P")
T = TypeVar("T")
CHECK_SECONDS = 2.0
ANSWER_SECONDS = 5.0
REREAD_SECONDS = 10.0
FIGURE_SECONDS = 600
MAX_ENTRIES = 256
MAX_FIGURES = 64
_IS_LAST_GOOD = "database-unavailable"


@dataclass
class _Entry:
    lock: threading.Lock = field(default_factory=threading.Lock)
    value: Any = None
    version: object = None  # None until it has been read
    read_at: float = 0.0


class SharedReads:
    """The newest value of each read.

    Args:
        check: Reads whether a table has changed.
        clock: Seconds, monotonic.
        patience: Seconds within which a database that is available answers the check.
    """

    def __init__(
        self,
        check: Callable[[], Changes],
        clock: Callable[[], float] = time.monotonic,
        patience: float = ANSWER_SECONDS,
    ) -> None:
        self._check, self._clock, self._patience = check, clock, patience
        self._answer: Future[Changes] | None = None  # of the check that has not answered yet
        self._entries: OrderedDict[object, _Entry] = OrderedDict()
        self._lock, self._checking = threading.Lock(), threading.Lock()
        self._checked_at = -CHECK_SECONDS
        self._unavailable: DatabaseUnavailable | None = None
        self.changes = Changes(None, 0)  # as of the newest check that succeeded

    def read(
        self, key: object, read: Callable[[], T], *, epoch: str = "", live: bool = False
    ) -> tuple[T, bool]:
        """The value, and whether it is the last one before an outage.

        Args:
            key: Of the value.
            read: Reads it.
            epoch: Values of other epochs are read again.
            live: Whether to read again after every check.

        Raises:
            DatabaseUnavailable: If there is no last value.
        """
        entry = self._entry(key)
        with entry.lock:
            try:
                version = (epoch, *self._version(live=live))
                age = self._clock() - entry.read_at
                if entry.version != version or age >= REREAD_SECONDS:
                    entry.value, entry.version, entry.read_at = read(), version, self._clock()
            except DatabaseUnavailable:
                if entry.version is None:
                    raise
                return entry.value, True
            return entry.value, False

    def _entry(self, key: object) -> _Entry:
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            while len(self._entries) > MAX_ENTRIES:
                self._entries.popitem(last=False)
            return entry

    def _version(self, *, live: bool) -> tuple[object, ...]:
        with self._checking:
            if self._clock() - self._checked_at >= CHECK_SECONDS:
                self._unavailable = None
                try:
                    self.changes = self._checked()
                except DatabaseUnavailable as exc:
                    self._unavailable = exc
                self._checked_at = self._clock()
            if self._unavailable is not None:
                raise DatabaseUnavailable(str(self._unavailable))
            return (self.changes.count, self._checked_at if live else None)

    def _checked(self) -> Changes:
        """What the check reads. In another thread, since a server that hangs never answers."""
        answer, patience = self._answer, 0.0
        if answer is None:
            self._answer = answer = Future()
            patience = self._patience
            threading.Thread(target=_fulfil, args=(answer, self._check), daemon=True).start()
        try:
            changes = answer.result(patience)
        except TimeoutError:
            raise DatabaseUnavailable("the database does not answer") from None
        except BaseException:
            self._answer = None
            raise
        self._answer = None
        return changes


def _fulfil(answer: Future[T], read: Callable[[], T]) -> None:
    try:
        answer.set_result(read())
    except BaseException as exc:
        answer.set_exception(exc)


@st.cache_resource(show_spinner=False)
def _shared() -> SharedReads:
    return SharedReads(lambda: services().reader.changes())


@st.cache_data(show_spinner=False)
def _epoch() -> str:
    """Another one after `st.cache_data.clear()`, so that a session sees its changes at once."""
    return uuid4().hex


def cached_read(read: Callable[P, T]) -> Callable[P, T]:
    """Share the values of a read, until a table has changed.

    Args:
        read: A function of hashable arguments; callers do not change what it returns.

    Raises:
        DatabaseUnavailable: By the decorated function, if there is no last value.
    """
    return _shared_read(read, live=False)


def live_read(read: Callable[P, T]) -> Callable[P, T]:
    """As `cached_read`, for reads that take little time of what changes all the time."""
    return _shared_read(read, live=True)


def _shared_read(read: Callable[P, T], *, live: bool) -> Callable[P, T]:
    name = (read.__code__.co_filename, read.__qualname__)

    @wraps(read)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        key = (*name, *args, *sorted(kwargs.items()))
        value, last_good = _shared().read(
            key, lambda: read(*args, **kwargs), epoch=_epoch(), live=live
        )
        if last_good:
            st.session_state[_IS_LAST_GOOD] = True
        return value

    return wrapper


def cached_figure(build: Callable[P, T]) -> Callable[P, T]:
    """Cache a figure for all sessions, since building it costs more than reading its data.

    Args:
        build: Arguments whose names begin with _ are not part of the cache's key: the others name
            the data's version and the time zone. Callers do not change what it returns.
    """
    cached = st.cache_resource(ttl=FIGURE_SECONDS, max_entries=MAX_FIGURES, show_spinner=False)
    return cast("Callable[P, T]", cached(build))


def begin_refresh() -> None:
    st.session_state[_IS_LAST_GOOD] = False


def is_last_good() -> bool:
    """Whether a read of this session's refresh returned the last value before an outage."""
    return bool(st.session_state.get(_IS_LAST_GOOD))


def refreshed_at() -> datetime | None:
    """When the shown figures were current: at the newest check that succeeded."""
    return _shared().changes.at
