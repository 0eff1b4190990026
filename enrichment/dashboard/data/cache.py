"""Reads and figures that all sessions share, cached, with the last good value during an outage."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import streamlit as st

from enrichment.domain.errors import DatabaseUnavailable

P = ParamSpec("P")
T = TypeVar("T")
CACHED_SECONDS = 2
MAX_ENTRIES = 64
_IS_LAST_GOOD = "database-unavailable"


def cached_read(read: Callable[P, T]) -> Callable[P, T]:
    """Cache a read for all sessions. While the database is unavailable, return its last value.

    Args:
        read: A function of hashable arguments; callers do not change what it returns.

    Raises:
        DatabaseUnavailable: By the decorated function, if there is no last value.
    """
    cached = st.cache_data(ttl=CACHED_SECONDS, show_spinner=False)(read)
    name = (read.__code__.co_filename, read.__qualname__)

    @wraps(read)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        key = (*name, *args, *sorted(kwargs.items()))
        try:
            value = cached(*args, **kwargs)
        except DatabaseUnavailable:
            if key not in _last_good():
                raise
            st.session_state[_IS_LAST_GOOD] = True
            return cast("T", _last_good()[key])
        st.session_state[_IS_LAST_GOOD] = False
        _keep(key, value)
        return value

    return wrapper


def cached_figure(build: Callable[P, T]) -> Callable[P, T]:
    """Cache a figure for all sessions, since building it costs more than reading its data.

    Args:
        build: Arguments whose names begin with _ are not part of the cache's key: the others name
            the data's version and the time zone. Callers do not change what it returns.
    """
    cached = st.cache_resource(ttl=10 * CACHED_SECONDS, max_entries=MAX_ENTRIES, show_spinner=False)
    return cast("Callable[P, T]", cached(build))


def is_last_good() -> bool:
    """Whether this session's newest read returned the last value before an outage."""
    return bool(st.session_state.get(_IS_LAST_GOOD))


@st.cache_resource(show_spinner=False)
def _last_good() -> OrderedDict[Any, Any]:
    return OrderedDict()


def _keep(key: Any, value: Any) -> None:
    entries = _last_good()
    entries[key] = value
    entries.move_to_end(key)
    while len(entries) > MAX_ENTRIES:
        entries.popitem(last=False)
