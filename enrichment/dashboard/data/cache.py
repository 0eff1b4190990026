"""Reading for all sessions at once: cached for 2 s, and kept for when the database is away."""

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
MAX_KEPT = 64
_KEPT = "database-away"


def cached_read(read: Callable[P, T]) -> Callable[P, T]:
    """`read` for all sessions together. While the database is away, it gives what it gave last;
    DatabaseUnavailable where that is nothing. Its arguments are hashable, its values not changed.
    """
    cached = st.cache_data(ttl=CACHED_SECONDS, show_spinner=False)(read)
    name = (read.__code__.co_filename, read.__qualname__)

    @wraps(read)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        key = (*name, *args, *sorted(kwargs.items()))
        try:
            found = cached(*args, **kwargs)
        except DatabaseUnavailable:
            if key not in _last_good():
                raise
            st.session_state[_KEPT] = True
            return cast("T", _last_good()[key])
        st.session_state[_KEPT] = False
        _remember(key, found)
        return found

    return reading


def cached_figure(draw: Callable[P, T]) -> Callable[P, T]:
    """`draw` for all sessions together, as drawing costs more than reading. What it gives is not to
    be changed. Arguments that begin with _ do not tell calls apart: when the data was read does,
    and the zone of its times.
    """
    cached = st.cache_resource(ttl=10 * CACHED_SECONDS, max_entries=MAX_KEPT, show_spinner=False)
    return cast("Callable[P, T]", cached(draw))


def is_last_good() -> bool:
    """Whether what was read last is what was kept."""
    return bool(st.session_state.get(_KEPT))


@st.cache_resource(show_spinner=False)
def _last_good() -> OrderedDict[Any, Any]:
    return OrderedDict()


def _remember(key: Any, value: Any) -> None:
    last = _last_good()
    last[key] = value
    last.move_to_end(key)
    while len(last) > MAX_KEPT:
        last.popitem(last=False)
